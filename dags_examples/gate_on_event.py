"""Judge every evaluation as it appears, without a task that waits and without a schedule.

Shows `PaiRunGateOperator` in a DAG that an asset event starts: `pai_run_asset` is updated whenever runs newly
carry the labels, the DAG judges those of the event by comparing them with the champion, and promotes the best
of them if it wins. Needs Airflow 3.0 or later, with a triggerer, and a connection `pai_default`.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import dag, task

from airflow_provider_pai.operators import PaiPromoteRunOperator, PaiRunGateOperator
from airflow_provider_pai.triggers import pai_run_asset

evaluated = pai_run_asset(
    "pai_evaluated_digits", labels="is_evaluation:true,model:digits", metrics={"accuracy": ">= 0.85"}
)


@dag(
    schedule=[evaluated],
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["pai", "example"],
    doc_md=__doc__,
)
def pai_gate_on_event() -> None:
    @task
    def challengers(triggering_asset_events=None) -> list[dict]:
        """Return the runs that started this DAG."""
        events = triggering_asset_events[evaluated]
        return [run for event in events for run in event.extra["payload"]["runs"]]

    gate = PaiRunGateOperator(
        task_id="gate",
        runs=challengers(),
        select="highest accuracy",
        baseline_labels="champion:true,model:digits",
        missing_baseline="pass",
        metrics={"accuracy": ">= baseline + 0.005"},
    )
    promote = PaiPromoteRunOperator(
        task_id="promote",
        run_id="{{ ti.xcom_pull('gate').run.run_id }}",
        labels="champion:true",
        among="model:digits",
    )
    gate >> promote


pai_gate_on_event()
