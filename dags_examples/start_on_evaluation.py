"""Start a DAG when an evaluation appears, without a task that waits.

Shows `pai_run_asset`: an asset that is updated whenever runs newly carry the label `is_evaluation:true`. The
DAG is started by that update and finds the runs in its event. Needs Airflow 3.0 or later, with a triggerer,
and a connection `pai_default`. What a restart of the triggerer may repeat or miss is written in
docs/waiting.md.
"""

from __future__ import annotations

import pendulum
from airflow.sdk import dag, task

from airflow_provider_pai.triggers import pai_run_asset

evaluated = pai_run_asset("pai_evaluated_runs", labels="is_evaluation:true", poke_interval=30)


@dag(
    schedule=[evaluated],
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["pai", "example"],
    doc_md=__doc__,
)
def pai_start_on_evaluation() -> None:
    @task
    def report(triggering_asset_events=None) -> list[str]:
        """Print the runs that started this DAG."""
        found = []
        for event in triggering_asset_events[evaluated]:
            for run in event.extra["payload"]["runs"]:
                print(run["name"], run["labels"], run["metrics"])
                found.append(run["run_id"])
        return found

    report()


pai_start_on_evaluation()
