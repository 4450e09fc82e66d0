"""Train, evaluate, log, list, wait: a whole pipeline, with models that are really trained.

Three models learn to read handwritten digits (the data set ships with scikit-learn), each at its own rate.
Each training is a run in PAI: `@task.pai_run`, mapped over the rates, makes its arguments the run's params,
and logs the loss of each epoch as a step. Each evaluation measures the model on data it has not seen, logs
the metrics to the run and sets the label `is_evaluation:true`. Then one task lists the runs, another waits
until all three are evaluated (in the triggerer, if they are not yet), and the last finds all runs of its DAG
run.

Needs a connection `pai_default` and scikit-learn on the workers. Writes to PAI: the experiment `digits`, and
three runs for each DAG run. Models go through the param `artifacts`: with workers on several machines make it
a path that all of them reach, such as `oss://pai_default@my-bucket/models`.
"""

from __future__ import annotations

import pendulum

from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.operators import PaiListRunsOperator
from airflow_provider_pai.sensors import PaiRunSensor

try:
    from airflow.sdk import ObjectStoragePath, dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task
    from airflow.io.path import ObjectStoragePath

RATES = [0.001, 0.01, 0.1]
"""How far each model goes at a step."""
EPOCHS = 8


def digits():
    """Return 1,797 handwritten digits, split into what is learnt from and what is judged by."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, numbers = load_digits(return_X_y=True)
    return train_test_split(images / 16, numbers, test_size=0.4, random_state=7, stratify=numbers)


@dag(
    schedule=None,
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["pai", "example"],
    params={"artifacts": "file:///tmp/pai-models"},
    doc_md=__doc__,
)
def pai_train_and_evaluate() -> None:
    @task.pai_run(experiment="digits", labels={"stage": "training"})
    def train(rate: float, epochs: int, params: dict | None = None, pai_run=None) -> dict:
        """Train one model as one run, log each epoch as a step, and keep the model."""
        import pickle

        from sklearn.linear_model import SGDClassifier
        from sklearn.metrics import log_loss

        images, _, numbers, _ = digits()
        classifier = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=rate, random_state=7)
        for epoch in range(epochs):
            classifier.partial_fit(images, numbers, classes=range(10))
            loss = float(log_loss(numbers, classifier.predict_proba(images)))
            pai_run.log_metrics({"training_loss": loss}, step=epoch)

        path = ObjectStoragePath(params["artifacts"]) / f"{pai_run.run_id}.pickle"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(classifier))
        return {"run_id": pai_run.run_id, "path": str(path)}

    @task
    def evaluate(trained: dict) -> dict:
        """Measure one model on unseen data, log it to the run, and label the run as evaluated."""
        import pickle

        from sklearn.metrics import accuracy_score, log_loss

        classifier = pickle.loads(ObjectStoragePath(trained["path"]).read_bytes())
        _, images, _, numbers = digits()
        metrics = {
            "accuracy": float(accuracy_score(numbers, classifier.predict(images))),
            "log_loss": float(log_loss(numbers, classifier.predict_proba(images))),
        }
        hook = PaiHook()
        hook.log_run_metrics(trained["run_id"], metrics)
        hook.set_run_labels(trained["run_id"], {"is_evaluation": "true"})
        return metrics

    @task
    def report(dag_run=None) -> str:
        """Name the best of the runs that this DAG run has left in PAI."""
        runs = [run.to_dict() for run in PaiHook().find_runs(dag_run)]
        best = max(runs, key=lambda run: run["metrics"]["accuracy"])
        print(
            f"At the rate {best['params']['rate']}, {best['metrics']['accuracy']:.1%} of the digits are read."
        )
        return best["run_id"]

    trained = train.partial(epochs=EPOCHS).expand(rate=RATES)
    run_ids = trained["pai_run_id"]
    listed = PaiListRunsOperator(task_id="list_runs", run_id=run_ids)
    evaluated = PaiRunSensor(
        task_id="wait_for_evaluations",
        run_id=run_ids,
        labels="is_evaluation:true",
        deferrable=True,
        poke_interval=10,
        timeout=600,
    )
    evaluate.expand(trained=trained) >> listed >> evaluated >> report()


pai_train_and_evaluate()
