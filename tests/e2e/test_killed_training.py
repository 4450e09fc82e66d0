"""A training that is killed with -9 in the middle goes on in the same run: in real Airflows, side by side.

Another is marked failed, by which Airflow ends it, with SIGTERM, and its run says so.

The first logs its process. Once its first steps are at PAI, that process is killed. Airflow tries
the task again, and this try asks PAI how far the run has come, as a training with checkpoints would, and goes
on there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
import pytest
from outside import SECONDS, LocalPai, until
from standalone import Airflow

from airflow_provider_pai import api

pytestmark = pytest.mark.timeout(3 * SECONDS)

VERSIONS = ("2.10.4", "3.1.0", "3.3.2")
NEVER_RETRIED = ("3.1.0",)
"""Where Airflow fails a task for good whose own process alone dies. So its supervisor is killed with it, as a
lost machine does; the scheduler notices that by the heartbeats that do not come."""
DAG, STOPPED = "training", "stopped"
STEPS, REACHED = 8, 3
DAGS = f"""
import os
import time
from datetime import datetime, timedelta, timezone

try:
    from airflow.sdk import DAG, task
except ImportError:
    from airflow import DAG
    from airflow.decorators import task

from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.tracking import tracked_run

tracked_run.SEND_SECONDS = 0.5  # so that PAI soon knows how far it is

with DAG("{DAG}", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=timezone.utc)):

    @task.pai_run(experiment="digits", pai_conn_id="pai_e2e", retries=1, retry_delay=timedelta(seconds=1))
    def train(pai_run=None, ti=None):
        begun = {{value.step for value in PaiHook("pai_e2e").list_run_metrics(pai_run.run_id)}}
        pai_run.log_metrics({{"pid": os.getpid()}}, step=ti.try_number)
        for step in range({STEPS}):
            if step not in begun or ti.try_number == 1:
                pai_run.log_metrics({{"loss": ti.try_number}}, step=step)
            if step == {REACHED} and ti.try_number == 1:
                time.sleep({SECONDS})  # until it is killed
        return "trained"

    train()

with DAG("{STOPPED}", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=timezone.utc)):

    @task.pai_run(experiment="stopped", pai_conn_id="pai_e2e")
    def wait(pai_run=None):
        tracked_run.SEND_SECONDS = {SECONDS}
        for step in range({STEPS}):
            pai_run.log_metrics({{"loss": 0}}, step=step)
        pai_run.set_labels({{"waits": "yes"}})
        time.sleep({SECONDS})

    wait()
"""


@dataclass
class Story:
    """What is left of a training that was killed."""

    url: str
    """The address of Airflow's web interface."""
    dag_run_id: str
    state: str | None
    returned: Any
    before: api.Run
    """The run when its training had been killed."""
    runs: list[api.Run]
    """All that there are at the end, and those that carry the label of the DAG run."""
    found: list[api.Run]
    history: list[api.Metric]
    """The values of ``loss``."""
    stopped: api.Run
    """The run of the task that was ended, and the steps of its metric."""
    steps: list[int | None]


def tell(version: str, airflow: Airflow, pai: LocalPai) -> Story:
    """Kill a training."""

    def runs(**filters: Any) -> list[api.Run]:
        found: list[api.Run] = pai.client.run(
            api.list_runs(api.RunQuery(workspace_id=pai.workspace_id, **filters))
        )
        return found

    def history(run: api.Run, key: str) -> list[api.Metric]:
        return [value for value in pai.client.run(api.list_run_metrics(run.run_id)) if value.key == key]

    def reached() -> bool:
        return {value.step for run in runs(name="train") for value in history(run, "loss")} == {
            *range(REACHED + 1)
        }

    airflow.call("POST", f"{airflow.api}/connections", pai.connection("pai_e2e"))
    (airflow.home / "dags" / "training.py").write_text(DAGS)
    until(lambda: airflow.has_dags(DAG, STOPPED), "the DAGs read")
    dag_run_id, stopped_id = airflow.start(DAG), airflow.start(STOPPED)
    until(lambda: runs(name="wait", labels={"waits": "yes"}), "the other waits")
    airflow.mark_failed(STOPPED, stopped_id, "wait")
    until(reached, "the first steps at PAI")
    (pid,) = (int(value.value) for value in history(runs(name="train")[0], "pid"))
    training = psutil.Process(pid)
    for victim in ([training.parent()] if version in NEVER_RETRIED else []) + [training]:
        victim.kill()
    (before,) = runs(name="train")
    state = until(lambda: airflow.state(DAG, dag_run_id), "the end", every=1)
    (stopped,) = until(lambda: runs(name="wait", labels={"airflow_state": "failed"}), "the other's end", 30)
    return Story(
        url=airflow.url,
        dag_run_id=dag_run_id,
        state=state,
        returned=airflow.xcom(DAG, dag_run_id, "train"),
        before=before,
        runs=runs(name="train"),
        found=runs(labels={"airflow_dag_run": before.labels["airflow_dag_run"]}),
        history=history(before, "loss"),
        stopped=stopped,
        steps=[value.step for value in history(stopped, "loss")],
    )


def test_the_task_is_tried_again_and_succeeds(story: Story) -> None:
    assert (story.state, story.returned) == ("success", "trained")


def test_one_run_is_left_with_all_steps_each_once(story: Story) -> None:
    assert [run.run_id for run in story.runs] == [story.before.run_id]
    assert [(value.step, value.value) for value in story.history] == [
        (step, 1.0 if step <= REACHED else 2.0) for step in range(STEPS)
    ]


def test_the_run_says_how_it_is_and_how_it_ended(story: Story) -> None:
    assert story.before.labels["airflow_state"] == "running"
    (run,) = story.runs
    assert run.labels["airflow_state"] == "success"


def test_the_run_leads_back_to_the_try_that_ended_it(story: Story) -> None:
    (run,) = story.found
    origin = {"airflow_dag_id": DAG, "airflow_dag_run_id": story.dag_run_id, "airflow_task_id": "train"}
    assert run.params.items() >= {**origin, "airflow_map_index": "-1", "airflow_try_number": "2"}.items()
    url = run.params["airflow_url"]
    assert url.startswith(f"{story.url}/dags/{DAG}/")
    assert story.dag_run_id in url


def test_a_training_that_is_ended_says_so_and_loses_no_value(story: Story) -> None:
    assert story.stopped.labels["airflow_state"] == "failed"
    assert story.steps == [*range(STEPS)]
