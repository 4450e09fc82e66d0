"""One poll for all waits, in real Airflows that have no shared streams: 2.10.4 and 3.2.2, side by side.

In each, sixty mapped sensors and two that end in the triggerer wait for the same label. A third of the runs
is labelled, the triggerer is killed with -9, a third is labelled while there is none, and the last third
after another one has been started. What PAI was asked is counted at its server.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from outside import CHECKOUT, KEY, SECONDS, LocalPai, family, files_with, local_pai, until
from standalone import Airflow, Airflow2, running

pytestmark = pytest.mark.timeout(6 * SECONDS)

VERSIONS = ("2.10.4", "3.2.2")
DAG = "waits"
MAPPED, ENDED = "resumed", ("ended_0", "ended_1")
WAITS = 60
LABEL = "late:true"
INTERVAL = 3
COUNTED = 10  # intervals
CONSOLE = "https://console.example/{run_id}"
FERNET_KEY = urlsafe_b64encode(secrets.token_bytes(32)).decode()
SETTINGS = {
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": "10",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",  # so that a killed one is soon replaced
    # For Airflow 2
    "CORE__FERNET_KEY": FERNET_KEY,
    "WEBSERVER__WORKERS": "1",
    "API__AUTH_BACKENDS": "airflow.api.auth.backend.basic_auth",
}
DAGS = """
from datetime import datetime, timezone

try:
    from airflow.sdk import DAG
except ImportError:
    from airflow import DAG

from airflow_provider_pai.sensors import PaiRunSensor

EXPERIMENTS = {experiments}
WAIT = dict(
    labels="{label}", pai_conn_id="pai_e2e", deferrable=True, poke_interval={interval}, timeout=900
)

with DAG("{dag}", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=timezone.utc), max_active_tasks=64):
    PaiRunSensor.partial(task_id="{mapped}", **WAIT).expand(experiment_id=EXPERIMENTS[:{waits}])
    for task_id, experiment_id in zip({ended}, EXPERIMENTS[{waits}:]):
        PaiRunSensor(task_id=task_id, experiment_id=experiment_id, end_from_trigger=True, **WAIT)
"""

Wait = tuple[str, int]
"""A task and its map index."""
WAITING: list[Wait] = [*((MAPPED, number) for number in range(WAITS)), *((task_id, -1) for task_id in ENDED)]


@dataclass
class Story:
    """What happened in one Airflow."""

    home: Path
    link_key: str
    """Where that Airflow looks for the link of a task."""
    experiments: dict[Wait, str] = field(default_factory=dict)
    runs: dict[Wait, str] = field(default_factory=dict)
    """The run that each wait is for."""
    counted: list[dict[str, Any]] = field(default_factory=list)
    """The ListRuns while nothing happened."""
    ended_before: int = 0
    """How many waits had ended when the triggerer was killed."""
    while_dead: list[dict[str, Any]] = field(default_factory=list)
    """The ListRuns while there was no triggerer, and since there was one again."""
    after: list[dict[str, Any]] = field(default_factory=list)
    seconds_after: float = 0.0
    states: dict[Wait, str | None] = field(default_factory=dict)
    pushed: dict[Wait, Any] = field(default_factory=dict)
    links: dict[str, dict[str, str | None]] = field(default_factory=dict)
    pushed_links: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part took."""

    def log(self, wait: Wait, name: str) -> str:
        """Return what the logs of this name (a pattern) have of a wait."""
        task_id, index = wait
        place = f"dag_id={DAG}/run_id=*/task_id={task_id}" + (f"/map_index={index}" if index >= 0 else "")
        return "".join(log.read_text() for log in self.home.glob(f"logs/{place}/{name}"))


def tell(version: str, home: Path, mark: str) -> Story:
    """Let the story happen in an Airflow of this version."""
    is_2 = version.startswith("2.")
    story = Story(home, "pai_run_link" if is_2 else "_link_PaiRunLink")
    programs = CHECKOUT / ".venvs" / version / "bin"
    (home / "dags").mkdir()
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")  # as Airflow 3 has it: who reads does not stop who writes
    try:
        with local_pai(mark) as pai:
            arrange(story, pai)
            with running(home, mark, SETTINGS, programs, Airflow2 if is_2 else Airflow) as airflow:
                play(story, airflow, pai)
        assert family(mark) == []
    finally:
        for process in family(mark):
            process.kill()
    return story


def arrange(story: Story, pai: LocalPai) -> None:
    """Make the runs that are waited for, and the DAG."""
    for wait in WAITING:
        story.experiments[wait] = pai.experiment(f"{wait[0]}{wait[1]}")
        story.runs[wait] = pai.run(story.experiments[wait], "old")
    told = {"dag": DAG, "mapped": MAPPED, "ended": ENDED, "label": LABEL, "interval": INTERVAL}
    dags = DAGS.format(experiments=[*story.experiments.values()], waits=WAITS, **told)
    (story.home / "dags" / "waits.py").write_text(dags)


def play(story: Story, airflow: Airflow, pai: LocalPai) -> None:
    def polls(since: float, before: float = float("inf")) -> list[dict[str, Any]]:
        return [poll for poll in pai.polls(LABEL) if since <= poll["time"] < before]

    def states() -> list[str | None]:
        return [*airflow.instances(DAG, run_id).values()]

    def all_deferred() -> bool:
        found = states()
        assert set(found) <= {None, "scheduled", "queued", "running", "deferred"}, found
        return found.count("deferred") == len(WAITING)

    def label(third: int) -> None:
        for wait in WAITING[third::3]:
            pai.label(story.runs[wait], late="true")

    clock = time.monotonic()

    def took(what: str) -> None:
        nonlocal clock
        story.seconds[what], clock = time.monotonic() - clock, time.monotonic()

    airflow.call("POST", f"{airflow.api}/connections", pai.connection("pai_e2e", console_url=CONSOLE))
    until(lambda: airflow.has_dags(DAG), "the DAG read")
    run_id = airflow.start(DAG)
    took("read")
    until(all_deferred, "all deferred", every=2)
    took("deferred")
    time.sleep(2 * INTERVAL)  # the last ones have joined
    since = time.time()
    time.sleep(COUNTED * INTERVAL)
    story.counted = polls(since, since + COUNTED * INTERVAL)
    took("counted")

    label(0)
    until(lambda: states().count("success"), "the first waits ended", every=2)
    environment = airflow.kill_triggerer()
    killed = time.time()
    story.ended_before = states().count("success")
    label(1)
    time.sleep(INTERVAL)
    started = time.time()
    story.while_dead = polls(killed, started)
    airflow.start_triggerer(environment)
    until(lambda: len(polls(started)) >= 2, "polls of the new triggerer")
    took("restarted")
    label(2)
    until(lambda: airflow.state(DAG, run_id), "the end", every=1)
    took("ended")
    story.seconds_after, story.after = time.time() - started, polls(started)

    story.states = airflow.instances(DAG, run_id)
    for task_id, index in WAITING:
        story.pushed[task_id, index] = airflow.xcom(DAG, run_id, task_id, map_index=index)
    for task_id in ENDED:
        story.links[task_id] = airflow.links(DAG, run_id, task_id)
        story.pushed_links[task_id] = airflow.xcom(DAG, run_id, task_id, key=story.link_key)
    took("read back")


@pytest.fixture(scope="module")
def telling(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Story]]]:
    """All stories, each in a thread, as they mostly wait."""
    wanted = [v for v in VERSIONS if any(f"[{v}" in item.name for item in request.session.items)]
    marks = {version: uuid.uuid4().hex for version in wanted}
    pool = ThreadPoolExecutor(len(VERSIONS))
    try:
        yield {
            version: pool.submit(tell, version, tmp_path_factory.mktemp(f"airflow-{version}"), mark)
            for version, mark in marks.items()
        }
    finally:
        for mark in marks.values():  # none is left, unless the tests were interrupted
            for process in family(mark):
                process.kill()
        pool.shutdown()


@pytest.fixture(scope="module", params=VERSIONS)
def story(request: pytest.FixtureRequest, telling: dict[str, Future[Story]]) -> Story:
    version: str = request.param
    story = telling[version].result()
    parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in story.seconds.items())
    print(
        f"\n{version}: {len(story.counted)} ListRuns in {COUNTED * INTERVAL} s for {len(WAITING)} waits; "
        f"{len(story.after)} in the {story.seconds_after:.0f} s after the restart ({parts})"
    )
    return story


def test_all_waits_share_one_poll_an_interval(story: Story) -> None:
    assert COUNTED - 1 <= len(story.counted) <= COUNTED + 2
    assert all("ExperimentId" not in poll["query"] for poll in story.counted)


def test_the_triggerer_was_killed_in_the_middle(story: Story) -> None:
    assert 0 < story.ended_before < len(WAITING)
    assert story.while_dead == []


def test_every_wait_ends_with_its_own_run_and_no_other(story: Story) -> None:
    assert story.states == dict.fromkeys(WAITING, "success")
    found = {wait: [run["run_id"] for run in runs] for wait, runs in story.pushed.items()}
    assert found == {wait: [run] for wait, run in story.runs.items()}


def test_another_triggerer_takes_over_without_asking_for_each_wait(story: Story) -> None:
    assert 2 <= len(story.after) <= story.seconds_after / INTERVAL + 4


@pytest.mark.parametrize("task_id", ENDED)
def test_a_trigger_that_ends_its_task_pushes_what_a_worker_would(story: Story, task_id: str) -> None:
    begun = {wait: story.log(wait, "attempt=1.log").count("::group::Pre ") for wait in WAITING}
    assert begun[task_id, -1] == 1  # so no worker has touched it since
    assert begun[MAPPED, 0] == 2
    by_trigger, by_worker = story.pushed[task_id, -1], story.pushed[MAPPED, 0]
    assert [[*run] for run in by_trigger] == [[*run] for run in by_worker]
    link = CONSOLE.format(run_id=story.runs[task_id, -1])
    assert story.links[task_id] == {"PAI console": link}
    assert story.pushed_links[task_id] == link


def test_each_wait_says_in_the_log_of_its_own_task_what_it_asks_and_what_came(story: Story) -> None:
    for wait, experiment in story.experiments.items():
        said = story.log(wait, "attempt=1.log.trigger.*.log")
        assert f"Waiting for 1 run with {LABEL}, experiment_id={experiment}" in said
        # The last lines need not be here: Airflow 3 may close this log first, and then uses the triggerer's.
        assert f"0 runs carry {LABEL}" in said
        assert {other for other in story.experiments.values() if other in said} == {experiment}


@pytest.mark.parametrize("trace", ["exception was never retrieved", "Traceback", "airflow_provider_pai/"])
def test_no_error_is_in_any_log(story: Story, trace: str) -> None:
    assert files_with(story.home, trace) == []


def test_no_secret_is_in_the_database_or_in_any_log(story: Story) -> None:
    stored = files_with(story.home, KEY["access_key_id"])
    assert any(path.name.startswith("airflow.db") for path in stored)  # the search finds things
    for secret in (KEY["access_key_secret"], KEY["security_token"]):
        assert files_with(story.home, secret) == []
