"""List runs and map over them.

Shows `PaiListRunsOperator` pushing the evaluated runs of the last 30 days to XCom, one mapped task for each
of them, and the task's button to the PAI console.

Needs a connection `pai_default`. Trigger it by hand; nothing is written to PAI.
"""

from __future__ import annotations

import pendulum

from airflow_provider_pai.operators import PaiListRunsOperator
from airflow_provider_pai.windows import midnight

try:
    from airflow.sdk import dag, task
except ImportError:  # Airflow 2
    from airflow.decorators import dag, task


@dag(
    schedule=None,
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["pai", "example"],
    doc_md=__doc__,
)
def pai_list_runs() -> None:
    runs = PaiListRunsOperator(
        task_id="list_evaluations",
        labels="is_evaluation:true",
        created_after=midnight(-30),
        max_runs=100,
    )

    @task
    def describe(run: dict) -> str:
        """Say of one run what it measured."""
        metrics = ", ".join(f"{key} {value}" for key, value in run["metrics"].items()) or "no metrics"
        summary = f"{run['name']} ({run['run_id']}): {metrics}"
        print(summary)
        return summary

    describe.expand(run=runs.output)


pai_list_runs()
