"""More than one machine's worth: many waits over two workers, schedulers and triggerers, of which some die.

Two hundred mapped sensors look back over thousands of labelled runs, so that nothing they want to know is on
the newest page. Runs are labelled from outside, a worker and a triggerer are killed on the way, and a gate
decides over all that was found.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from cluster import MACHINES, Cluster, cluster
from outside import KEY, SECONDS, LocalPai, family, files_with, local_pai, until
from servers import postgresql, program, redis_server
from tabulate import tabulate

pytestmark = pytest.mark.timeout(10 * SECONDS)

DAG = "many_waits"
WAITS = 200
LOOKED_UP_AT_ONCE = 10  # labelled before the sensors look for the first time
HISTORY = 3000
QUOTA = 50  # ListRuns in 3 seconds, for the whole account
BEST = 137

MAPPED = "FROM task_instance WHERE dag_id = 'many_waits' AND task_id = 'wait' AND map_index >= 0"
HELD = (
    "SELECT job.hostname, task.map_index FROM trigger JOIN job ON job.id = trigger.triggerer_id "
    "JOIN task_instance task ON task.trigger_id = trigger.id"
)


@dataclass
class Story:
    """What happened."""

    runs: list[str] = field(default_factory=list)
    """The run that each wait is for."""
    dag_run_id: str = ""
    state: str = ""
    seconds: float = 0.0
    worker: str = ""
    """The worker that was killed, and what it was at."""
    interrupted: list[int] = field(default_factory=list)
    after_worker: int = 0
    triggerer: str = ""
    """The triggerer that was killed, and the waits that it held."""
    held: list[int] = field(default_factory=list)
    after_triggerer: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    busiest: int = 0


def accuracy(number: int) -> float:
    return 0.97 if number == BEST else 0.5 + number / 1000


def arrange(pai: LocalPai, story: Story) -> list[str]:
    """Make the runs that are waited for, and a long history of labelled ones; returns the experiments."""
    history = pai.experiment("history")
    experiments = [pai.experiment(f"wait-{number}") for number in range(WAITS)]
    for number, experiment in enumerate(experiments):
        run = pai.run(experiment, f"run-{number}")
        pai.measure(run, accuracy=accuracy(number))
        story.runs.append(run)
    for number in range(HISTORY):
        pai.run(history, f"old-{number}", evaluated="true")
    return experiments


def label(pai: LocalPai, story: Story, numbers: Sequence[int]) -> None:
    for number in numbers:
        pai.label(story.runs[number], evaluated="true")


def unfinished(airflow: Cluster) -> int:
    return WAITS - airflow.ask(f"SELECT count(*) {MAPPED} AND state = 'success'")[0][0]


def deferred(airflow: Cluster) -> list[int]:
    """Return which sensors wait in a triggerer; one that failed is an error."""
    states = dict(airflow.ask(f"SELECT map_index, state {MAPPED}"))
    assert not {"failed", "upstream_failed"} & set(states.values()), states
    return [number for number, state in states.items() if state == "deferred"]


def held_by(airflow: Cluster, triggerer: str) -> list[int]:
    return [number for name, number in airflow.ask(HELD) if name == triggerer]


def struck(airflow: Cluster, worker: str) -> list[int]:
    """Kill a worker that is at work; returns what it was at, or nothing if it was idle and lives on."""
    airflow.freeze(worker)
    time.sleep(1)  # what it had sent before is answered
    running = airflow.ask(f"SELECT map_index {MAPPED} AND state = 'running' AND hostname = %s", worker)
    if running:
        airflow.kill(worker)
    else:
        airflow.thaw(worker)
    return [number for (number,) in running]


def play(airflow: Cluster, pai: LocalPai, experiments: list[str], story: Story) -> None:
    started = time.monotonic()
    waiting = list(range(WAITS))
    early, second, third = waiting[:LOOKED_UP_AT_ONCE], waiting[LOOKED_UP_AT_ONCE:60], waiting[60:100]
    label(pai, story, early)
    story.dag_run_id = airflow.start(DAG, experiments=experiments)

    until(lambda: len(deferred(airflow)) >= WAITS / 3, "a third of the tasks deferred", 2 * SECONDS)
    label(pai, story, second)
    resumed = f"SELECT 1 {MAPPED} AND next_method IS NOT NULL AND state IN ('scheduled', 'queued', 'running')"
    until(lambda: airflow.ask(resumed), "tasks about to be resumed")
    story.worker = "worker-1"
    story.interrupted = until(lambda: struck(airflow, story.worker), "a task that runs on the worker")
    story.after_worker = unfinished(airflow)

    waits_on = set(waiting) - set(early) - set(second)
    until(lambda: set(deferred(airflow)) >= waits_on, "all others deferred", 2 * SECONDS)
    story.triggerer = max(("triggerer-1", "triggerer-2"), key=lambda name: len(held_by(airflow, name)))
    airflow.kill(story.triggerer)
    story.held, story.after_triggerer = held_by(airflow, story.triggerer), unfinished(airflow)
    label(pai, story, third)  # of most of which nobody knows now
    until(lambda: not held_by(airflow, story.triggerer), "its waits taken over")
    for start in range(100, WAITS, 25):
        label(pai, story, waiting[start : start + 25])
        time.sleep(4)
    story.state = until(lambda: airflow.state(DAG, story.dag_run_id), "the end", 2 * SECONDS)
    story.seconds = time.monotonic() - started
    record = pai.record()
    story.requests, story.busiest = Counter(record["counts"]), record["busiest"]["ListRuns"]


def table(airflow: Cluster, story: Story) -> str:
    """Draw what there is to know when all has ended."""
    again = airflow.ask(f"SELECT count(*) {MAPPED} AND try_number > 1")[0][0]
    ran = Counter(dict(airflow.ask(f"SELECT hostname, count(*) {MAPPED} GROUP BY hostname")))
    rows = [
        ("sensors", WAITS),
        ("that ended on worker-1, worker-2", f"{ran['worker-1']}, {ran['worker-2']}"),
        (f"{story.worker} killed while it ran", len(story.interrupted)),
        ("  sensors that went on after it", story.after_worker),
        (f"{story.triggerer} killed while it held", len(story.held)),
        ("  sensors that went on after it", story.after_triggerer),
        ("sensors tried again", again),
        ("ListRuns in all", story.requests["ListRuns"]),
        ("ListRuns in the busiest 3 seconds", f"{story.busiest} of {QUOTA}"),
        ("labelled runs to look through", f"{HISTORY} and {WAITS}"),
        ("seconds", f"{story.seconds:.0f}"),
    ]
    return tabulate(rows, tablefmt="simple", colalign=("left", "right"))


@contextmanager
def workplace(session: pytest.Session) -> Iterator[Path]:
    """Make a folder for everything, which stays where something failed, as its logs may tell why."""
    folder, stays = Path(tempfile.mkdtemp(prefix="pai-distributed-")), True
    folder.chmod(0o711)  # PostgreSQL's user passes through
    try:
        yield folder
        stays = session.testsfailed > 0
    except KeyboardInterrupt:
        stays = False
        raise
    finally:
        if stays:
            print(f"\nAll logs are in {folder}")
        else:
            shutil.rmtree(folder)


@contextmanager
def nothing_left_behind(folder: Path) -> Iterator[str]:
    """Give a mark to all that is started, and see that it has ended."""
    mark = uuid.uuid4().hex
    try:
        yield mark
        assert left_behind(mark, folder) == []
    finally:
        for process in left_behind(mark, folder):
            process.kill()


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[tuple[Cluster, LocalPai, Story]]:
    for name, package in {"postgres": "postgresql", "redis-server": "redis-server"}.items():
        program(name, package)  # installed before anything starts
    story = Story()
    with (
        workplace(request.session) as folder,
        nothing_left_behind(folder) as mark,
        postgresql(folder / "postgresql") as database,
        redis_server(folder / "redis") as broker,
        local_pai(mark) as pai,
        cluster(folder / "airflow", mark, database, broker) as airflow,
    ):
        experiments = arrange(pai, story)
        until(airflow.is_healthy, f"a healthy Airflow; its logs are in {airflow.home}", 2 * SECONDS)
        airflow.log_in()
        airflow.call("POST", "/api/v2/connections", pai.connection("pai_many"))
        until(lambda: airflow.has_dags(DAG), "the DAG read")
        play(airflow, pai, experiments, story)
        yield airflow, pai, story
        print(f"\n\n{table(airflow, story)}\n")


def left_behind(mark: str, folder: Path) -> list[psutil.Process]:
    """Return what still runs; servers rewrite their environment, but they work in folders of their own."""
    found = family(mark)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found


def test_a_worker_was_killed_at_work_and_a_triggerer_that_held_waits(world):
    _, _, story = world
    assert story.interrupted
    assert len(story.held) >= WAITS / 4
    assert story.after_worker > story.after_triggerer > 0


def test_every_sensor_found_its_own_run_and_no_other(world):
    airflow, _, story = world
    assert story.state == "success"
    assert Counter(airflow.ask(f"SELECT state {MAPPED}")) == {("success",): WAITS}
    pushed = airflow.ask("SELECT map_index, value FROM xcom WHERE task_id = 'wait' AND key = 'return_value'")
    assert len(pushed) == WAITS
    assert {number: [run["run_id"] for run in runs] for number, runs in pushed} == {
        number: [run] for number, run in enumerate(story.runs)
    }


def test_what_the_killed_worker_was_at_was_tried_again(world):
    airflow, _, story = world
    lost = "SELECT map_index FROM task_instance_history WHERE task_id = 'wait' AND hostname = %s"
    assert {number for (number,) in airflow.ask(lost, story.worker)} & set(story.interrupted)


def test_the_gate_decides_over_all_runs(world):
    airflow, _, story = world
    others = "SELECT task_id, state FROM task_instance WHERE dag_id = %s AND task_id != 'wait'"
    assert dict(airflow.ask(others, DAG)) == {
        "experiments": "success",
        "together": "success",
        "gate": "success",
        "deploy": "success",
        "tell": "skipped",
    }
    verdict = airflow.xcom(DAG, story.dag_run_id, "gate")
    assert verdict["passed"]
    assert verdict["run"]["metrics"] == {"accuracy": accuracy(BEST)}
    assert f"of {WAITS} runs" in verdict["reason"]
    assert airflow.xcom(DAG, story.dag_run_id, "deploy") == story.runs[BEST]


def test_both_schedulers_took_part(world):
    airflow, _, _ = world
    queued_by = "SELECT DISTINCT hostname FROM job WHERE id IN (SELECT queued_by_job_id FROM task_instance)"
    assert sorted(airflow.ask(queued_by)) == [("scheduler-1",), ("scheduler-2",)]


def test_list_runs_stays_within_the_quota_of_the_account(world):
    _, _, story = world
    assert story.requests["ListRuns"] > WAITS  # the count counts
    assert story.busiest <= QUOTA


def test_no_secret_is_in_the_database_or_in_any_log(world):
    airflow, _, _ = world
    dump = airflow.dump()
    assert KEY["access_key_id"] in dump.read_text()  # the search finds things
    assert files_with(airflow.home, "The wait is over with")
    for secret in (KEY["access_key_secret"], KEY["security_token"]):
        assert files_with(airflow.home, secret) == []


def test_all_others_live_to_the_end(world):
    airflow, _, story = world
    assert MACHINES.keys() - airflow.machines.keys() == {story.worker, story.triggerer}
    assert airflow.is_healthy()
