"""Judge every evaluated run of the last week by itself, and deploy those that passed.

Shows a mapped `PaiRunGateOperator`: one instance for each run. A mapped gate cannot skip tasks, so an
instance fails where its run is not good enough. When all instances are done, `passed` hands on the runs that
passed, and `deploy` is mapped over them.

Needs a connection `pai_default`. Nothing is written to PAI.
"""

from __future__ import annotations

import pendulum

from airflow_provider_pai.operators import PaiListRunsOperator, PaiRunGateOperator
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
def pai_gate_each() -> None:
    evaluated = PaiListRunsOperator(
        task_id="list_evaluations",
        labels="is_evaluation:true",
        created_after=midnight(-7),
    )
    gate = PaiRunGateOperator.partial(
        task_id="gate", metrics={"accuracy": ">= {{ params.floor }}"}, on_fail="fail"
    ).expand(runs=evaluated.output)

    @task(trigger_rule="all_done")  # also after a gate that failed
    def passed(runs: list[dict], verdicts: list[dict]) -> list[dict]:
        """Return the runs that passed; yours may also tell somebody about the others."""
        verdicts = list(verdicts or ())
        if len(verdicts) < len(runs):
            raise RuntimeError("Not every run has a verdict: see the log of the gate.")
        return [verdict["run"] for verdict in verdicts if verdict["passed"]]

    @task
    def deploy(run: dict) -> str:
        """Put a run into service; yours would call what serves it."""
        print(f"{run['name']} goes into service.")
        return run["run_id"]

    deploy.expand(run=passed(evaluated.output, gate.output))


pai_gate_each()
