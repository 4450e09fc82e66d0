"""Train, evaluate, log, list, wait: a whole pipeline, with models that are really trained.

Three scikit-learn models learn to read handwritten digits (the data set ships with scikit-learn). Each
training is a run in PAI with its params. Each evaluation measures the model on data it has not seen, logs
the metrics to its run and sets the label `is_evaluation:true`. Then one task lists the runs of the experiment
and another waits until all three are evaluated: in the triggerer, if they are not yet.

Needs a connection `pai_default` and scikit-learn on the workers. Writes an experiment and three runs to
PAI. Models go through the param `artifacts`: with workers on several machines make it a path that all of
them reach, such as `oss://my_conn@my-bucket/models`.
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

MODELS = [
    {"name": "nearest-neighbours", "class": "neighbors.KNeighborsClassifier", "params": {"n_neighbors": 3}},
    {
        "name": "decision-tree",
        "class": "tree.DecisionTreeClassifier",
        "params": {"max_depth": 8, "random_state": 7},
    },
    {"name": "naive-bayes", "class": "naive_bayes.GaussianNB", "params": {"var_smoothing": 1e-2}},
]


def digits():
    """Return 1,797 handwritten digits, split into what is learnt from and what is judged by."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, numbers = load_digits(return_X_y=True)
    return train_test_split(images, numbers, test_size=0.4, random_state=7, stratify=numbers)


@dag(
    schedule=None,
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["pai", "example"],
    params={"artifacts": "file:///tmp/pai-models"},
    doc_md=__doc__,
)
def pai_train_and_evaluate() -> None:
    @task
    def make_experiment(dag_run=None) -> str:
        """Make an experiment for this DAG run, or find it where this task ran before."""
        return PaiHook().get_or_create_experiment(f"digits-{dag_run.start_date:%Y%m%dT%H%M%S}")

    @task(map_index_template="{{ model['name'] }}")
    def train(model: dict, experiment_id: str, params: dict | None = None) -> dict:
        """Train one model as one run, and keep it where the evaluation finds it."""
        import pickle
        from importlib import import_module

        module, kind = model["class"].split(".")
        classifier = getattr(import_module(f"sklearn.{module}"), kind)(**model["params"])
        images, _, numbers, _ = digits()
        classifier.fit(images, numbers)

        run_id = PaiHook().create_run(
            experiment_id, name=model["name"], labels={"stage": "training"}, params=model["params"]
        )
        path = ObjectStoragePath(params["artifacts"]) / f"{run_id}.pickle"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(classifier))
        return {"run_id": run_id, "path": str(path)}

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
    def report(runs: list[dict]) -> str:
        """Name the best of the evaluated runs."""
        best = max(runs, key=lambda run: run["metrics"]["accuracy"])
        print(f"{best['name']} reads {best['metrics']['accuracy']:.1%} of the digits.")
        return best["run_id"]

    experiment_id = make_experiment()
    trained = train.partial(experiment_id=experiment_id).expand(model=MODELS)
    listed = PaiListRunsOperator(task_id="list_runs", experiment_id=experiment_id, labels="stage:training")
    evaluated = PaiRunSensor(
        task_id="wait_for_evaluations",
        experiment_id=experiment_id,
        labels="is_evaluation:true",
        min_runs=len(MODELS),
        deferrable=True,
        poke_interval=10,
        timeout=600,
    )
    evaluate.expand(trained=trained) >> listed >> evaluated
    report(evaluated.output)


pai_train_and_evaluate()
