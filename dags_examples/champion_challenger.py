"""Every night a challenger: train, evaluate, gate, and register the model if it beats the champion.

Shows `@task.pai_run` with one run for a whole DAG run, `PaiRunSensor` waiting for that run by its id,
`PaiRunGateOperator` with rules against numbers and against the champion, `PaiPromoteRunOperator` moving the
label `champion:true` to the winner, `PaiRegisterModelVersionOperator` making its model a version that a
person approves (`deploy_approved.py` goes on from there), and `PaiUpdateRunOperator` writing the verdict to
the run, where PAI shows it. A classifier learns to read handwritten digits (the data set ships with scikit-
learn), epoch by epoch; each epoch is a step of the metric `validation_accuracy`. The evaluation measures it
on digits it has not seen and labels the run. The first challenger meets no champion, which
`missing_baseline="pass"` allows.

Needs a connection `pai_default` and scikit-learn on the workers. Writes to PAI: the experiment `digits`, a
run for each DAG run, whose params lead back to it, and a version of the model `digits` for each champion. The
param `samples` says from how many digits to learn. Models go through the param `artifacts`: with workers on
several machines make it a path that all of them reach, such as `oss://pai_default@my-bucket/models`. PAI is
told the param `published`, an address of the same place that it accepts: for such a path, that path.
"""

from __future__ import annotations

import pendulum

from airflow_provider_pai.operators import (
    PaiPromoteRunOperator,
    PaiRegisterModelVersionOperator,
    PaiRunGateOperator,
    PaiUpdateRunOperator,
)
from airflow_provider_pai.sensors import PaiRunSensor

try:
    from airflow.sdk import ObjectStoragePath, dag, task

    REGISTERED = []
except ImportError:  # Airflow 2
    from airflow.datasets import Dataset
    from airflow.decorators import dag, task
    from airflow.io.path import ObjectStoragePath

    REGISTERED = [Dataset("pai_digits_registered")]  # starts the DAG of deploy_approved.py

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
    params={
        "samples": 898,
        "artifacts": "file:///tmp/pai-models",
        "published": "https://models.example.com",
    },
    doc_md=__doc__,
)
def pai_champion_challenger() -> None:
    # Both write to one run of PAI's, that of the DAG run; a retry finds it again.
    of_tonight = {"experiment": "digits", "scope": "dag_run"}

    @task.pai_run(
        **of_tonight,
        name="learnt-from-{{ params.samples }}",
        labels={"model": "digits"},
        run_params={"samples": "{{ params.samples }}", "epochs": EPOCHS},
    )
    def train(params: dict | None = None, pai_run=None) -> str:
        """Train a challenger, log each epoch as a step, and keep the model."""
        import pickle

        from sklearn.linear_model import SGDClassifier

        samples = int(params["samples"])
        (images, numbers), validation, _ = digits()
        classifier = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.1, random_state=7)
        for epoch in range(EPOCHS):
            classifier.partial_fit(images[:samples], numbers[:samples], classes=range(10))
            accuracy = float(classifier.score(*validation))
            pai_run.log_metrics({"validation_accuracy": accuracy}, step=epoch)

        path = ObjectStoragePath(params["artifacts"]) / f"{pai_run.run_id}.pickle"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(classifier))
        return str(path)

    @task.pai_run(**of_tonight)
    def evaluate(model: str, pai_run=None) -> None:
        """Measure the challenger on unseen digits, and label the run as evaluated."""
        import pickle

        from sklearn.metrics import accuracy_score, log_loss

        classifier = pickle.loads(ObjectStoragePath(model).read_bytes())
        _, _, (images, numbers) = digits()
        pai_run.log_metrics(
            {
                "accuracy": float(accuracy_score(numbers, classifier.predict(images))),
                "log_loss": float(log_loss(numbers, classifier.predict_proba(images))),
            }
        )
        pai_run.set_labels({"is_evaluation": "true"})

    trained = train()
    evaluated = PaiRunSensor(
        task_id="wait_for_evaluation",
        run_id=trained["pai_run_id"],
        labels="is_evaluation:true",
        deferrable=True,
        poke_interval=10,
        timeout=600,
    )
    evaluate(trained) >> evaluated
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
        follow_if_passed=["write_verdict", "promote", "register"],
        follow_if_failed="write_verdict",
    )
    write_verdict = PaiUpdateRunOperator(
        task_id="write_verdict", run_id=CHOSEN, run_params={"verdict": "{{ ti.xcom_pull('gate').reason }}"}
    )
    promote = PaiPromoteRunOperator(
        task_id="promote", run_id=CHOSEN, labels="champion:true", among="model:digits"
    )
    register = PaiRegisterModelVersionOperator(
        task_id="register",
        model_name="digits",
        uri=f"{{{{ params.published }}}}/{CHOSEN}.pickle",
        verdict=gate.output,
        outlets=REGISTERED,
    )
    gate >> [write_verdict, promote]
    promote >> register


pai_champion_challenger()
