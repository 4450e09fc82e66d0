"""Every night a challenger: train it, evaluate it, and let it replace the champion only if it is better.

Shows `PaiRunGateOperator` with rules against numbers and against the champion, `PaiPromoteRunOperator` moving
the label `champion:true` to the winner, and `PaiUpdateRunOperator` writing the verdict to the run, where PAI
shows it. A classifier learns to read handwritten digits (the data set ships with scikit-learn), epoch by
epoch; each epoch is a step of the metric `validation_accuracy`. The evaluation measures it on digits it has
not seen and labels the run. The first challenger meets no champion, which `missing_baseline="pass"` allows.

Needs a connection `pai_default` and scikit-learn on the workers. Writes an experiment and a run to PAI. The
param `samples` says from how many digits to learn. Models go through the param `artifacts`: with workers on
several machines make it a path that all of them reach, such as `oss://my_conn@my-bucket/models`.
"""

from __future__ import annotations

import pendulum

from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.operators import PaiPromoteRunOperator, PaiRunGateOperator, PaiUpdateRunOperator
from airflow_provider_pai.sensors import PaiRunSensor

try:
    from airflow.sdk import ObjectStoragePath, dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task
    from airflow.io.path import ObjectStoragePath

EPOCHS = 8
CHOSEN = "{{ ti.xcom_pull('gate').run.run_id }}"


def digits():
    """Return handwritten digits as (images, numbers): to learn from, to validate by, to be judged by."""
    from sklearn.datasets import load_digits
    from sklearn.utils import shuffle

    images, numbers = shuffle(*load_digits(return_X_y=True), random_state=7)
    images = images / 16
    return [(images[part], numbers[part]) for part in (slice(898), slice(898, 1078), slice(1078, None))]


@dag(
    schedule="@daily",
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["pai", "example"],
    params={"samples": 898, "artifacts": "file:///tmp/pai-models"},
    doc_md=__doc__,
)
def pai_champion_challenger() -> None:
    @task
    def make_experiment(dag_run=None) -> str:
        """Make an experiment for this night, or find it where this task ran before."""
        return PaiHook().get_or_create_experiment(f"digits-{dag_run.start_date:%Y%m%dT%H%M%S}")

    @task
    def train(experiment_id: str, params: dict | None = None) -> dict:
        """Train a challenger as one run, log each epoch as a step, and keep the model."""
        import pickle

        from sklearn.linear_model import SGDClassifier

        hook, samples = PaiHook(), int(params["samples"])
        run_id = hook.create_run(
            experiment_id,
            name=f"learnt-from-{samples}",
            labels={"model": "digits"},
            params={"samples": samples, "epochs": EPOCHS},
        )
        (images, numbers), validation, _ = digits()
        classifier = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.1, random_state=7)
        for epoch in range(EPOCHS):
            classifier.partial_fit(images[:samples], numbers[:samples], classes=range(10))
            accuracy = float(classifier.score(*validation))
            hook.log_run_metrics(run_id, {"validation_accuracy": accuracy}, step=epoch)

        path = ObjectStoragePath(params["artifacts"]) / f"{run_id}.pickle"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(classifier))
        return {"run_id": run_id, "path": str(path)}

    @task
    def evaluate(trained: dict) -> dict:
        """Measure the challenger on unseen digits, log that to its run, and label the run as evaluated."""
        import pickle

        from sklearn.metrics import accuracy_score, log_loss

        classifier = pickle.loads(ObjectStoragePath(trained["path"]).read_bytes())
        _, _, (images, numbers) = digits()
        metrics = {
            "accuracy": float(accuracy_score(numbers, classifier.predict(images))),
            "log_loss": float(log_loss(numbers, classifier.predict_proba(images))),
        }
        hook = PaiHook()
        hook.log_run_metrics(trained["run_id"], metrics)
        hook.set_run_labels(trained["run_id"], {"is_evaluation": "true"})
        return metrics

    @task
    def deploy(champion: dict) -> None:
        """Put the new champion into service; yours would call what serves it."""
        print(f"{champion['run_id']} goes into service.")

    experiment_id = make_experiment()
    evaluated = PaiRunSensor(
        task_id="wait_for_evaluation",
        experiment_id=experiment_id,
        labels="is_evaluation:true",
        deferrable=True,
        poke_interval=10,
        timeout=600,
    )
    evaluate(train(experiment_id)) >> evaluated
    gate = PaiRunGateOperator(
        task_id="gate",
        runs=evaluated.output,
        baseline_labels="champion:true,model:digits",
        missing_baseline="pass",
        metrics={
            "accuracy": [">= 0.85", ">= baseline + 0.005"],
            "log_loss": "<= baseline * 1.05",
            "validation_accuracy": "max >= 0.85",
        },
        follow_if_passed=["write_verdict", "promote"],
        follow_if_failed="write_verdict",
    )
    write_verdict = PaiUpdateRunOperator(
        task_id="write_verdict", run_id=CHOSEN, run_params={"verdict": "{{ ti.xcom_pull('gate').reason }}"}
    )
    promote = PaiPromoteRunOperator(
        task_id="promote", run_id=CHOSEN, labels="champion:true", among="model:digits"
    )
    gate >> [write_verdict, promote]
    deploy(promote.output)


pai_champion_challenger()
