"""Waiting in a real Airflow: scheduler, triggerer, API server and dag processor, as users run them.

Runs are labelled from outside, the triggerer is killed meanwhile, and at the end the metadata database and
all logs are searched for the secret.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
from outside import KEY, SECONDS, LocalPai, family, files_with, local_pai, until
from standalone import Airflow, running

pytestmark = pytest.mark.timeout(4 * SECONDS)

INTERVAL = 2
SETTLE_SECONDS = 3.0
"""As airflow_provider_pai.waiting.announcing has it, which says what a killed triggerer announces again."""
WRONG_SECRET = "WrongSecretThatMustNotBeFoundEither0123456789"
SETTINGS = {
    "DAG_PROCESSOR__REFRESH_INTERVAL": "2",  # so that the DAGs are found as soon as they are written
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",  # so that a killed one is soon replaced
}
DAGS = f"""
from airflow.sdk import DAG, task

from airflow_provider_pai.sensors import PaiRunSensor
from airflow_provider_pai.triggers import pai_run_asset

EVERY = {{"pai_conn_id": "pai_e2e", "poke_interval": {INTERVAL}}}
MODES = {{
    "resumed": {{"deferrable": True}},
    "ended": {{"deferrable": True, "end_from_trigger": True}},
    "started": {{"deferrable": True, "end_from_trigger": True, "start_from_trigger": True}},
    "poked": {{"deferrable": False}},
}}


def sensors(*modes):
    for mode in modes:
        for number in range(2):
            PaiRunSensor(
                task_id=f"{{mode}}_{{number}}",
                labels="{{{{ params.label }}}}:true",
                experiment_id=f"{{{{{{{{ params.experiments[{{number}}] }}}}}}}}",
                timeout=900,
                **MODES[mode],
                **EVERY,
            )


with DAG("deferred", schedule=None, params={{"label": "", "experiments": ["", ""]}}):
    sensors("resumed", "ended", "started")

with DAG("poking", schedule=None, params={{"label": "", "experiments": ["", ""]}}):
    sensors("poked")

with DAG("denied", schedule=None):
    for mode in ("started", "poked"):
        PaiRunSensor(task_id=mode, labels="a:b", timeout=900, pai_conn_id="pai_wrong", **MODES[mode])


@task
def seen(triggering_asset_events=None):
    return [event.extra["payload"] for events in triggering_asset_events.values() for event in events]


with DAG("on_batch", max_active_runs=1, schedule=[pai_run_asset("batch", labels="announce:true", **EVERY)]):
    seen()

each = pai_run_asset("each", labels="announce:true", per_run=True, **EVERY)
with DAG("on_each", max_active_runs=1, schedule=[each]):
    seen()
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Airflow, LocalPai]]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    mark = uuid.uuid4().hex
    try:
        with local_pai(mark) as pai, running(home, mark, SETTINGS) as airflow:
            for conn_id, secret in {"pai_e2e": KEY["access_key_secret"], "pai_wrong": WRONG_SECRET}.items():
                airflow.call("POST", "/api/v2/connections", pai.connection(conn_id, secret))
            (home / "dags" / "waits.py").write_text(DAGS)
            until(
                lambda: airflow.has_dags("deferred", "poking", "denied", "on_batch", "on_each"),
                "all DAGs read",
            )
            yield airflow, pai
        assert family(mark) == []
    finally:
        for process in family(mark):
            process.kill()


@pytest.fixture(scope="module")
def watched(world: tuple[Airflow, LocalPai]) -> None:
    """Both watchers have looked once, so that what is labelled from now on is news to them."""
    _, pai = world
    until(lambda: len(pai.polls("announce:true")) >= 2, "polls for the assets")
    time.sleep(2 * INTERVAL)  # the second watcher may join after the first poll, and looks at the next one


def all_deferred(airflow: Airflow, run_id: str) -> bool:
    states = airflow.states("deferred", run_id)
    assert not {"failed", "upstream_failed"} & set(states.values()), states
    return len(states) == 6 and set(states.values()) == {"deferred"}


@pytest.fixture(scope="module")
def waited(world: tuple[Airflow, LocalPai]) -> dict[str, Any]:
    """Six deferred sensors on one label, two runs labelled from outside, and the same asked by poking."""
    airflow, pai = world
    experiments = [pai.experiment(f"shared-{number}") for number in range(2)]
    old = [pai.run(experiment, f"old-{number}") for number, experiment in enumerate(experiments)]
    asked = {"label": "shared", "experiments": experiments}
    run_id = airflow.start("deferred", **asked)
    until(lambda: all_deferred(airflow, run_id), "all deferred")

    time.sleep(2 * INTERVAL)  # the last ones have joined
    known, started = len(pai.polls("shared:true")), time.time()
    until(lambda: len(pai.polls("shared:true")) >= known + 5, "five more polls")
    polls, seconds = pai.polls("shared:true")[known:], time.time() - started

    for run in old:
        pai.label(run, shared="true")
    assert until(lambda: airflow.state("deferred", run_id), "the end of the waits") == "success"
    poked = airflow.start("poking", **asked)
    assert until(lambda: airflow.state("poking", poked), "the end of poking") == "success"
    pushed = [airflow.xcom("poking", poked, f"poked_{number}") for number in range(2)]
    assert [[entry["run_id"] for entry in found] for found in pushed] == [[run] for run in old]
    return {"run_id": run_id, "pushed": pushed, "polls": polls, "seconds": seconds}


def test_deferred_sensors_share_polls(waited):
    assert all("ExperimentId" not in poll["query"] for poll in waited["polls"])
    assert len(waited["polls"]) <= waited["seconds"] / INTERVAL + 3


@pytest.mark.parametrize("mode", ["resumed", "ended", "started"])
def test_deferred_sensors_push_what_poking_ones_do(world, waited, mode):
    airflow, _ = world
    for number, pushed in enumerate(waited["pushed"]):
        assert airflow.xcom("deferred", waited["run_id"], f"{mode}_{number}") == pushed


def test_a_wrong_key_ends_waits_wherever_they_wait(world):
    airflow, _ = world
    run_id = airflow.start("denied")
    assert until(lambda: airflow.state("denied", run_id), "the end") == "failed"
    assert airflow.states("denied", run_id) == {"started": "failed", "poked": "failed"}


@pytest.mark.usefixtures("watched")
def test_dags_start_when_a_run_is_labelled_from_outside(world):
    airflow, pai = world
    experiment = pai.experiment("announced")
    runs = [pai.run(experiment, f"candidate-{number}", kind="model") for number in range(3)]
    for run in runs:
        pai.label(run, announce="true")

    def payloads(dag_id: str) -> list[dict[str, Any]]:
        return [
            payload
            for dag_run in airflow.dag_runs(dag_id)
            for payload in airflow.xcom(dag_id, dag_run["dag_run_id"], "seen")
        ]

    def batched() -> dict[str, Any]:
        return {run["run_id"]: run for payload in payloads("on_batch") for run in payload["runs"]}

    def each() -> dict[str, Any]:
        return {payload["run"]["run_id"]: payload["run"] for payload in payloads("on_each")}

    for asset in ("batch", "each"):
        until(
            lambda asset=asset: {run for run, _ in airflow.announced(asset)} >= set(runs),
            "all runs announced",
        )
    # Airflow gives a DAG run the events up to the first one that is still queued, and those that came
    # after it to the next DAG run, whenever that is. So another label brings what a burst left behind.
    nudges = iter(range(10))

    def nudged(seen: Callable[[], dict[str, Any]]) -> bool:
        with suppress(AssertionError):
            return until(lambda: seen().keys() >= set(runs), "all runs seen by the DAG", seconds=15)
        pai.run(experiment, f"nudge-{next(nudges)}", announce="true")
        return False

    for seen in (batched, each):
        until(lambda seen=seen: nudged(seen), "all runs seen by the DAG")
        found = seen()[runs[0]]
        assert (found["name"], found["experiment_id"]) == ("candidate-0", experiment)
        assert found["labels"] == {"announce": "true", "kind": "model"}


class Labeller(threading.Thread):
    """Creates a run now and then, and labels the one before: no run is new when it is labelled."""

    def __init__(self, pai: LocalPai) -> None:
        super().__init__(daemon=True)
        self.labelled: dict[str, float] = {}
        """When each run got its label."""
        self._pai = pai
        self._stopped = threading.Event()

    def run(self) -> None:
        experiment = self._pai.experiment("stream")
        last = self._pai.run(experiment, "first")
        while not self._stopped.wait(1.5):
            run = self._pai.run(experiment, "next")
            self._pai.label(last, announce="true")
            self.labelled[last] = time.time()
            last = run

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=30)


@contextmanager
def labelling(pai: LocalPai) -> Iterator[Labeller]:
    labeller = Labeller(pai)
    labeller.start()
    try:
        yield labeller
    finally:
        labeller.stop()


@pytest.mark.usefixtures("watched")
def test_a_killed_triggerer_loses_nothing(world):
    airflow, pai = world
    experiments = [pai.experiment(f"killed-{number}") for number in range(2)]
    old = [pai.run(experiment, "old") for experiment in experiments]
    run_id = airflow.start("deferred", label="killed", experiments=experiments)
    until(lambda: all_deferred(airflow, run_id), "all deferred")
    with labelling(pai) as labeller:
        until(lambda: len(airflow.announced("each")) >= 3, "announcements before the kill")
        killed_from = time.time()
        environment = airflow.kill_triggerer()
        killed = time.time()
        pai.label(old[0], killed="true")  # while nobody looks
        until(lambda: time.time() > killed + 2 * SETTLE_SECONDS, "runs labelled without a triggerer")
        airflow.start_triggerer(environment)
        until(
            lambda: any(moment > killed for _, moment in airflow.announced("each")),
            "announcements after the restart",
        )
        pai.label(old[1], killed="true")
        assert until(lambda: airflow.state("deferred", run_id), "the end of the waits") == "success"
    for number, run in enumerate(old):
        for mode in ("resumed", "ended", "started"):
            assert run in str(airflow.xcom("deferred", run_id, f"{mode}_{number}"))

    assert any(killed < moment < killed + 2 * SETTLE_SECONDS for moment in labeller.labelled.values())
    for asset in ("batch", "each"):
        until(
            lambda asset=asset: {run for run, _ in airflow.announced(asset)} >= labeller.labelled.keys(),
            "every labelled run announced",
        )
        said: dict[str, list[float]] = {}
        for run, moment in airflow.announced(asset):
            said.setdefault(run, []).append(moment)
        again = {run: moments for run, moments in said.items() if len(moments) > 1}
        # The docstring of events.py: what was announced in the seconds before the kill may come again, once.
        # Airflow dates an event when it stores it, up to a few of its rounds after it was announced.
        for moments in again.values():
            before, after = moments
            assert killed_from - SETTLE_SECONDS - 5 < before < killed + 1
            assert after > killed


def test_no_secret_is_in_the_database_or_in_any_log(world):
    airflow, _ = world
    stored = files_with(airflow.home, KEY["access_key_id"])
    assert any(path.name.startswith("airflow.db") for path in stored)  # the search finds things
    assert files_with(airflow.home, "PaiAuthenticationError")
    for secret in (KEY["access_key_secret"], KEY["security_token"], WRONG_SECRET):
        assert files_with(airflow.home, secret) == []


def test_airflow_is_alive_to_the_end(world):
    airflow, _ = world
    assert airflow.process.poll() is None
    assert psutil.Process(airflow.process.pid).is_running()
