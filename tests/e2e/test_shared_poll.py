"""One poll for all waits, in real Airflows that have no shared streams: 2.10.4 and 3.2.2, side by side.

In each, sixty mapped sensors and two others wait for the same label; half of them end in the triggerer. A
third of the runs is labelled, the triggerer is killed with -9, a third is labelled while there is none, and
the last third after another one has been started. What PAI was asked is counted at its server.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from outside import KEY, SECONDS, LocalPai, files_with, until
from standalone import FOR_AIRFLOW_2, Airflow

pytestmark = pytest.mark.timeout(6 * SECONDS)

VERSIONS = ("2.10.4", "3.2.2")
DAG = "waits"
RESUMED, ENDED = "resumed", "ended"  # in a worker, and in the triggerer
SINGLE = ("single_0", "single_1")  # not mapped, since Airflow 2 shows no mapped task's links
OVER, OUTLET, UNPUSHED = "mapped_over", "with_outlet", "not_pushed"
SPECIAL = (OVER, OUTLET, UNPUSHED)  # asked to end in the triggerer, which only the last one can
MAPPED = 30  # of each
LABEL = "late:true"
INTERVAL = 3
COUNTED = 10  # intervals
CONSOLE = "https://console.example/{run_id}"
SETTINGS = {
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": "10",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",  # so that a killed one is soon replaced
    **FOR_AIRFLOW_2,
}
DAGS = """
from datetime import datetime, timezone

try:
    from airflow.sdk import DAG, Asset, task
except ImportError:
    from airflow import DAG
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import task

from airflow_provider_pai.sensors import PaiRunSensor

RESUMED = dict(
    labels="{label}", pai_conn_id="pai_e2e", deferrable=True, poke_interval={interval}, timeout=900
)
ENDED = dict(RESUMED, end_from_trigger=True)


@task
def each(run):
    return run["run_id"]


with DAG("{dag}", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=timezone.utc), max_active_tasks=64):
    PaiRunSensor.partial(task_id="{resumed}", **RESUMED).expand(experiment_id={experiments[resumed]})
    PaiRunSensor.partial(task_id="{ended}", **ENDED).expand(experiment_id={experiments[ended]})
    for task_id, experiment_id in zip({single}, {experiments[single]}):
        PaiRunSensor(task_id=task_id, experiment_id=experiment_id, **ENDED)
    over, outlet, unpushed = {experiments[special]}
    each.expand(run=PaiRunSensor(task_id="{special[0]}", experiment_id=over, **ENDED).output)
    PaiRunSensor(task_id="{special[1]}", experiment_id=outlet, outlets=[Asset("found")], **ENDED)
    PaiRunSensor(task_id="{special[2]}", experiment_id=unpushed, do_xcom_push=False, **ENDED)
"""

Wait = tuple[str, int]
"""A task and its map index."""
WAITING: list[Wait] = [
    *((task_id, index) for task_id in (RESUMED, ENDED) for index in range(MAPPED)),
    *((task_id, -1) for task_id in (*SINGLE, *SPECIAL)),
]


@dataclass
class Story:
    """What happened in one Airflow."""

    version: str
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
    pushed: dict[Wait, dict[str, Any]] = field(default_factory=dict)
    """Each task's XComs."""
    tracebacks: list[Path] = field(default_factory=list)
    """The logs that have one while Airflow runs: its own end is not always a clean one."""
    asset_events: list[str] = field(default_factory=list)
    """The task of each."""
    links: dict[str, dict[str, str | None]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each part took."""

    def log(self, wait: Wait, name: str) -> str:
        """Return what the logs of this name (a pattern) have of a wait."""
        task_id, index = wait
        place = f"dag_id={DAG}/run_id=*/task_id={task_id}" + (f"/map_index={index}" if index >= 0 else "")
        return "".join(log.read_text() for log in self.home.glob(f"logs/{place}/{name}"))


def tell(version: str, airflow: Airflow, pai: LocalPai) -> Story:
    """Let the story happen."""
    is_2 = version.startswith("2.")
    story = Story(version, airflow.home, "pai_run_link" if is_2 else "_link_PaiRunLink")
    arrange(story, pai)
    play(story, airflow, pai)
    return story


def arrange(story: Story, pai: LocalPai) -> None:
    """Make the runs that are waited for, and the DAG."""
    for wait in WAITING:
        story.experiments[wait] = pai.experiment(f"{wait[0]}{wait[1]}")
        story.runs[wait] = pai.run(story.experiments[wait], "old")
    ids = [*story.experiments.values()]
    experiments = {"resumed": ids[:MAPPED], "ended": ids[MAPPED : 2 * MAPPED]}
    experiments |= {"single": ids[2 * MAPPED : -len(SPECIAL)], "special": ids[-len(SPECIAL) :]}
    tasks = {"dag": DAG, "resumed": RESUMED, "ended": ENDED, "single": SINGLE, "special": SPECIAL}
    dags = DAGS.format(experiments=experiments, label=LABEL, interval=INTERVAL, **tasks)
    (story.home / "dags" / "waits.py").write_text(dags)


def pushed(home: Path) -> dict[Wait, dict[str, Any]]:
    """Return the XComs of all tasks, as the database has them."""
    found: dict[Wait, dict[str, Any]] = {}
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        for task_id, index, key, value in database.execute("SELECT task_id, map_index, key, value FROM xcom"):
            found.setdefault((task_id, index), {})[key] = json.loads(value)
    return found


def asset_events(home: Path) -> list[str]:
    """Return which tasks made asset events; Airflow 2 calls them datasets'."""
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        tables = database.execute(
            "SELECT name FROM sqlite_master WHERE name IN ('asset_event', 'dataset_event')"
        )
        ((table,),) = tables.fetchall()
        return [task_id for (task_id,) in database.execute(f"SELECT source_task_id FROM {table}")]


def play(story: Story, airflow: Airflow, pai: LocalPai) -> None:
    def polls(since: float, before: float = float("inf")) -> list[dict[str, Any]]:
        return [poll for poll in pai.polls(LABEL) if since <= poll["time"] < before]

    def states() -> list[str | None]:
        return [*airflow.instances(DAG, run_id).values()]

    def all_pushed() -> dict[Wait, dict[str, Any]] | None:
        """Airflow 2's triggerer pushes a task's XComs one by one, when it has ended it already."""
        found = pushed(story.home)
        return found if all(story.link_key in found.get(wait, {}) for wait in story.runs) else None

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
    story.links = {task_id: airflow.links(DAG, run_id, task_id) for task_id in SINGLE}
    story.pushed = until(all_pushed, "all XComs")
    story.asset_events = asset_events(story.home)
    story.tracebacks = files_with(story.home, "Traceback")


@pytest.fixture(scope="module")
def story(story: Story) -> Story:
    parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in story.seconds.items())
    print(
        f"\n{story.version}: {len(story.counted)} ListRuns in {COUNTED * INTERVAL} s "
        f"for {len(WAITING)} waits; {len(story.after)} in the {story.seconds_after:.0f} s "
        f"after the restart ({parts})"
    )
    return story


def test_all_waits_share_one_poll_an_interval(story: Story) -> None:
    assert COUNTED - 1 <= len(story.counted) <= COUNTED + 2
    assert all("ExperimentId" not in poll["query"] for poll in story.counted)


def test_the_triggerer_was_killed_in_the_middle(story: Story) -> None:
    assert 0 < story.ended_before < len(WAITING)
    assert story.while_dead == []


def test_every_wait_ends_with_its_own_run_and_no_other(story: Story) -> None:
    assert story.states == dict.fromkeys([*WAITING, ("each", 0)], "success")
    found = {
        wait: [run["run_id"] for run in story.pushed[wait]["return_value"]]
        for wait in WAITING
        if wait[0] != UNPUSHED
    }
    assert found == {wait: [run] for wait, run in story.runs.items() if wait[0] != UNPUSHED}


def test_another_triggerer_takes_over_without_asking_for_each_wait(story: Story) -> None:
    polled_for = story.after[-1]["time"] - story.after[0]["time"]
    assert len(story.after) <= polled_for / INTERVAL + 4


def test_a_trigger_that_ends_its_task_pushes_what_a_worker_would(story: Story) -> None:
    by_worker = story.pushed[RESUMED, 0]["return_value"][0].keys()
    for wait, run in story.runs.items():
        begun = story.log(wait, "attempt=1.log").count("::group::Pre ")
        xcoms = story.pushed[wait]
        if wait[0] in (RESUMED, OVER, OUTLET):
            assert begun == 2
            continue
        assert begun == 1  # so what is there was pushed in the triggerer
        if wait[0] == UNPUSHED:
            assert xcoms.keys() == {story.link_key}
            continue
        assert xcoms.keys() == {"return_value", story.link_key}
        assert [found.keys() for found in xcoms["return_value"]] == [by_worker]
        assert xcoms[story.link_key] == CONSOLE.format(run_id=run)


def test_a_task_is_mapped_over_what_a_wait_found(story: Story) -> None:
    assert story.pushed["each", 0]["return_value"] == story.runs[OVER, -1]


def test_a_wait_with_an_outlet_makes_its_asset_event(story: Story) -> None:
    assert story.asset_events == [OUTLET]


def test_the_button_of_a_task_that_its_trigger_ended_leads_to_pai(story: Story) -> None:
    links = {task_id: {"PAI console": CONSOLE.format(run_id=story.runs[task_id, -1])} for task_id in SINGLE}
    assert story.links == links


def test_each_wait_says_in_the_log_of_its_own_task_what_it_asks_and_what_came(story: Story) -> None:
    for wait, experiment in story.experiments.items():
        said = story.log(wait, "attempt=1.log.trigger.*.log")
        assert f"Waiting for 1 run with {LABEL}, experiment_id={experiment}" in said
        # The last lines need not be here: Airflow 3 may close this log first, and then uses the triggerer's.
        assert f"0 runs carry {LABEL}" in said
        assert {other for other in story.experiments.values() if other in said} == {experiment}


@pytest.mark.parametrize("trace", ["exception was never retrieved", "airflow_provider_pai/"])
def test_no_error_is_in_any_log(story: Story, trace: str) -> None:
    assert story.tracebacks == []
    assert files_with(story.home, trace) == []


def test_no_secret_is_in_the_database_or_in_any_log(story: Story) -> None:
    stored = files_with(story.home, KEY["access_key_id"])
    assert any(path.name.startswith("airflow.db") for path in stored)  # the search finds things
    for secret in (KEY["access_key_secret"], KEY["security_token"]):
        assert files_with(story.home, secret) == []
