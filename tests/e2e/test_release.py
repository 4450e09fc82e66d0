"""From a verdict to a deployment over two DAGs, with a person in between: in real Airflows, side by side.

The first DAG gates a run and registers its model; the process that registers is killed with -9 when PAI has
the version and has not answered yet. The second is the example `deploy_approved.py` as it is shipped, but for
its intervals: on Airflow 3 it starts when the version is approved, on Airflow 2 when it is registered, and
waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil
import pytest
from outside import CHECKOUT, SECONDS, LocalPai, until
from standalone import Airflow
from test_killed_training import NEVER_RETRIED

from airflow_provider_pai import api

pytestmark = pytest.mark.timeout(3 * SECONDS)

VERSIONS = ("2.10.4", "3.1.0", "3.3.2")
DAG, DEPLOYMENT = "release", "pai_deploy_approved"
INTERVAL = 3
URI = "https://models.example.com/digits"
DAGS = """
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

try:
    from airflow.sdk import DAG, Asset
except ImportError:
    from airflow import DAG
    from airflow.datasets import Dataset as Asset

from airflow_provider_pai.operators import PaiRegisterModelVersionOperator, PaiRunGateOperator


def note_process(context):
    (Path(__file__).parent.parent / "register.pid").write_text(str(os.getpid()))


with DAG("{dag}", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=timezone.utc)):
    gate = PaiRunGateOperator(task_id="gate", labels="is_evaluation:true", metrics={{"accuracy": ">= 0.9"}})
    PaiRegisterModelVersionOperator(
        task_id="register",
        model_name="digits",
        uri="{uri}",
        verdict=gate.output,
        outlets=[Asset("pai_digits_registered")],
        retries=1,
        retry_delay=timedelta(seconds=1),
        pre_execute=note_process,
    )
"""


@dataclass
class Story:
    """What is left of a release."""

    states: tuple[str | None, str | None]
    """Of the two DAG runs."""
    tries: int
    registered: str
    """What the task that was killed returned in the end, as text, which is all that Airflow 2 tells."""
    run_id: str
    versions: list[api.ModelVersion]
    deployed: Any
    deployments: int
    seconds: float
    """From the approval to the start of the second DAG, or on Airflow 2 of what deploys."""


def write_dags(home: Path) -> None:
    """Write both DAGs."""
    example = (CHECKOUT / "dags_examples" / "deploy_approved.py").read_text()
    assert example.count("poke_interval=30") == 2
    (home / "dags" / "deploy.py").write_text(example.replace("poke_interval=30", f"poke_interval={INTERVAL}"))
    (home / "dags" / "release.py").write_text(DAGS.format(dag=DAG, uri=URI))


def tell(version: str, airflow: Airflow, pai: LocalPai) -> Story:
    """Release a model."""

    def models() -> list[api.Model]:
        found: list[api.Model] = pai.client.run(api.list_models(workspace_id=pai.workspace_id, name="digits"))
        return found

    def versions() -> list[api.ModelVersion]:
        return [each for m in models() for each in pai.client.run(api.list_model_versions(m.model_id))]

    airflow.call("POST", f"{airflow.api}/connections", pai.connection("pai_default"))
    write_dags(airflow.home)
    until(lambda: airflow.has_dags(DAG, DEPLOYMENT), "the DAGs read")
    run_id = pai.run(pai.experiment("digits"), "good", is_evaluation="true")
    pai.measure(run_id, accuracy=0.93)
    pai.slow("CreateModelVersion", 100)
    dag_run_id = airflow.start(DAG)
    until(versions, "the version at PAI")
    registering = psutil.Process(int((airflow.home / "register.pid").read_text()))
    for victim in ([registering.parent()] if version in NEVER_RETRIED else []) + [registering]:
        victim.kill()
    state = until(lambda: airflow.state(DAG, dag_run_id), "the end of the first DAG", every=1)
    if version.startswith("2."):  # the second DAG waits
        until(lambda: "deferred" in deployment_states(airflow), "the wait for the approval")
    else:  # the watcher knows the version, and that it is pending
        pai.forget()
        until(lambda: pai.record()["counts"].get("ListModelVersions", 0) >= 2, "two polls")
        assert deployment_states(airflow) == []
    approved = datetime.now(timezone.utc)
    pai.approve(models()[0].model_id, versions()[0].version_name)
    deployment = until(lambda: airflow.dag_runs(DEPLOYMENT), "the deployment", every=1)[0]
    begun = f"dags/{DEPLOYMENT}/dagRuns/{deployment['dag_run_id']}"
    if version.startswith("2."):  # the DAG run itself began when the version was registered
        begun += "/taskInstances/deploy"
    started = datetime.fromisoformat(airflow.get(begun)["start_date"].replace("Z", "+00:00"))
    return Story(
        states=(state, deployment["state"]),
        tries=airflow.get(f"dags/{DAG}/dagRuns/{dag_run_id}/taskInstances/register")["try_number"],
        registered=str(airflow.xcom(DAG, dag_run_id, "register")),
        run_id=run_id,
        versions=versions(),
        deployed=airflow.xcom(DEPLOYMENT, deployment["dag_run_id"], "deploy"),
        deployments=len(airflow.get(f"dags/{DEPLOYMENT}/dagRuns")["dag_runs"]),
        seconds=(started - approved).total_seconds(),
    )


def deployment_states(airflow: Airflow) -> list[str | None]:
    """Return the states of all tasks of all runs of the second DAG."""
    runs = airflow.get(f"dags/{DEPLOYMENT}/dagRuns")["dag_runs"]
    return [state for run in runs for state in airflow.states(DEPLOYMENT, run["dag_run_id"]).values()]


def test_the_version_is_registered_once_although_its_task_was_killed(story: Story) -> None:
    assert (story.states[0], story.tries) == ("success", 2)
    (version,) = story.versions
    assert (version.uri, version.labels["pai_run_id"]) == (URI, story.run_id)
    assert f"'version_name': '{version.version_name}'" in story.registered


def test_the_second_dag_deploys_it_once_it_is_approved(story: Story) -> None:
    print(f"From the approval to the start: {story.seconds:.1f} s; a poll each {INTERVAL} s.")
    assert (story.states[1], story.deployments) == ("success", 1)
    assert story.deployed == story.versions[0].version_name
    assert story.versions[0].approval_status == "Approved"
