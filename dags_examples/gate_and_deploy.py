"""Deploy the best evaluated run, if it is good enough; else say why not.

Shows `PaiRunGateOperator` asking PAI by itself: of the runs of the last week that were evaluated it judges
the one with the highest accuracy. It must be no worse than the champion, the run with the label
`champion:true`, if there is one. The DAG goes on with `deploy` or with `report`. The verdict is in XCom, as a
table in the log of the task `gate`, and from Airflow 3.1 on behind the task's button *Verdict*.

Needs a connection `pai_default`. Nothing is written to PAI.
"""

from __future__ import annotations

import pendulum

from airflow_provider_pai.operators import PaiRunGateOperator
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
    params={"floor": 0.9},
    doc_md=__doc__,
)
def pai_gate_and_deploy() -> None:
    gate = PaiRunGateOperator(
        task_id="gate",
        labels="is_evaluation:true",
        created_after=midnight(-7),
        select="highest accuracy",
        baseline_labels="champion:true",
        missing_baseline="pass",
        metrics={"accuracy": [">= {{ params.floor }}", ">= baseline"], "log_loss": "< 0.35"},
        follow_if_passed="deploy",
        follow_if_failed="report",
    )

    @task
    def deploy(verdict: dict) -> str:
        """Put the chosen run into service; yours would call what serves it."""
        print(f"{verdict['run']['name']} goes into service.")
        return verdict["run"]["run_id"]

    @task
    def report(verdict: dict) -> str:
        """Say why nothing is deployed; yours would tell somebody."""
        print(verdict["reason"])
        return verdict["reason"]

    gate >> [deploy(gate.output), report(gate.output)]


pai_gate_and_deploy()
