"""Wait until somebody's evaluation is there.

Shows `PaiRunSensor` waiting for one run that was created on the day of this DAG run and carries the label
`is_evaluation:true`, however late the label comes. That day is the one on which the schedule is due, or on
which somebody starts the DAG by hand. It ends at the next midnight, so that one evaluation does not end the
waits of two days. The task waits in the triggerer (`deferrable=True`), where all waits for the same label
share one poll, fails after a day, and hands the runs it found to the next task.

Needs a connection `pai_default`. Nothing is written to PAI.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum

from airflow_provider_pai.sensors import PaiRunSensor
from airflow_provider_pai.windows import midnight

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task


@dag(
    schedule="@daily",
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["pai", "example"],
    doc_md=__doc__,
)
def pai_wait_for_evaluation() -> None:
    evaluated = PaiRunSensor(
        task_id="wait_for_evaluation",
        labels={"is_evaluation": "true"},
        created_after=midnight(),
        created_before=midnight(+1),
        deferrable=True,
        poke_interval=60,
        timeout=timedelta(days=1).total_seconds(),
    )

    @task
    def report(runs: list[dict]) -> None:
        """Print what was found."""
        for run in runs:
            print(run["name"], run["labels"], run["metrics"])

    report(evaluated.output)


pai_wait_for_evaluation()
