"""PaiRunEventTrigger in one event loop, with Airflow's own streams and state stores where it has them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from airflow_db import VERSION, airflow_db, pai  # noqa: F401 - fixtures
from test_triggers import (  # noqa: F401
    EVALUATED,
    INTERVAL,
    LABEL,
    LIMIT,
    OLD,
    Triggerer,
    in_one_loop,
    more_polls,
    polls,
    quota,
    the_poller,
    triggerer,
    until,
)

if VERSION < (3, 0):
    pytest.skip("asset watchers came with Airflow 3.0", allow_module_level=True)

from airflow.sdk import Asset, AssetWatcher

from airflow_provider_pai.api import PaiUsageError
from airflow_provider_pai.triggers import PaiRunEventTrigger, pai_run_asset
from airflow_provider_pai.waiting import announcing

HAS_STORES = VERSION >= (3, 3)
stores = pytest.mark.skipif(not HAS_STORES, reason="state stores came with Airflow 3.3")
pytestmark = pytest.mark.timeout(2 * LIMIT)


@pytest.fixture(autouse=True)
def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announcing, "SETTLE_SECONDS", INTERVAL)


class Stored:
    """What Airflow keeps for its assets; its accessors reach it as they reach a triggerer's supervisor."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], str] = {}
        self.fails = False

    async def asend(self, message: Any) -> Any:
        from airflow.sdk.execution_time import comms

        if self.fails:
            raise ConnectionError("the database is away")
        place = message.name, message.key
        if isinstance(message, comms.SetAssetStateStoreByName):
            assert message.value is not None
            self.values[place] = json.dumps(message.value)
            return comms.OKResponse(ok=True)
        assert isinstance(message, comms.GetAssetStateStoreByName)
        if place not in self.values:
            return comms.ErrorResponse(error=comms.ErrorType.ASSET_STORE_NOT_FOUND, detail={})
        return comms.AssetStateStoreResult(value=json.loads(self.values[place]))

    def remembered(self) -> set[str]:
        """The ids of the runs that a restart would not announce."""
        return {run for value in self.values.values() for run in json.loads(value)["announced"]}


@contextmanager
def kept_by_airflow(stored: Stored) -> Iterator[None]:
    from airflow.sdk.execution_time.supervisor import set_supervisor_comms

    with set_supervisor_comms(stored):
        yield


@pytest.fixture
def stored(pai: Any) -> Iterator[Stored]:  # noqa: F811
    """The state stores of Airflow 3.3; on an Airflow before it nothing is ever stored."""
    made = Stored()
    if not HAS_STORES:
        yield made
        return
    with kept_by_airflow(made):
        yield made


def watcher(*assets: str, **arguments: Any) -> PaiRunEventTrigger:
    """The trigger of a watcher of these assets."""
    made = PaiRunEventTrigger(**{"labels": LABEL, "poke_interval": INTERVAL, **arguments})
    if HAS_STORES and assets:
        from airflow.sdk.execution_time.context import AssetStateStoreAccessors

        made.asset_state_store = AssetStateStoreAccessors(inlets=[Asset(name=name) for name in assets])
    return made


def names(airflow: Triggerer, number: int = 0) -> list[str]:
    """The names of the announced runs, in the order they were announced."""
    return [
        run["name"]
        for payload in airflow.events[number]
        for run in (payload["runs"] if "runs" in payload else [payload["run"]])
    ]


async def quiet(pai: Any, requests: int = 3) -> None:  # noqa: F811
    """Wait until watchers have surely looked, for so many requests, and have stored what they saw."""
    await more_polls(pai, requests)
    await asyncio.sleep(2 * INTERVAL)


# --- what is announced


@in_one_loop
async def test_what_was_there_at_the_first_start_is_not_announced(pai, stored):  # noqa: F811
    pai.add_run("there", labels=EVALUATED)
    pai.add_runs(150, labels=EVALUATED)
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await quiet(pai)
        assert airflow.events == [[]]


@in_one_loop
async def test_runs_are_announced_once_when_they_come_to_match(pai, stored):  # noqa: F811
    old = pai.add_run("old", gmt_create_time=OLD)
    late = pai.add_run("late")
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await quiet(pai)
        pai.add_run("new", labels=EVALUATED)
        await until(lambda: len(names(airflow)) == 1)
        pai.label_run(late, EVALUATED)
        await until(lambda: len(names(airflow)) == 2)
        pai.label_run(old, EVALUATED)
        await until(lambda: len(names(airflow)) == 3)
        pai.label_run(old, {"another": "label"})
        pai.measure_run(late, {"f1": 0.9})
        await quiet(pai)
    assert names(airflow) == ["new", "late", "old"]


@pytest.mark.parametrize("total_count", ["given", "absent"])
@in_one_loop
async def test_an_old_run_is_announced_from_beyond_the_newest_page(pai, stored, total_count):  # noqa: F811
    pai.quirks.total_count = total_count
    mine = pai.add_experiment()
    old = pai.add_run("old", experiment_id=mine, gmt_create_time=OLD)
    pai.add_runs(250, labels=EVALUATED)
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        airflow.start(watcher("mine", experiment_id=mine))
        await quiet(pai, 15)  # two pages, three for each one's own query, and the polls after that
        pai.label_run(old, EVALUATED)
        await until(lambda: names(airflow, 0) and names(airflow, 1))
        await quiet(pai)
    assert [names(airflow, number) for number in (0, 1)] == [["old"], ["old"]]


@in_one_loop
async def test_a_run_that_comes_to_meet_the_metrics_is_announced(pai, stored):  # noqa: F811
    run = pai.add_run("a", labels=EVALUATED, metrics={"f1": 0.5})
    async with triggerer() as airflow:
        airflow.start(watcher("models", metrics={"f1": ">= 0.9"}))
        await quiet(pai)
        pai.measure_run(run, {"f1": 0.95})
        await until(lambda: names(airflow))
        pai.measure_run(run, {"f1": 0.99})
        await quiet(pai)
    assert names(airflow) == ["a"]


@in_one_loop
async def test_a_value_logged_late_to_a_run_beyond_the_newest_page_is_announced(pai, stored):  # noqa: F811
    pai.quirks.total_count = "given"  # without it, older pages are read each interval
    run = pai.add_run("a", labels=EVALUATED, metrics={"f1": 0.5}, gmt_create_time=OLD)
    pai.add_runs(150, labels=EVALUATED, metrics={"f1": 0.99})
    async with triggerer() as airflow:
        airflow.start(watcher("models", metrics={"f1": ">= 0.9"}))
        await quiet(pai, 8)
        pai.measure_run(run, {"f1": 0.95})
        await until(lambda: names(airflow))
        known = polls(pai)
        await more_polls(pai, 5)  # nothing is left to be measured, so each of them is the newest page alone
        assert [request.query.get("PageToken") for request in pai.requests[known + 1 :]] == [None] * 4
    assert names(airflow) == ["a"]


@in_one_loop
async def test_after_a_question_that_failed_it_looks_again_at_the_next_poll(pai, stored):  # noqa: F811
    old = pai.add_run("old", gmt_create_time=OLD)
    pai.add_runs(250, labels=EVALUATED)
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await quiet(pai, 8)
        # The newest page comes, and whatever is asked beyond it does not, twice with all attempts.
        pai.inject("server_error", action="ListRuns", times=10, after=1)
        pai.label_run(old, EVALUATED)
        await until(lambda: names(airflow))
    assert names(airflow) == ["old"]


@stores
@in_one_loop
async def test_what_identifies_its_memory_is_what_is_asked(pai, stored):  # noqa: F811
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await quiet(pai)
        run = pai.add_run("a", labels=EVALUATED)
        await until(lambda: run in stored.remembered())
    pai.add_run("down", labels=EVALUATED)
    async with triggerer() as again:
        changed = {"labels": EVALUATED, "poke_interval": INTERVAL / 2, "per_run": True}
        again.start(watcher("models", **changed))
        await until(lambda: names(again))
        await quiet(pai)
    assert names(again) == ["down"]


@in_one_loop
async def test_one_event_tells_of_all_runs_of_a_poll_or_each_has_its_own(pai, stored):  # noqa: F811
    async with triggerer() as airflow:
        airflow.start(watcher("batch"))
        airflow.start(watcher("each", per_run=True))
        await quiet(pai)
        pai.add_runs(
            120,
            name=lambda index: f"run-{index}",
            labels=EVALUATED,
            metrics={"f1": 0.9, "loss": float("nan")},
            params={"a": "b" * 500},
            source_type="DLC",
            source_id="dlc1",
        )
        await until(lambda: all(len(names(airflow, number)) == 120 for number in (0, 1)))
    batches, each = airflow.events
    assert all(len(payload["runs"]) <= 100 for payload in batches)
    assert len(each) == 120
    assert sorted(names(airflow, 0)) == sorted(names(airflow, 1)) == sorted(f"run-{i}" for i in range(120))
    for payload in (*batches, *each):
        assert json.loads(json.dumps(payload, allow_nan=False)) == payload
    run = each[0]["run"]
    assert run.keys() == {
        *("run_id", "name", "experiment_id", "workspace_id", "source_type", "source_id"),
        *("gmt_create_time", "labels", "metrics"),
    }
    assert len(json.dumps(run)) < 500
    assert (run["labels"], run["metrics"]) == (EVALUATED, {"f1": 0.9, "loss": "NaN"})


@in_one_loop
async def test_watchers_and_waits_share_one_poll(pai, stored):  # noqa: F811
    from test_triggers import wait

    experiments = [pai.add_experiment() for _ in range(5)]
    async with triggerer() as airflow:
        for found in experiments:
            airflow.start(watcher("models", experiment_id=found))
            airflow.start(wait(experiment_id=found))
        await until(lambda: polls(pai) >= 4)
        the_poller()
        assert all("ExperimentId" not in request.query for request in pai.requests)


# --- restarts


@stores
@in_one_loop
async def test_a_restart_loses_nothing_and_repeats_nothing(pai, stored):  # noqa: F811
    pai.add_run("there", labels=EVALUATED)
    late = pai.add_run("late", gmt_create_time=OLD)
    pai.add_runs(150, labels={"other": "label"})
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await quiet(pai)
        before = pai.add_run("before", labels=EVALUATED)
        await until(lambda: before in stored.remembered())
    assert names(airflow) == ["before"]
    pai.add_run("down", labels=EVALUATED)
    pai.label_run(late, EVALUATED)
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await until(lambda: len(names(airflow)) >= 2)
        await quiet(pai)
        assert sorted(names(airflow)) == ["down", "late"]
        pai.add_run("after", labels=EVALUATED)
        await until(lambda: len(names(airflow)) >= 3)
    assert names(airflow)[2:] == ["after"]


@stores
@in_one_loop
async def test_a_kill_before_the_runs_are_stored_repeats_them(pai, stored, monkeypatch):  # noqa: F811
    monkeypatch.setattr(announcing, "SETTLE_SECONDS", 1000.0)
    async with triggerer() as airflow:
        airflow.start(watcher("models", per_run=True))
        await quiet(pai)
        pai.add_runs(3, labels=EVALUATED)
        await until(lambda: len(names(airflow)) == 3)
    async with triggerer() as again:
        again.start(watcher("models", per_run=True))
        await until(lambda: len(names(again)) == 3)
    assert sorted(names(again)) == sorted(names(airflow))


@pytest.mark.skipif(HAS_STORES, reason="3.3 has state stores")
@in_one_loop
async def test_without_a_store_a_restart_repeats_nothing_and_misses_what_came_meanwhile(pai):  # noqa: F811
    async with triggerer() as airflow:
        airflow.start(watcher())
        await quiet(pai)
        pai.add_run("before", labels=EVALUATED)
        await until(lambda: names(airflow) == ["before"])
    pai.add_run("down", labels=EVALUATED)
    async with triggerer() as airflow:
        airflow.start(watcher())
        await quiet(pai)
        pai.add_run("after", labels=EVALUATED)
        await until(lambda: names(airflow))
    assert names(airflow) == ["after"]


@stores
@in_one_loop
async def test_several_assets_may_be_watched_alike(pai, stored):  # noqa: F811
    async with triggerer() as airflow:
        airflow.start(watcher("one", "two"))
        await quiet(pai)
        run = pai.add_run("a", labels=EVALUATED)
        await until(lambda: run in stored.remembered())
    assert {name for name, _ in stored.values} == {"one", "two"}
    async with triggerer() as again:
        again.start(watcher("two"))  # the other one was taken from the DAGs
        await quiet(pai)
        pai.add_run("b", labels=EVALUATED)
        await until(lambda: names(again))
    assert (names(airflow), names(again)) == (["a"], ["b"])


@stores
@in_one_loop
async def test_watchers_of_one_asset_with_other_filters_do_not_mix(pai, stored):  # noqa: F811
    mine, yours = pai.add_experiment(), pai.add_experiment()
    kept = [watcher("models", experiment_id=found) for found in (mine, yours)]
    async with triggerer() as airflow:
        for trigger in kept:
            airflow.start(trigger)
        await quiet(pai)
        runs = [
            pai.add_run(name, experiment_id=found, labels=EVALUATED)
            for name, found in (("m", mine), ("y", yours))
        ]
        await until(lambda: set(runs) <= stored.remembered())
    assert [names(airflow, number) for number in (0, 1)] == [["m"], ["y"]]
    async with triggerer() as again:
        for trigger in kept:
            again.start(trigger)
        await quiet(pai)
    assert again.events == [[], []]


@stores
@in_one_loop
async def test_what_is_stored_is_bounded_and_forgets_only_the_oldest(pai, stored, monkeypatch):  # noqa: F811
    monkeypatch.setattr(announcing, "REMEMBERED", 20)
    older_than_all = pai.add_run("older than all", gmt_create_time=OLD)
    pai.add_runs(50, labels=EVALUATED)
    late = pai.add_run("late")
    pai.add_runs(5, labels=EVALUATED)
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await quiet(pai)
        pai.label_run(late, EVALUATED)
        await until(lambda: names(airflow))
        pai.label_run(older_than_all, EVALUATED)  # the docstring: it counts as announced
        await quiet(pai)
        pai.add_run("new", labels=EVALUATED)
        await until(lambda: len(names(airflow)) > 1)
    assert names(airflow) == ["late", "new"]
    (value,) = stored.values.values()
    assert len(json.loads(value)["announced"]) == 20


@stores
@in_one_loop
async def test_a_record_in_another_form_is_begun_anew(pai, stored):  # noqa: F811
    pai.add_run("a", labels=EVALUATED)
    trigger = watcher("models")
    stored.values["models", trigger._key] = json.dumps({"floor": None, "runs": {"run-1": 1}})
    async with triggerer() as airflow:
        airflow.start(trigger)
        await until(lambda: "announced" in next(iter(stored.values.values())))
        pai.add_run("b", labels=EVALUATED)
        await until(lambda: names(airflow) == ["b"])


@stores
def test_what_is_stored_stays_below_what_a_store_should_hold():
    kept = announcing.Announced()
    moment = datetime.fromisoformat("2026-11-23T22:30:37.213000+00:00")
    kept.add(announcing.Match(f"run-{i:018x}", moment, None) for i in range(5000))
    assert len(json.dumps(kept.stored())) < 64_000


@stores
@in_one_loop
async def test_a_store_that_fails_ends_nothing(pai, stored):  # noqa: F811
    stored.fails = True
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await more_polls(pai, 4)
        stored.fails = False
        await until(lambda: stored.values)
        stored.fails = True
        pai.add_run("a", labels=EVALUATED)
        await until(lambda: names(airflow) == ["a"])
        await quiet(pai)
        assert not airflow.tasks[0].done()
        stored.fails = False
        run = pai.add_run("b", labels=EVALUATED)
        await until(lambda: run in stored.remembered())
    assert names(airflow) == ["a", "b"]


# --- it never ends


FAULTS: dict[str, dict[str, Any]] = {
    "throttle": {"retry_after_ms": 1},
    "html": {},
    "reset": {},
    "error": {},
    "patch": {"fields": {"Runs": "none"}},
}


@pytest.mark.parametrize("kind", FAULTS)
@in_one_loop
async def test_faults_neither_end_it_nor_make_it_ask_more_often(pai, stored, kind):  # noqa: F811
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await quiet(pai)
        pai.inject(kind, action="ListRuns", times=None, **FAULTS[kind])
        clock = asyncio.get_running_loop().time
        known, started = polls(pai), clock()
        await more_polls(pai, 30)
        # Each poll is tried five times at the most.
        assert polls(pai) - known <= 5 * ((clock() - started) / INTERVAL + 2)
        assert not airflow.tasks[0].done()
        pai.add_run("a", labels=EVALUATED)
        pai.clear_faults()
        await until(lambda: names(airflow) == ["a"])


@in_one_loop
async def test_it_outlives_a_key_that_is_wrong_for_a_while(pai, stored):  # noqa: F811
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await quiet(pai)
        pai.revoke(pai.access_key_id)
        await more_polls(pai, 6)
        pai.add_run("a", labels=EVALUATED)
        pai.accept(pai.access_key_id, pai.access_key_secret)
        await until(lambda: names(airflow) == ["a"])


@in_one_loop
async def test_it_outlives_a_missing_connection(pai, stored, monkeypatch):  # noqa: F811
    monkeypatch.delenv("AIRFLOW_CONN_PAI_DEFAULT")
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await asyncio.sleep(5 * INTERVAL)
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", pai.connection_uri)
        await quiet(pai)
        pai.add_run("a", labels=EVALUATED)
        await until(lambda: names(airflow) == ["a"])


# --- in a DAG


def test_an_asset_and_its_watcher_in_one_line():
    asset = pai_run_asset("models", labels={"b": "2", "a": "1"}, per_run=True)
    (found,) = asset.watchers
    assert isinstance(found, AssetWatcher)
    assert (asset.name, found.name) == ("models", "models_watcher")
    classpath, kwargs = PaiRunEventTrigger(labels="a:1,b:2", per_run=True).serialize()
    trigger = found.trigger
    shown = (
        trigger.serialize() if hasattr(trigger, "serialize") else (trigger["classpath"], trigger["kwargs"])
    )
    assert shown[0] == classpath
    assert {**shown[1], "labels": None} == {**kwargs, "labels": None}


@pytest.mark.parametrize(
    "wrong", [{"labels": ""}, {"labels": "a"}, {"labels": LABEL, "metrics": {"f1": "high"}}]
)
def test_a_mistake_shows_when_the_dag_is_parsed(wrong):
    with pytest.raises(PaiUsageError):
        PaiRunEventTrigger(**wrong)


@in_one_loop
async def test_an_event_is_never_too_large_for_airflows_database(pai, stored, monkeypatch):  # noqa: F811
    monkeypatch.setattr("airflow_provider_pai._xcom.XCOM_BYTES", 2000)
    async with triggerer() as airflow:
        airflow.start(watcher("models"))
        await quiet(pai)
        pai.add_runs(7, labels=EVALUATED, metrics=lambda _: {f"m{number}": 0.5 for number in range(20)})
        pai.add_run("huge", labels=EVALUATED, metrics={f"m{number}": 0.5 for number in range(500)})
        await until(lambda: len(names(airflow)) == 8)
    sizes = [len(json.dumps(payload)) for payload in airflow.events[0]]
    assert max(sizes) <= 2000
    assert len(sizes) < 8
    (huge,) = [run for payload in airflow.events[0] for run in payload["runs"] if run["name"] == "huge"]
    assert huge.keys() & {"run_id", "labels", "metrics"} == {"run_id"}


@pytest.mark.parametrize("interval", ["30", None, 0, -5, float("nan"), timedelta(0)], ids=repr)
def test_an_interval_that_is_not_positive_is_refused_when_the_dag_is_parsed(interval):
    with pytest.raises(PaiUsageError, match="poke_interval="):
        pai_run_asset("models", labels=LABEL, poke_interval=interval)


def test_an_interval_may_be_a_timedelta():
    kwargs = watcher("models", poke_interval=timedelta(minutes=2)).serialize()[1]
    assert kwargs["poke_interval"] == 120.0


@pytest.mark.parametrize("name", ["labels", "experiment_id", "metrics"])
@pytest.mark.parametrize("nothing", [None, {}, ""], ids=repr)
def test_a_filter_that_is_nothing_is_refused_when_the_dag_is_parsed(name, nothing):
    with pytest.raises(PaiUsageError, match=name):
        pai_run_asset("models", **{"labels": LABEL, name: nothing})
