"""PaiRunTrigger in one event loop, run as Airflow's triggerer runs it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow_db import SECRET, VERSION, airflow_db, pai  # noqa: F401 - fixtures

from airflow_provider_pai._compat import _first
from airflow_provider_pai.sensors import PaiRunSensor
from airflow_provider_pai.triggers import PaiModelVersionTrigger, PaiRunTrigger
from airflow_provider_pai.waiting import listing, poller
from airflow_provider_pai.waiting.client import SharedClient
from airflow_provider_pai.waiting.poller import Poller
from airflow_provider_pai.waiting.questions import Update

TaskDeferred = _first("TaskDeferred", "airflow.sdk.exceptions", "airflow.exceptions")

LIMIT = 60
"""Seconds that any scenario may take."""
INTERVAL = 0.1
LABEL = "is_evaluation:true"
EVALUATED = {"is_evaluation": "true"}
OLD = "2020-01-01T00:00:00Z"

pytestmark = pytest.mark.timeout(2 * LIMIT)


def in_one_loop(scenario: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Let a test be a coroutine that ends in time."""

    @functools.wraps(scenario)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(scenario(*args, **kwargs), LIMIT))

    return run


class Triggerer:
    """Runs triggers as Airflow's TriggerRunner does, and keeps the payloads of their events."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []
        self.events: list[list[Any]] = []

    def start(self, trigger: Any) -> int:
        """Start a trigger, as it comes out of the database, and return its number."""
        classpath, kwargs = trigger.serialize()
        assert classpath.endswith(type(trigger).__name__)
        again = type(trigger)(**json.loads(json.dumps(kwargs)))
        again.asset_state_store = getattr(trigger, "asset_state_store", None)
        self.events.append([])
        self.tasks.append(
            asyncio.create_task(self._run(len(self.tasks), again), name=f"trigger {len(self.tasks)}")
        )
        return len(self.tasks) - 1

    async def _run(self, number: int, trigger: Any) -> None:
        async for event in trigger.run():
            self.events[number].append(event.payload)

    async def event(self, number: int) -> dict[str, Any]:
        """Wait for the end of a trigger that fires once, and return its payload."""
        await self.tasks[number]
        (payload,) = self.events[number]
        return payload

    async def found(self, number: int) -> list[str]:
        """Wait until the runs of a wait are there, and return their names."""
        payload = await self.event(number)
        assert payload["status"] == "met", payload
        return [run["name"] for run in payload["runs"]]

    async def failure(self, number: int) -> tuple[str, bool]:
        """Wait until a wait has failed, and return the text and whether it is for good."""
        payload = await self.event(number)
        assert payload["status"] == "failed", payload
        return payload["error"], payload["permanent"]

    async def end(self) -> None:
        """End all triggers, as a triggerer that shuts down."""
        for running in self.tasks:
            running.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@pytest.fixture(autouse=True)
def quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are counted here; tests/test_shared_client.py has the rate limit."""
    monkeypatch.setattr("airflow_provider_pai.waiting.rate_limit.QUOTA_SECONDS", 0.0)


@pytest.fixture
def totals(request: pytest.FixtureRequest, pai: Any) -> None:  # noqa: F811
    """Whether PAI's listings have a TotalCount. By default they may not."""
    pai.quirks.total_count = request.param


def with_and_without_totals(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test with a TotalCount in PAI's listings and without."""
    both = pytest.mark.parametrize("totals", ["given", "absent"], indirect=True)
    return pytest.mark.usefixtures("totals")(both(test))


@asynccontextmanager
async def triggerer() -> AsyncIterator[Triggerer]:
    """A triggerer; afterwards nothing of it is left."""
    made, before = Triggerer(), asyncio.all_tasks()
    try:
        yield made
    finally:
        await made.end()
    assert not any(poller._pollers.values())
    assert asyncio.all_tasks() <= before


async def until(found: Callable[[], object]) -> None:
    """Ask until the answer is true; the scenario's limit ends this too."""
    while not found():  # noqa: ASYNC110 - what is waited for happens in another process
        await asyncio.sleep(0.02)


def the_poller() -> Poller:
    """The only poller there is."""
    (made,) = (made for of_client in poller._pollers.values() for made in of_client.values())
    return made


def polls(pai: Any) -> int:  # noqa: F811
    """How many ListRuns there were."""
    return int(pai.request_counts.get("ListRuns", 0))


async def more_polls(pai: Any, count: int = 2) -> None:  # noqa: F811
    """Wait until there were so many more requests."""
    target = polls(pai) + count
    await until(lambda: polls(pai) >= target)


async def no_more_polls(pai: Any, since: int) -> None:  # noqa: F811
    """Wait until there were requests, and then none for a second."""
    known = since
    while since == known or known < polls(pai):
        known = polls(pai)
        await asyncio.sleep(1.0)


def wait(**arguments: Any) -> PaiRunTrigger:
    return PaiRunTrigger(**{"labels": LABEL, "poke_interval": INTERVAL, **arguments})


# --- what a trigger is in the database


TRIGGERS = [
    wait(),
    wait(labels={"b": "2", "a": "1"}, min_runs=3, max_runs=7, end_task=True, fault_tolerance=None),
    wait(
        metrics={"loss": "< 1", "accuracy": ">= 0.9"}, experiment_id="exp-1", name="n", order_by="Name DESC"
    ),
    wait(
        pai_conn_id="other",
        region="cn-hangzhou",
        workspace_id="145884",
        source_type="DLC",
        source_id="dlc1",
        created_after=datetime(2025, 10, 20, tzinfo=timezone.utc),
        created_before="2025-10-21T00:00:00+08:00",
        failed_polls=1,
    ),
]
TRIGGERS += [
    PaiModelVersionTrigger(model_name="digits"),
    PaiModelVersionTrigger(
        model_id="model-1",
        version_name="1.0.0",
        labels={"b": "2", "a": "1"},
        approval="Rejected",
        on_rejected="wait",
        workspace_id="145884",
        end_task=True,
    ),
]
if VERSION >= (3, 0):
    from airflow_provider_pai.triggers import PaiModelVersionEventTrigger, PaiRunEventTrigger

    TRIGGERS += [
        PaiModelVersionEventTrigger(model_name="digits", labels={"b": "2", "a": "1"}, approval="Rejected"),
        PaiRunEventTrigger(labels={"b": "2", "a": "1"}, metrics={"loss": "< 1", "f1": "> 0"}),
        PaiRunEventTrigger(labels=LABEL, experiment_id="exp-1", poke_interval=5.0, per_run=True),
    ]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
def test_a_trigger_comes_back_from_the_database_as_it_was(trigger, pai):  # noqa: F811
    classpath, kwargs = trigger.serialize()
    text = json.dumps(kwargs, allow_nan=False)
    module, _, name = classpath.rpartition(".")
    assert getattr(__import__(module, fromlist=[name]), name) is type(trigger)
    again = type(trigger)(**json.loads(text))
    assert again == trigger
    assert hash(again) == hash(trigger)
    assert json.dumps(again.serialize()[1]) == text
    assert again.condition() == trigger.condition()
    assert SECRET not in text
    assert SECRET not in repr(trigger)


def test_a_filter_that_was_not_given_is_not_in_the_database():
    assert wait(name="n").serialize()[1].keys() == {"labels", "poke_interval", "name"}


@in_one_loop
async def test_a_filter_that_comes_as_none_ends_the_wait_for_good(pai):  # noqa: F811
    for name in ("experiment_id", "labels", "metrics"):
        events = [event async for event in wait(**{name: None}).run()]
        assert [event.payload["permanent"] for event in events] == [True]
        assert f"{name} is None. Leave it out" in events[0].payload["error"]
    assert pai.requests == []


@in_one_loop
async def test_runs_too_large_for_xcom_end_the_wait_for_good(pai, monkeypatch):  # noqa: F811
    monkeypatch.setattr("airflow_provider_pai._xcom.XCOM_BYTES", 1000)
    run_ids = [pai.add_run(params={"text": "x" * 400}) for _ in range(2)]
    async with triggerer() as airflow:
        number = airflow.start(wait(min_runs=2))
        await until(lambda: polls(pai) > 1)
        for run_id in run_ids:
            pai.label_run(run_id, EVALUATED)
        error, permanent = await airflow.failure(number)
    assert "Lower max_runs" in error
    assert permanent


RULES = [("x", "> 1"), ("y", "> 2")]


@pytest.mark.parametrize("kind", sorted({type(trigger) for trigger in TRIGGERS}, key=str))
def test_the_order_of_labels_and_metrics_says_nothing(kind):
    if "Version" in kind.__name__:
        make = functools.partial(kind, model_name="digits")
        metrics, backwards = {}, {}
    else:
        make = kind
        metrics, backwards = ({"metrics": dict(rules)} for rules in (RULES, reversed(RULES)))
    one = make(labels={"a": "1", "b": "2"}, **metrics)
    other = make(labels={"b": "2", "a": "1"}, **backwards)
    assert one == other
    assert json.dumps(one.serialize()) == json.dumps(other.serialize())
    assert make(labels="a:1") != make(labels="a:2")


# --- many waits, one poll


@with_and_without_totals
@in_one_loop
async def test_waits_that_differ_in_other_filters_share_one_poll(pai):  # noqa: F811
    experiments = [pai.add_experiment() for _ in range(5)]
    runs = [pai.add_run(f"run-{index}", experiment_id=found) for index, found in enumerate(experiments)]
    async with triggerer() as airflow:
        waits = [airflow.start(wait(experiment_id=found)) for found in experiments for _ in range(4)]
        named = airflow.start(wait(name="run-3", created_after=OLD))
        await until(lambda: polls(pai) == 3)
        for run in runs:
            pai.label_run(run, EVALUATED)
        for number in waits:
            assert await airflow.found(number) == [f"run-{number // 4}"]
        assert await airflow.found(named) == ["run-3"]
    # At the most one poll was under way when the labels were set, and saw some of them.
    assert polls(pai) <= 5
    assert all("ExperimentId" not in request.query for request in pai.requests)


@in_one_loop
async def test_waits_on_other_labels_have_another_poll(pai):  # noqa: F811
    pai.add_run("a", labels={"x": "1"})
    pai.add_run("b", labels={"x": "2"})
    async with triggerer() as airflow:
        one, other = airflow.start(wait(labels="x:1")), airflow.start(wait(labels="x:2"))
        assert [await airflow.found(one), await airflow.found(other)] == [["a"], ["b"]]


@with_and_without_totals
@in_one_loop
async def test_what_was_labelled_before_the_wait_was_joined_is_found(pai):  # noqa: F811
    pai.add_run("a", labels=EVALUATED, gmt_create_time=OLD)
    async with triggerer() as airflow:
        assert await airflow.found(airflow.start(wait())) == ["a"]


@with_and_without_totals
@in_one_loop
async def test_an_old_run_labelled_late_is_found_beyond_the_newest_page(pai):  # noqa: F811
    mine = pai.add_experiment()
    run = pai.add_run("mine", experiment_id=mine, gmt_create_time=OLD)
    pai.add_runs(350, labels=EVALUATED)
    async with triggerer() as airflow:
        waits = [airflow.start(wait(**filters)) for filters in ({"experiment_id": mine}, {"name": "mine"})]
        await more_polls(pai, 12)
        pai.label_run(run, EVALUATED)
        for number in waits:
            assert await airflow.found(number) == ["mine"]


@with_and_without_totals
@in_one_loop
async def test_a_late_label_is_noticed_at_the_next_poll(pai):  # noqa: F811
    mine = pai.add_experiment()
    run = pai.add_run("mine", experiment_id=mine, gmt_create_time=OLD)
    pai.add_runs(350, labels=EVALUATED)
    async with triggerer() as airflow:
        number = airflow.start(wait(experiment_id=mine))
        await until(lambda: any("ExperimentId" in request.query for request in pai.requests))  # it has looked
        await more_polls(pai, 3)
        pai.label_run(run, EVALUATED)
        labelled = polls(pai)
        assert await airflow.found(number) == ["mine"]
        # A poll that was under way, the one that notices, and the wait's own query.
        assert polls(pai) <= labelled + 1 + 1 + 2


@with_and_without_totals
@in_one_loop
async def test_a_run_labelled_during_a_fault_is_found(pai):  # noqa: F811
    run = pai.add_run("a")
    async with triggerer() as airflow:
        number = airflow.start(wait())
        await more_polls(pai)
        pai.inject("server_error", action="ListRuns", times=12)
        await more_polls(pai)
        pai.label_run(run, EVALUATED)
        assert await airflow.found(number) == ["a"]


@with_and_without_totals
@in_one_loop
async def test_a_label_that_was_taken_away_again_does_not_count(pai):  # noqa: F811
    gone = pai.add_run("gone", labels=EVALUATED)
    stays = pai.add_run("stays")
    async with triggerer() as airflow:
        number = airflow.start(wait(min_runs=2))
        await more_polls(pai)
        pai.unlabel_run(gone, "is_evaluation")
        await more_polls(pai, 3)
        pai.label_run(stays, EVALUATED)
        await more_polls(pai, 3)
        assert airflow.events[number] == []
        pai.label_run(gone, EVALUATED)
        assert sorted(await airflow.found(number)) == ["gone", "stays"]


@with_and_without_totals
@in_one_loop
async def test_several_runs_come_in_the_order_asked_for(pai):  # noqa: F811
    mine = pai.add_experiment()
    runs = [pai.add_run(name, experiment_id=mine, gmt_create_time=OLD) for name in "bca"]
    pai.add_runs(150, labels=EVALUATED)
    async with triggerer() as airflow:
        arguments = {"experiment_id": mine, "min_runs": 3, "order_by": "Name DESC"}
        number = airflow.start(wait(**arguments, max_runs=3))
        for run in runs:
            await more_polls(pai)
            assert airflow.events[number] == []
            pai.label_run(run, EVALUATED)
        assert await airflow.found(number) == ["c", "b", "a"]


@pytest.mark.parametrize("in_front", [0, 150])
@with_and_without_totals
@in_one_loop
async def test_a_metric_that_comes_late_is_noticed(pai, in_front):  # noqa: F811
    mine = pai.add_experiment()
    run = pai.add_run("a", experiment_id=mine, labels=EVALUATED, metrics={"f1": 0.5}, gmt_create_time=OLD)
    pai.add_runs(in_front, labels=EVALUATED)
    async with triggerer() as airflow:
        number = airflow.start(wait(experiment_id=mine, metrics={"f1": ">= 0.9"}))
        await more_polls(pai, 4)
        assert airflow.events[number] == []
        pai.measure_run(run, {"f1": 0.95})
        assert await airflow.found(number) == ["a"]


@with_and_without_totals
@in_one_loop
async def test_who_joins_late_is_told_what_was_there_long_ago(pai):  # noqa: F811
    mine = pai.add_experiment()
    pai.add_run("mine", experiment_id=mine, labels=EVALUATED, gmt_create_time=OLD)
    pai.add_runs(150, labels=EVALUATED)
    async with triggerer() as airflow:
        airflow.start(wait(name="never"))
        await more_polls(pai, 3)
        assert await airflow.found(airflow.start(wait(experiment_id=mine))) == ["mine"]


@with_and_without_totals
@in_one_loop
async def test_each_wait_is_told_in_its_own_interval(pai):  # noqa: F811
    run = pai.add_run("a")
    async with triggerer() as airflow:
        airflow.start(wait(name="never", poke_interval=1000.0))
        await more_polls(pai, 1)
        number = airflow.start(wait())  # it does not wait for the other one's next poll
        await more_polls(pai, 2)
        pai.label_run(run, EVALUATED)
        assert await airflow.found(number) == ["a"]


@in_one_loop
async def test_the_shorter_interval_leaves_with_the_wait_that_wanted_it(pai):  # noqa: F811
    pai.add_run("a", labels=EVALUATED)
    async with triggerer() as airflow:
        airflow.start(wait(name="never", poke_interval=1000.0))
        assert await airflow.found(airflow.start(wait())) == ["a"]
        left = polls(pai)
        await asyncio.sleep(10 * INTERVAL)
        assert polls(pai) <= left + 1


@with_and_without_totals
@in_one_loop
async def test_a_restart_finds_what_came_meanwhile(pai):  # noqa: F811
    mine = pai.add_experiment()
    run = pai.add_run("mine", experiment_id=mine, gmt_create_time=OLD)
    pai.add_runs(150, labels=EVALUATED)
    trigger = wait(experiment_id=mine)
    async with triggerer() as airflow:
        airflow.start(trigger)
        await more_polls(pai, 3)
    pai.label_run(run, EVALUATED)
    async with triggerer() as airflow:
        assert await airflow.found(airflow.start(trigger)) == ["mine"]


@in_one_loop
async def test_a_restart_of_a_thousand_waits_costs_at_most_60_requests(pai, monkeypatch):  # noqa: F811
    # The scene "day" of benchmarks/waiting_scene.py: windows of up to 12 hours, 2,000 labelled runs within.
    now = datetime.now(timezone.utc)
    others = pai.add_experiment()
    awaited = [pai.add_experiment() for _ in range(200)]
    at = lambda index: (now - timedelta(hours=12 - 12 * index / 2000)).isoformat()  # noqa: E731
    pai.add_runs(2000, experiment_id=others, labels=EVALUATED, gmt_create_time=at)
    earlier = lambda index: (now - timedelta(hours=13, minutes=index)).isoformat()  # noqa: E731
    pai.add_runs(1000, experiment_id=awaited[0], labels=EVALUATED, gmt_create_time=earlier)
    runs = [
        pai.add_run("late", experiment_id=found, gmt_create_time=(now - timedelta(hours=6)).isoformat())
        for found in awaited[:3]
    ]
    kept = [
        wait(
            experiment_id=found,
            created_after=(now - timedelta(hours=12) * (1 - 0.1 * dag)).isoformat(),
            poke_interval=1000.0,
        )
        for dag in range(5)
        for found in awaited
    ]
    pai.label_run(runs[0], EVALUATED)  # while the triggerer is down
    async with triggerer() as airflow:
        for trigger in kept:
            airflow.start(trigger)
        told = [number for number, trigger in enumerate(kept) if trigger.experiment_id == awaited[0]]
        for number in told:
            assert await airflow.found(number) == ["late"]
        await no_more_polls(pai, 0)
        assert polls(pai) <= 60
        assert sum(map(len, airflow.events)) == len(told)


def deferred(map_index: int = -1, **arguments: Any) -> PaiRunTrigger:
    """The trigger with which a sensor leaves its worker; a task is mapped where it has an index."""
    sensor = PaiRunSensor(
        task_id="wait", **{"labels": LABEL, "deferrable": True, "poke_interval": INTERVAL, **arguments}
    )
    with pytest.raises(TaskDeferred) as left:
        sensor.execute({"ti": SimpleNamespace(map_index=map_index)})
    trigger: PaiRunTrigger = left.value.trigger
    return trigger


@with_and_without_totals
@pytest.mark.parametrize("when", ["between look and joining", "while it is watched"])
def test_no_label_is_missed_whenever_it_is_set(pai, when):  # noqa: F811
    run = pai.add_run("mine", gmt_create_time=OLD)
    pai.add_runs(150, labels=EVALUATED)
    trigger = deferred(name="mine")
    if when == "between look and joining":
        pai.label_run(run, EVALUATED)

    @in_one_loop
    async def joined() -> None:
        async with triggerer() as airflow:
            number = airflow.start(trigger)
            if when == "while it is watched":
                await more_polls(pai, 3)
                assert airflow.events[number] == []
                pai.label_run(run, EVALUATED)
            assert await airflow.found(number) == ["mine"]

    joined()


@with_and_without_totals
@in_one_loop
async def test_what_was_logged_to_a_run_since_it_was_read_is_handed_on(pai):  # noqa: F811
    ago = lambda index: (datetime.now(timezone.utc) - timedelta(minutes=index)).isoformat()  # noqa: E731
    mine, since = pai.add_experiment(), (datetime.now(timezone.utc) - timedelta(days=1)).isoformat()
    old = pai.add_run("old", experiment_id=mine, labels=EVALUATED, gmt_create_time=ago(300))
    pai.add_runs(150, labels=EVALUATED, gmt_create_time=ago)
    async with triggerer() as airflow:
        for name in "bcde":  # for so many, two pages are read
            airflow.start(wait(name=name, created_after=since))
        number = airflow.start(wait(experiment_id=mine, created_after=since, min_runs=2))
        await more_polls(pai, 4)
        pai.measure_run(old, {"f1": 0.9})
        pai.add_run("new", experiment_id=mine, labels=EVALUATED)
        payload = await airflow.event(number)
    assert [(run["name"], run["metrics"]) for run in payload["runs"]] == [("old", {"f1": 0.9}), ("new", {})]


# --- the poll belongs to nobody


@in_one_loop
async def test_the_workspace_that_is_asked_decides_what_is_shared(pai):  # noqa: F811
    async with triggerer() as airflow:
        for workspace_id in (None, pai.workspace_id, None, pai.workspace_id):
            airflow.start(wait(workspace_id=workspace_id, name=f"run-{workspace_id}"))
        await more_polls(pai, 8)
        assert the_poller().number >= 4
        assert {request.query["WorkspaceId"] for request in pai.requests} == {pai.workspace_id}


@in_one_loop
async def test_who_follows_the_connection_follows_it_to_another_workspace(pai, monkeypatch):  # noqa: F811
    monkeypatch.setattr("airflow_provider_pai.waiting.client.REFRESH_SECONDS", INTERVAL)
    other = pai.add_workspace("other")
    run = pai.add_run("elsewhere", workspace_id=other)
    stays_run = pai.add_run("here")
    async with triggerer() as airflow:
        follows, stays = airflow.start(wait()), airflow.start(wait(workspace_id=pai.workspace_id))
        await more_polls(pai)
        uri = pai.connection_uri.replace(f"workspace_id={pai.workspace_id}", f"workspace_id={other}")
        assert uri != pai.connection_uri
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", uri)
        await more_polls(pai, 6)
        pai.label_run(run, EVALUATED)
        assert await airflow.found(follows) == ["elsewhere"]
        assert airflow.events[stays] == []
        pai.label_run(stays_run, EVALUATED)
        assert await airflow.found(stays) == ["here"]


@pytest.mark.parametrize("how", ["ends", "is cancelled", "fails"])
@in_one_loop
async def test_the_poll_outlives_the_trigger_that_caused_it(pai, monkeypatch, how):  # noqa: F811
    run = pai.add_run("a")
    pai.add_run("first", labels={"other": "label"})
    async with triggerer() as airflow:
        first = airflow.start(wait(name="first"))
        await more_polls(pai)
        others = [airflow.start(wait(name="a")) for _ in range(3)]
        await more_polls(pai)
        if how == "ends":
            pai.label_run(pai.add_run("first"), EVALUATED)
            assert await airflow.found(first) == ["first"]
        elif how == "is cancelled":
            airflow.tasks[first].cancel()
        else:
            with monkeypatch.context() as patched:
                patched.setattr(PaiRunTrigger, "_met", lambda *_: 1 / 0)
                pai.label_run(pai.add_run("first"), EVALUATED)
                with pytest.raises(ZeroDivisionError):
                    await airflow.tasks[first]
        await more_polls(pai, 3)
        # And the Connection is followed on.
        pai.accept("rotated", "new-secret")
        uri = pai.connection_uri.replace("emulator:emulator-secret", "rotated:new-secret")
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", uri)
        pai.revoke(pai.access_key_id)
        await more_polls(pai, 4)
        pai.label_run(run, EVALUATED)
        for number in others:
            assert await airflow.found(number) == ["a"]


@in_one_loop
async def test_the_task_of_a_poll_inherits_nothing_of_a_trigger(pai):  # noqa: F811
    whose = contextvars.ContextVar("whose", default="nobody's")
    whose.set("a trigger's")
    seen: list[str] = []
    settings = SharedClient.settings

    async def spied(client: SharedClient) -> Any:
        if asyncio.current_task() is not triggers_own[0]:
            seen.append(whose.get())
        return await settings(client)

    SharedClient.settings = spied
    try:
        async with triggerer() as airflow:
            airflow.start(wait())
            triggers_own = [airflow.tasks[0]]
            await more_polls(pai, 3)
    finally:
        SharedClient.settings = settings
    assert set(seen) == {"nobody's"}


@in_one_loop
async def test_a_cancellation_that_comes_with_an_update_is_not_lost(pai):  # noqa: F811
    async with triggerer() as airflow:
        number = airflow.start(wait(poke_interval=1000.0))
        await more_polls(pai, 1)
        await asyncio.sleep(0.2)
        made = the_poller()
        (question,) = made.questions
        made._subscribed.set()
        question.send(Update())  # both are woken ...
        airflow.tasks[number].cancel()  # ... and cancelled in the same moment
        await asyncio.wait({airflow.tasks[number]}, timeout=5)
        assert airflow.tasks[number].cancelled()
        assert made._task.cancelled()


@in_one_loop
async def test_a_poll_task_that_dies_is_started_again(pai, caplog):  # noqa: F811
    run = pai.add_run("a")
    async with triggerer() as airflow:
        number = airflow.start(wait())
        await more_polls(pai)
        made = the_poller()
        made._task.cancel()
        await more_polls(pai, 3)
        pai.label_run(run, EVALUATED)
        assert await airflow.found(number) == ["a"]
    assert "started again" in caplog.text


@in_one_loop
async def test_a_mistake_of_ours_is_a_failed_poll_for_all_and_ends_nobody(pai, monkeypatch, caplog):  # noqa: F811
    run = pai.add_run("a")

    def mistaken(*_: Any, **__: Any) -> bool:
        raise LookupError("of ours")

    async with triggerer() as airflow:
        number, impatient = airflow.start(wait()), airflow.start(wait(fault_tolerance=2))
        await more_polls(pai)
        with monkeypatch.context() as patched:
            patched.setattr(listing.Listing, "take_newest", mistaken)
            text, permanent = await airflow.failure(impatient)
        assert ("UnforeseenError: LookupError: of ours" in text, permanent) == (True, False)
        pai.label_run(run, EVALUATED)
        assert await airflow.found(number) == ["a"]
    assert "Traceback" in caplog.text


@in_one_loop
async def test_a_question_whose_last_asker_has_left_is_cancelled(pai, monkeypatch):  # noqa: F811
    monkeypatch.setattr("airflow_provider_pai.waiting.rate_limit.QUOTA_SECONDS", 1000.0)
    pai.quirks.total_count = "given"  # without it, fewer have a slot
    pai.add_runs(5100, labels=EVALUATED)  # more than pages show
    async with triggerer() as airflow:
        for index in range(20):  # four more than have a slot
            airflow.start(wait(name=f"never-{index}"))
        await until(lambda: sum("Name" in request.query for request in pai.requests) == 16)
        made = the_poller()
        await until(lambda: len(made._asking) == 4)
        for number in range(16, 20):
            airflow.tasks[number].cancel()
        await until(lambda: not made._asking)


@in_one_loop
async def test_pollers_that_start_together_do_not_stay_in_lockstep(pai):  # noqa: F811
    interval, labels = 2.0, 12
    async with triggerer() as airflow:
        for index in range(labels):
            airflow.start(wait(labels=f"label:{index}", poke_interval=interval))
        await until(lambda: polls(pai) >= 3 * labels)
        clock = asyncio.get_running_loop().time
        asked: list[float] = []
        for _ in range(labels):
            known = polls(pai)
            await until(lambda known=known: polls(pai) > known)
            asked += [clock()] * (polls(pai) - known)
    # Together they would be asked within a few hundredths of a second.
    assert len({round(moment, 1) for moment in asked}) >= labels // 3


@in_one_loop
async def test_a_wait_says_what_it_asks_and_how_far_it_has_come(pai, monkeypatch, caplog, capsys):  # noqa: F811
    monkeypatch.setattr("airflow_provider_pai.waiting.trigger.QUIET_SECONDS", 0.5)
    caplog.set_level("INFO")
    said = ""

    def log() -> str:
        nonlocal said
        said += capsys.readouterr().out  # Airflow 3
        return said + caplog.text

    run = pai.add_run("a", labels=EVALUATED, metrics={"f1": 0.5})
    async with triggerer() as airflow:
        number = airflow.start(wait(metrics={"f1": ">= 0.9"}))
        await until(lambda: "Still waiting: 1 run carries" in log())
        pai.measure_run(run, {"f1": 0.95})
        assert await airflow.found(number) == ["a"]
    lines = [
        "Waiting for 1 run with is_evaluation:true, f1 >= 0.9, polled every 0.1 s.",
        "1 run carries is_evaluation:true; 0 meet f1 >= 0.9; waiting for 1",
        "Still waiting: 1 run carries is_evaluation:true; 0 meet f1 >= 0.9; waiting for 1.",
        "1 run carries is_evaluation:true; 1 meets f1 >= 0.9; waiting for 1",
    ]
    places = [log().find(line) for line in lines]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.skipif(VERSION < (3, 3), reason="triggerers have queues since Airflow 3.3")
def test_a_deferred_wait_goes_to_the_queue_of_its_task(pai, monkeypatch):  # noqa: F811
    from airflow.sdk.execution_time.task_runner import _defer_task

    monkeypatch.setenv("AIRFLOW__TRIGGERER__QUEUES_ENABLED", "True")
    sensor = PaiRunSensor(task_id="wait", labels=LABEL, deferrable=True, queue="near_pai")
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({})
    ti = SimpleNamespace(task=sensor, dag_id="dag", task_id="wait", run_id="run")
    message, _ = _defer_task(deferred.value, ti, sensor.log)
    assert message.queue == "near_pai"


# --- what goes wrong for one, or for a while


@with_and_without_totals
@in_one_loop
async def test_one_bad_wait_fails_nobody_else(pai):  # noqa: F811
    run = pai.add_run("a")
    async with triggerer() as airflow:
        good = airflow.start(wait())
        bad = [airflow.start(wait(labels="no label")), airflow.start(wait(min_runs=0))]
        bad.append(airflow.start(wait(metrics={"f1": "high"})))
        bad += [airflow.start(wait(poke_interval=odd)) for odd in ("30", None, 0, -5, float("inf"))]
        cancelled = airflow.start(wait())
        impatient = airflow.start(wait(fault_tolerance=1))
        for number in bad:
            _, permanent = await airflow.failure(number)
            assert permanent
        await more_polls(pai)
        airflow.tasks[cancelled].cancel()
        pai.inject("html", action="ListRuns", times=5)
        text, permanent = await airflow.failure(impatient)
        assert (text.split(":")[0], permanent) == ("PaiUnavailableError", False)
        await more_polls(pai)
        pai.label_run(run, EVALUATED)
        assert await airflow.found(good) == ["a"]


FAULTS: dict[str, dict[str, Any]] = {
    "throttle": {"retry_after_ms": 1},
    "server_error": {},
    "html": {},
    "html with 200": {"status": 200},
    "reset": {},
    "reset_after": {},
    "truncate": {},
}


@pytest.mark.parametrize("kind", FAULTS)
@in_one_loop
async def test_polls_that_fail_in_passing_fail_nobody(pai, kind):  # noqa: F811
    run = pai.add_run("a")
    async with triggerer() as airflow:
        number = airflow.start(wait(fault_tolerance=3))
        await more_polls(pai)
        pai.inject(kind.partition(" ")[0], action="ListRuns", times=10, **FAULTS[kind])
        await more_polls(pai, 11)
        pai.label_run(run, EVALUATED)
        assert await airflow.found(number) == ["a"]


@pytest.mark.parametrize("kind", FAULTS)
@in_one_loop
async def test_too_many_of_them_in_a_row_end_the_wait(pai, kind):  # noqa: F811
    async with triggerer() as airflow:
        number = airflow.start(wait(fault_tolerance=2))
        for_ever = airflow.start(wait(fault_tolerance=None))
        await more_polls(pai)
        pai.inject(kind.partition(" ")[0], action="ListRuns", times=None, **FAULTS[kind])
        _, permanent = await airflow.failure(number)
        assert not permanent
        await more_polls(pai, 6)
        pai.clear_faults()
        pai.add_run("a", labels=EVALUATED)
        assert await airflow.found(for_ever) == ["a"]


# --- the key


@in_one_loop
async def test_a_wrong_key_fails_all_at_once_with_one_text(pai):  # noqa: F811
    async with triggerer() as airflow:
        waits = [airflow.start(wait(name=name)) for name in "abc"]
        await more_polls(pai)
        pai.revoke(pai.access_key_id)
        said = [await airflow.failure(number) for number in waits]
    assert len(set(said)) == 1
    for text, permanent in said:
        assert "InvalidAccessKeyId" in text
        assert SECRET not in text
        assert permanent


@in_one_loop
async def test_no_permission_fails_at_once(pai):  # noqa: F811
    async with triggerer() as airflow:
        number = airflow.start(wait())
        await more_polls(pai)
        pai.inject("error", action="ListRuns", times=None)
        text, permanent = await airflow.failure(number)
        assert "NoPermission" in text
        assert permanent


@in_one_loop
async def test_a_key_that_is_rotated_in_the_connection_is_taken_up(pai, monkeypatch):  # noqa: F811
    run = pai.add_run("a")
    async with triggerer() as airflow:
        waits = [airflow.start(wait(name=name)) for name in "aa"]
        await more_polls(pai)
        pai.accept("rotated", "new-secret")
        uri = pai.connection_uri.replace("emulator:emulator-secret", "rotated:new-secret")
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", uri)
        pai.revoke(pai.access_key_id)
        await more_polls(pai, 4)
        pai.label_run(run, EVALUATED)
        for number in waits:
            assert await airflow.found(number) == ["a"]
    assert pai.requests[-1].access_key_id == "rotated"


@in_one_loop
async def test_an_sts_token_that_expires_is_renewed_from_the_connection(pai, monkeypatch):  # noqa: F811
    run = pai.add_run("a")

    def sts(token: str) -> None:
        uri = pai.connection_uri.replace("emulator:emulator-secret", "STS.key:sts-secret")
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", f"{uri}&security_token={token}")

    pai.accept("STS.key", "sts-secret", security_token="first")
    sts("first")
    async with triggerer() as airflow:
        number = airflow.start(wait())
        await more_polls(pai)
        sts("second")
        pai.accept("STS.key", "sts-secret", security_token="first", expires_at=1.0)
        refused = polls(pai) + 1
        renew = functools.partial(pai.accept, "STS.key", "sts-secret", security_token="second")
        pai.before_request(lambda _, count: count > refused and renew())
        await more_polls(pai, 4)
        pai.label_run(run, EVALUATED)
        assert await airflow.found(number) == ["a"]


@in_one_loop
async def test_a_connection_that_cannot_be_read_for_a_while_ends_no_wait(pai, monkeypatch):  # noqa: F811
    monkeypatch.setattr("airflow_provider_pai.waiting.client.REFRESH_SECONDS", INTERVAL)
    run = pai.add_run("a")
    async with triggerer() as airflow:
        number = airflow.start(wait(fault_tolerance=1))
        await more_polls(pai)
        # A secrets backend that does not answer looks like this too: Airflow says "not found".
        del os.environ["AIRFLOW_CONN_PAI_DEFAULT"]
        await more_polls(pai, 4)
        late = airflow.start(wait(labels="other:label", fault_tolerance=2))
        await more_polls(pai, 4)
        pai.label_run(run, EVALUATED)
        assert await airflow.found(number) == ["a"]
    async with triggerer() as airflow:  # where it was never read, there is no client at hand
        late = airflow.start(wait(fault_tolerance=2))
        patient = airflow.start(wait(fault_tolerance=1000))
        text, permanent = await airflow.failure(late)
        assert ("pai_default" in text, permanent) == (True, False)
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", pai.connection_uri)
        assert await airflow.found(patient) == ["a"]


# --- and a task that ends without a worker


@in_one_loop
async def test_a_wait_that_ends_its_task_says_so(pai):  # noqa: F811
    pai.add_run("a", labels=EVALUATED, source_type="DLC", source_id="dlc1234")
    stream = wait(end_task=True).run()
    event = await anext(stream)
    await stream.aclose()
    assert type(event).__name__ == "TaskSuccessEvent"
    assert [run["name"] for run in event.xcoms["return_value"]] == ["a"]
    # Where this Airflow looks for it: tests/e2e asks Airflow itself.
    key = "pai_run_link" if VERSION < (3, 0) else "_link_PaiRunLink"
    assert "dlc1234" in event.xcoms[key]


@in_one_loop
async def test_a_link_that_cannot_be_made_fails_nothing(pai, monkeypatch):  # noqa: F811
    pai.add_run("a", labels=EVALUATED)
    monkeypatch.setattr("airflow_provider_pai.waiting.trigger.console_url", lambda *_: 1 / 0)
    stream = wait(end_task=True).run()
    event = await anext(stream)
    await stream.aclose()
    assert list(event.xcoms) == ["return_value"]
