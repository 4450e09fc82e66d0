"""Many waits over one poll, through Airflow's own shared streams, against the local PAI.

No test asserts on a time: each waits, bounded, for what was promised, and counts requests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import airflow_db  # noqa: F401 - Airflow reads its environment when it is first imported
import pytest

pytest.importorskip("airflow.triggers.shared_stream", reason="triggers share polls from Airflow 3.3 on")

from airflow.triggers.shared_stream import SharedStreamManager

from airflow_provider_pai import clients
from airflow_provider_pai.emulator import Fault, PaiEmulator
from airflow_provider_pai.events import REMEMBERED, PaiRunEventTrigger
from airflow_provider_pai.triggers import PaiRunTrigger
from airflow_provider_pai.watch import BLIND_POLLS

pytestmark = pytest.mark.timeout(90)

INTERVAL = 0.3
LABEL = {"is_evaluation": "true"}
OLD = datetime(2024, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def pai(pai_emulator: PaiEmulator, monkeypatch: pytest.MonkeyPatch) -> PaiEmulator:
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", pai_emulator.connection_uri)
    monkeypatch.setattr(clients, "SPACING_SECONDS", 0.0)
    return pai_emulator


class Triggerer:
    """Runs triggers as Airflow's triggerer does: subscribed to the real shared streams."""

    def __init__(self) -> None:
        self.manager = SharedStreamManager()
        self.events: dict[int, list[Any]] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, trigger: Any) -> int:
        classpath, kwargs = trigger.serialize()
        again = type(trigger)(**json.loads(json.dumps(kwargs)))
        assert again == trigger and again.serialize() == (classpath, kwargs)
        again.asset_state_store = getattr(trigger, "asset_state_store", None)
        number = len(self.tasks)
        self.events[number] = []
        self.tasks[number] = asyncio.create_task(self._run(number, again))
        return number

    async def _run(self, number: int, trigger: Any) -> None:
        key = trigger.shared_stream_key()
        if key is None:
            async for event in trigger.run():
                self.events[number].append(event.payload)
            return
        stream = self.manager.subscribe(trigger_id=number, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                self.events[number].append(event.payload)
        finally:
            await self.manager.unsubscribe(number, key)

    async def until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        async with asyncio.timeout(seconds) if hasattr(asyncio, "timeout") else _timeout(seconds):
            while not condition():
                for task in self.tasks.values():
                    if task.done() and not task.cancelled() and task.exception():
                        raise AssertionError("a trigger died") from task.exception()
                await asyncio.sleep(0.02)

    async def ended(self, *numbers: int) -> list[Any]:
        await self.until(lambda: all(self.tasks[number].done() for number in numbers))
        return [self.events[number][-1] for number in numbers]


@asynccontextmanager
async def _timeout(seconds: float) -> AsyncIterator[None]:
    yield  # Python 3.10: pytest-timeout bounds it


def in_a_triggerer(scene: Callable[[Triggerer], Any]) -> None:
    async def play() -> None:
        triggerer = Triggerer()
        try:
            await scene(triggerer)
        finally:
            for task in triggerer.tasks.values():
                task.cancel()
            await asyncio.gather(*triggerer.tasks.values(), return_exceptions=True)
            await triggerer.manager.stop_all()

    asyncio.run(play())


def wait_for(experiment_id: str | None = None, **kwargs: Any) -> PaiRunTrigger:
    return PaiRunTrigger(labels=LABEL, experiment_id=experiment_id, **{"poke_interval": INTERVAL, **kwargs})


def lists(pai: PaiEmulator) -> int:
    return pai.request_counts.get("ListRuns", 0)


async def polls(triggerer: Triggerer, pai: PaiEmulator, count: int) -> None:
    """Wait until PAI has been asked so many times more."""
    before = lists(pai)
    await triggerer.until(lambda: lists(pai) >= before + count)


def test_labels_in_any_order_and_form_make_equal_triggers_and_one_poll() -> None:
    one = PaiRunTrigger(labels={"b": "2", "a": "1"})
    other = PaiRunTrigger(labels={"a": "1", "b": "2"})
    assert one == other and hash(one) == hash(other)
    text = PaiRunTrigger(labels="b:2,a:1", experiment_id="exp-1", created_after="2025-10-20T00:00:00Z")
    assert text.shared_stream_key() == one.shared_stream_key()
    assert PaiRunTrigger(labels={"a": "1"}).shared_stream_key() != one.shared_stream_key()


def test_waits_on_different_experiments_share_one_poll_and_end_each_by_its_own(pai: PaiEmulator) -> None:
    experiments = [pai.add_experiment() for _ in range(10)]
    runs = [pai.add_run(experiment_id=experiment) for experiment in experiments]

    async def scene(triggerer: Triggerer) -> None:
        waits = [triggerer.start(wait_for(experiment)) for experiment in experiments for _ in range(5)]
        await polls(triggerer, pai, 2)
        pai.clear_requests()
        await polls(triggerer, pai, 4)
        asked = [request.query for request in pai.requests]
        assert all("ExperimentId" not in query for query in asked), "a wait asked for itself"
        pai.label_run(runs[3], LABEL)
        for payload in await triggerer.ended(*waits[15:20]):
            assert payload["status"] == "met"
            assert [run["run_id"] for run in payload["runs"]] == [runs[3]]
        assert not any(triggerer.tasks[wait].done() for wait in waits[:15] + waits[20:])
        for run in runs:
            pai.label_run(run, LABEL)
        payloads = await triggerer.ended(*waits)
        found = [payload["runs"][0]["run_id"] for payload in payloads]
        assert found == [run for run in runs for _ in range(5)]

    in_a_triggerer(scene)


@pytest.mark.parametrize("total_count", ["given", "absent"])
def test_a_late_label_far_behind_the_newest_page_is_noticed(pai: PaiEmulator, total_count: str) -> None:
    pai.quirks.total_count = total_count
    experiment = pai.add_experiment()
    old = pai.add_run(experiment_id=experiment, gmt_create_time=OLD)
    pai.add_runs(350, labels=LABEL)

    async def scene(triggerer: Triggerer) -> None:
        wait = triggerer.start(wait_for(experiment))
        await polls(triggerer, pai, 5)
        assert not triggerer.tasks[wait].done()
        pai.clear_requests()
        pai.label_run(old, LABEL)
        (payload,) = await triggerer.ended(wait)
        assert [run["run_id"] for run in payload["runs"]] == [old]
        # One poll that shows it, or BLIND_POLLS without TotalCount, and one exact query.
        assert lists(pai) <= (3 if total_count == "given" else BLIND_POLLS + 3)

    in_a_triggerer(scene)


def test_a_run_labelled_between_the_first_look_and_joining_is_not_missed(pai: PaiEmulator) -> None:
    experiment = pai.add_experiment()
    run = pai.add_run(experiment_id=experiment, gmt_create_time=OLD)
    pai.add_runs(250, labels=LABEL)

    async def scene(triggerer: Triggerer) -> None:
        other = triggerer.start(wait_for(pai.add_experiment()))
        await polls(triggerer, pai, 4)  # the stream runs already
        pai.label_run(run, LABEL)
        await polls(triggerer, pai, 3)  # and has seen the change before anybody joined for it
        (payload,) = await triggerer.ended(triggerer.start(wait_for(experiment)))
        assert payload["runs"][0]["run_id"] == run
        assert not triggerer.tasks[other].done()

    in_a_triggerer(scene)


def test_more_runs_than_a_page_holds_may_come_in_one_interval(pai: PaiEmulator) -> None:
    experiment = pai.add_experiment()

    async def scene(triggerer: Triggerer) -> None:
        wait = triggerer.start(wait_for(experiment, created_after=datetime.now(timezone.utc).isoformat()))
        await polls(triggerer, pai, 2)
        run = pai.add_run(experiment_id=experiment, labels=LABEL)
        pai.add_runs(250, labels=LABEL)
        (payload,) = await triggerer.ended(wait)
        assert [found["run_id"] for found in payload["runs"]] == [run]

    in_a_triggerer(scene)


def test_a_label_that_was_taken_away_again_does_not_count(pai: PaiEmulator) -> None:
    experiment = pai.add_experiment()
    runs = [pai.add_run(experiment_id=experiment) for _ in range(3)]

    async def scene(triggerer: Triggerer) -> None:
        wait = triggerer.start(wait_for(experiment, min_runs=2))
        await polls(triggerer, pai, 2)
        pai.label_run(runs[0], LABEL)
        await polls(triggerer, pai, 2)
        pai.unlabel_run(runs[0], "is_evaluation")
        await polls(triggerer, pai, 2)
        pai.label_run(runs[1], LABEL)
        await polls(triggerer, pai, 2)
        assert not triggerer.tasks[wait].done()
        pai.label_run(runs[2], LABEL)
        (payload,) = await triggerer.ended(wait)
        assert [run["run_id"] for run in payload["runs"]] == runs[1:]

    in_a_triggerer(scene)


@pytest.mark.parametrize("deep", [False, True], ids=["on the newest page", "far behind it"])
def test_a_wait_with_metric_rules_ends_when_they_are_met(pai: PaiEmulator, deep: bool) -> None:
    experiment = pai.add_experiment()
    run = pai.add_run(experiment_id=experiment, labels=LABEL, gmt_create_time=OLD)
    pai.add_runs(150 if deep else 3, labels=LABEL)

    async def scene(triggerer: Triggerer) -> None:
        wait = triggerer.start(wait_for(experiment, metrics={"accuracy": ">= 0.9"}))
        await polls(triggerer, pai, 3)
        pai.measure_run(run, {"accuracy": 0.89}, step=1)
        await polls(triggerer, pai, 4)
        assert not triggerer.tasks[wait].done()
        pai.measure_run(run, {"accuracy": 0.9}, step=2)
        (payload,) = await triggerer.ended(wait)
        assert payload["runs"][0]["metrics"] == {"accuracy": 0.9}

    in_a_triggerer(scene)


FAULTS = [
    {"kind": "throttle"},
    {"kind": "server_error"},
    {"kind": "html", "status": 200},
    {"kind": "reset"},
    {"kind": "truncate"},
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["kind"])
def test_a_fault_fails_nobody_below_the_tolerance(
    pai: PaiEmulator, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_pai.api.flow.ATTEMPTS", 1)
    experiment = pai.add_experiment()
    run = pai.add_run(experiment_id=experiment)

    async def scene(triggerer: Triggerer) -> None:
        patient, impatient = (
            triggerer.start(wait_for(experiment, fault_tolerance=tolerance)) for tolerance in (5, 2)
        )
        await polls(triggerer, pai, 2)
        pai.inject(Fault(**fault, action="ListRuns", times=3))
        (payload,) = await triggerer.ended(impatient)
        assert payload["status"] == "failed" and payload["lasting"] is False
        pai.label_run(run, LABEL)
        (payload,) = await triggerer.ended(patient)
        assert payload["runs"][0]["run_id"] == run

    in_a_triggerer(scene)


def test_an_answer_of_wrong_types_and_a_wrong_key_end_all_waits_with_the_same_text(pai: PaiEmulator) -> None:
    async def damaged(triggerer: Triggerer) -> None:
        waits = [triggerer.start(wait_for(pai.add_experiment())) for _ in range(3)]
        await polls(triggerer, pai, 2)
        pai.inject("patch", fields={"Runs": {"no": "list"}}, action="ListRuns", times=None)
        payloads = await triggerer.ended(*waits)
        assert {payload["lasting"] for payload in payloads} == {True}
        assert len({payload["error"].split("request id")[0] for payload in payloads}) == 1

    in_a_triggerer(damaged)
    pai.clear_faults()

    async def revoked(triggerer: Triggerer) -> None:
        waits = [triggerer.start(wait_for(pai.add_experiment())) for _ in range(3)]
        await polls(triggerer, pai, 2)
        pai.revoke(pai.access_key_id)
        for payload in await triggerer.ended(*waits):
            assert payload["lasting"] is True and "AccessKey" in payload["error"]

    in_a_triggerer(revoked)


def test_a_malformed_label_fails_its_own_wait_alone(pai: PaiEmulator) -> None:
    experiment = pai.add_experiment()

    async def scene(triggerer: Triggerer) -> None:
        good = triggerer.start(wait_for(experiment))
        bad = triggerer.start(PaiRunTrigger(labels="is_evaluation", poke_interval=INTERVAL))
        (payload,) = await triggerer.ended(bad)
        assert payload["lasting"] is True and "key:value" in payload["error"]
        gone = triggerer.start(wait_for(experiment))
        await polls(triggerer, pai, 2)
        triggerer.tasks[gone].cancel()  # a user clears the task
        await polls(triggerer, pai, 2)
        run = pai.add_run(experiment_id=experiment, labels=LABEL)
        (payload,) = await triggerer.ended(good)
        assert payload["runs"][0]["run_id"] == run

    in_a_triggerer(scene)


def test_a_key_rotated_and_a_token_renewed_in_the_connection_are_picked_up(
    pai: PaiEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connection(key: str, secret: str, token: str) -> str:
        extra = {"workspace_id": pai.workspace_id, "security_token": token}
        return json.dumps(
            {"conn_type": "pai", "host": pai.url, "login": key, "password": secret, "extra": extra}
        )

    experiment = pai.add_experiment()
    pai.accept("STS.first", "secret-one", security_token="token-one")
    pai.accept("STS.second", "secret-two", security_token="token-two")
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", connection("STS.first", "secret-one", "token-one"))

    async def scene(triggerer: Triggerer) -> None:
        wait = triggerer.start(wait_for(experiment))
        await polls(triggerer, pai, 2)
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", connection("STS.second", "secret-two", "token-two"))
        pai.revoke("STS.first")
        await polls(triggerer, pai, 4)
        pai.add_run(experiment_id=experiment, labels=LABEL)
        (payload,) = await triggerer.ended(wait)
        assert payload["status"] == "met"
        assert pai.requests[-1].access_key_id == "STS.second"

    in_a_triggerer(scene)


def test_a_deleted_connection_ends_the_waits(pai: PaiEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "REFRESH_SECONDS", 0.0)

    async def scene(triggerer: Triggerer) -> None:
        wait = triggerer.start(wait_for(pai.add_experiment()))
        await polls(triggerer, pai, 2)
        monkeypatch.delenv("AIRFLOW_CONN_PAI_DEFAULT")
        (payload,) = await triggerer.ended(wait)
        assert payload["lasting"] is True and "pai_default" in payload["error"]

    in_a_triggerer(scene)


def test_after_a_restart_a_thousand_waits_are_watched_for_sixty_requests(pai: PaiEmulator) -> None:
    """A hundred thousand runs would only be further back: the waits' window is what is read again."""
    start = datetime(2025, 10, 20, tzinfo=timezone.utc)
    experiments = [pai.add_experiment() for _ in range(200)]
    pai.add_runs(3000, labels=LABEL, gmt_create_time=start - timedelta(days=1))
    pai.add_runs(2000, labels=LABEL, gmt_create_time=lambda index: start + timedelta(seconds=index))
    runs = [pai.add_run(experiment_id=experiment, gmt_create_time=start) for experiment in experiments]

    async def scene(triggerer: Triggerer) -> None:
        for number in range(1000):
            triggerer.start(wait_for(experiments[number % 200], created_after=start, poke_interval=2))
        pai.label_run(runs[7], LABEL)  # while the triggerer was down, as it were
        await triggerer.until(lambda: sum(task.done() for task in triggerer.tasks.values()) == 5, 60)
        assert lists(pai) <= 60
        assert all("ExperimentId" not in request.query for request in pai.requests)

    in_a_triggerer(scene)


# --- events ---------------------------------------------------------------------------------------------


class Store:
    """What Airflow's accessor of an asset's state does, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.fails = 0

    async def aget(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key: str, value: Any) -> None:
        if self.fails:
            self.fails -= 1
            raise RuntimeError("the API server does not answer")
        self.values[key] = json.dumps(value)


class Stores:
    """What Airflow gives a trigger that serves several assets."""

    def __init__(self, *stores: Store) -> None:
        self._by_name = dict(enumerate(stores))
        self._by_uri: dict[str, Store] = {}


def watcher(store: object = None, **kwargs: Any) -> PaiRunEventTrigger:
    trigger = PaiRunEventTrigger(labels=LABEL, **{"poke_interval": INTERVAL, **kwargs})
    trigger.asset_state_store = store
    return trigger


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_pai.events.SETTLE_SECONDS", 0.05)


def announced(events: list[Any]) -> list[str]:
    return [run["run_id"] for event in events for run in event.get("runs") or [event["run"]]]


def test_an_event_trigger_announces_what_newly_matches_and_nothing_that_was_there(pai: PaiEmulator) -> None:
    experiment = pai.add_experiment()
    old = pai.add_run(experiment_id=experiment, gmt_create_time=OLD)
    pai.add_runs(150, labels=LABEL, experiment_id=experiment)

    async def scene(triggerer: Triggerer) -> None:
        together = triggerer.start(watcher(experiment_id=experiment))
        each = triggerer.start(watcher(experiment_id=experiment, per_run=True))
        await polls(triggerer, pai, 6)
        pai.clear_requests()
        new = [pai.add_run(experiment_id=experiment, labels=LABEL, metrics={"a": 1}) for _ in range(2)]
        pai.add_run(labels=LABEL)  # of another experiment
        await triggerer.until(lambda: all(len(announced(triggerer.events[n])) == 2 for n in (together, each)))
        pai.label_run(old, LABEL)
        await triggerer.until(lambda: all(len(announced(triggerer.events[n])) == 3 for n in (together, each)))
        await polls(triggerer, pai, 4)
        for number in (together, each):
            assert sorted(announced(triggerer.events[number])) == sorted([*new, old])
            json.dumps(triggerer.events[number], allow_nan=False)
        assert len(triggerer.events[each]) == 3
        assert triggerer.events[each][0]["run"]["metrics"] == {"a": 1}

    in_a_triggerer(scene)


def test_a_restart_loses_no_run_and_announces_none_twice(pai: PaiEmulator) -> None:
    stores = Store(), Store()
    pai.add_runs(120, labels=LABEL)
    told: list[str] = []
    runs: list[str] = []

    async def scene(triggerer: Triggerer) -> None:
        number = triggerer.start(watcher(Stores(*stores)))  # two assets with equal settings
        want = len(runs) - len(told)
        await triggerer.until(lambda: len(announced(triggerer.events[number])) == want)
        await polls(triggerer, pai, 3)
        runs.append(pai.add_run(labels=LABEL))
        await triggerer.until(lambda: len(announced(triggerer.events[number])) == want + 1)
        await polls(triggerer, pai, 3)
        told.extend(announced(triggerer.events[number]))

    in_a_triggerer(scene)
    for _ in range(2):
        runs.extend(pai.add_run(labels=LABEL) for _ in range(2))  # while the triggerer is down
        in_a_triggerer(scene)
    assert sorted(told) == sorted(runs) and len(runs) == 7
    assert all(len(store.values) == 1 for store in stores)
    assert all(len(text) < 65_536 for store in stores for text in store.values.values())


def test_what_is_remembered_stays_small_and_old_runs_count_as_announced(pai: PaiEmulator) -> None:
    store = Store()
    pai.add_runs(REMEMBERED + 200, labels=LABEL, gmt_create_time=lambda n: OLD + timedelta(seconds=n))
    forgotten = pai.add_run(gmt_create_time=OLD - timedelta(days=1))

    async def scene(triggerer: Triggerer) -> None:
        number = triggerer.start(watcher(store))
        await triggerer.until(lambda: bool(store.values))
        pai.label_run(forgotten, LABEL)
        new = pai.add_run(labels=LABEL)
        await triggerer.until(lambda: bool(triggerer.events[number]))
        await polls(triggerer, pai, 4)
        assert announced(triggerer.events[number]) == [new]

    in_a_triggerer(scene)
    assert all(len(text) < 65_536 for text in store.values.values())


def test_an_event_trigger_survives_faults_paced_by_its_interval(
    pai: PaiEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_pai.api.flow.ATTEMPTS", 1)
    store = Store()
    store.fails = 2

    async def scene(triggerer: Triggerer) -> None:
        number = triggerer.start(watcher(store))
        await polls(triggerer, pai, 3)
        pai.inject("error", status=403, code="NoPermission", action="ListRuns", times=3)
        pai.inject("patch", fields={"Runs": 5}, action="ListRuns", times=2)
        pai.inject("reset", action="ListRuns", times=2)
        times = [request.time for request in pai.requests]
        await polls(triggerer, pai, 8)
        times = [request.time for request in pai.requests][len(times) - 1 :]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps) > INTERVAL / 2, "a fault made it poll faster than its interval"
        run = pai.add_run(labels=LABEL)
        await triggerer.until(lambda: announced(triggerer.events[number]) == [run])
        assert not triggerer.tasks[number].done()

    in_a_triggerer(scene)


def test_sensors_and_events_of_the_same_labels_share_a_poll(pai: PaiEmulator) -> None:
    experiment = pai.add_experiment()

    async def scene(triggerer: Triggerer) -> None:
        triggerer.start(watcher())
        triggerer.start(wait_for(experiment))
        await polls(triggerer, pai, 3)
        assert len(triggerer.manager._groups) == 1
        run = pai.add_run(experiment_id=experiment, labels=LABEL)
        await triggerer.until(lambda: announced(triggerer.events[0]) == [run])
        (payload,) = await triggerer.ended(1)
        assert payload["runs"][0]["run_id"] == run

    in_a_triggerer(scene)


def test_no_secret_is_in_what_a_trigger_serializes(pai: PaiEmulator) -> None:
    for trigger in (wait_for("exp-1"), watcher()):
        assert pai.access_key_secret not in json.dumps(trigger.serialize())
        assert pai.access_key_secret not in repr(trigger)
