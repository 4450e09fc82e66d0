# ruff: noqa: F811 - a fixture that is imported is named again where it is used
"""One table of waits, and the same end of each in every mode, in real DAG runs.

The deferred modes run their trigger as a triggerer does. ``dag.test()`` ends no wait whose time is up, and is
taught so. What a trigger itself pushes is seen in tests/e2e: ``dag.test()`` asks again in its place.
"""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from typing import Any, ClassVar

import pytest
from airflow_db import VERSION, Ran, airflow_db, first, new_dag, pai, run_dag  # noqa: F401 - fixtures

from airflow_provider_pai._compat import AirflowTaskTimeout, trigger_event
from airflow_provider_pai.sensors import PaiRunSensor

pytestmark = pytest.mark.timeout(300)

MODES: dict[str, dict[str, Any]] = {
    "poke": {"mode": "poke"},
    "reschedule": {"mode": "reschedule"},
    "deferred": {"deferrable": True},
    "ended by the trigger": {"deferrable": True, "end_from_trigger": True},
}
EVALUATED = {"is_evaluation": "true"}
OLD = "2020-01-01T00:00:00Z"
TIME_IS_UP = {"time": "is up"}
AS_THE_SCHEDULER_SENDS_IT = (
    {"error": "Trigger/execution timeout"} if VERSION < (3, 0) else {"error": "Trigger timeout"}
)


class AsScheduled:
    """What the scheduler does to a sensor when the time of a deferred task is up."""

    seconds: ClassVar[float] = 0.0

    def defer(self, **arguments: Any) -> Any:
        AsScheduled.seconds = arguments["timeout"].total_seconds()
        super().defer(**arguments)

    def execute_complete(self, context: Any, event: Any) -> Any:
        if event == TIME_IS_UP:
            return self.resume_execution("__fail__", AS_THE_SCHEDULER_SENDS_IT, context)
        return super().execute_complete(context, event)


class Waits(AsScheduled, PaiRunSensor):
    """The sensor of runs, in a scheduler's hands."""


class InTriggerer:
    """A trigger that is run as the triggerer runs it, for as long as the scheduler lets it."""

    def __init__(self, trigger: Any) -> None:
        self.trigger = trigger

    async def run(self) -> AsyncIterator[Any]:
        try:
            yield await asyncio.wait_for(self._first_event(), AsScheduled.seconds)
        except asyncio.TimeoutError:
            yield trigger_event(TIME_IS_UP)

    async def _first_event(self) -> Any:
        async with aclosing(self.trigger.run()) as events:
            return await anext(events)


@pytest.fixture(autouse=True)
def triggerer(monkeypatch: pytest.MonkeyPatch) -> None:
    home = import_module("airflow.sdk.definitions.dag" if VERSION >= (3, 0) else "airflow.models.dag")
    native = home._run_inline_trigger
    monkeypatch.setattr(
        home, "_run_inline_trigger", lambda trigger, *rest: native(InTriggerer(trigger), *rest)
    )
    # A rotated key shows after so long, and a slot is free again; a case must not take half a minute.
    monkeypatch.setattr("airflow_provider_pai.waiting.client.REFRESH_SECONDS", 0.2)
    monkeypatch.setattr("airflow_provider_pai.waiting.rate_limit.QUOTA_SECONDS", 0.0)


@dataclass
class Case:
    """What PAI does, what is waited for, and how the wait must end."""

    arrange: Callable[[Any], Any] = lambda pai: None
    wait: dict[str, Any] | Callable[[Any], dict[str, Any]] = field(default_factory=dict)
    state: str = "success"
    tries: int = 1
    found: list[str] | None = None
    says: tuple[str, ...] = ()


def there(pai: Any) -> None:
    pai.add_run("there", labels=EVALUATED)


def evaluated(*names: str, **fields: Any) -> Callable[[Any], None]:
    """Runs that carry the label from the beginning."""

    def arrange(pai: Any) -> None:
        for name in names:
            pai.add_run(name, **{"labels": EVALUATED, **fields})

    return arrange


def run_named(pai: Any, name: str) -> str:
    return next(run["RunId"] for run in pai.runs() if run["Name"] == name)


def both(*arrangements: Callable[[Any], Any]) -> Callable[[Any], None]:
    def arrange(pai: Any) -> None:
        for one in arrangements:
            one(pai)

    return arrange


def at_poll(number: int, change: Callable[[Any], object]) -> Callable[[Any], None]:
    """Let something happen just before PAI answers the wait's request of this number."""

    def arrange(pai: Any) -> None:
        def callback(action: str, count: int) -> None:
            if action == "ListRuns" and count == number:
                change(pai)

        pai.before_request(callback)

    return arrange


def labelled_at(poll: int, *names: str, **fields: Any) -> Callable[[Any], None]:
    """Runs that are there from the start, and get their label while somebody waits."""

    def arrange(pai: Any) -> None:
        run_ids = [pai.add_run(name, **fields) for name in names]
        at_poll(poll, lambda pai: [pai.label_run(run_id, EVALUATED) for run_id in run_ids])(pai)

    return arrange


def after_get_run(*changes: Callable[[Any], object]) -> Callable[[Any], None]:
    """Let something happen before the second request of a wait that begins with GetRun."""

    def arrange(pai: Any) -> None:
        left = list(changes)

        def callback(action: str, count: int) -> None:
            while left and (action, count) != ("GetRun", 1):
                left.pop(0)(pai)

        pai.before_request(callback)

    return arrange


def label_named(*names: str) -> Callable[[Any], None]:
    return lambda pai: [pai.label_run(run_named(pai, name), EVALUATED) for name in names]


def ids(*names: str, **wait: Any) -> Callable[[Any], dict[str, Any]]:
    """A wait for runs by their ids."""
    return lambda pai: {"run_id": [run_named(pai, name) for name in names], **wait}


def faulty(kind: str, **fields: Any) -> Callable[[Any], None]:
    """A run that is there, behind an API in which this goes wrong, again and again unless said otherwise."""

    def arrange(pai: Any) -> None:
        there(pai)
        pai.inject(kind, **{"action": "ListRuns", "times": None, **fields})

    return arrange


def revoke(pai: Any) -> None:
    pai.revoke(pai.access_key_id)


def delete_connection(_: Any) -> None:
    del os.environ["AIRFLOW_CONN_PAI_DEFAULT"]


SHORT = {"timeout": 1}
THROTTLED = faulty("throttle", retry_after_ms=1)
DENIED = faulty("error")
SOFT, NEVER, SILENT = {"soft_fail": True}, {"never_fail": True}, {"silent_fail": True}
CASES = {
    # It comes.
    "met at once": Case(there, found=["there"]),
    "met later": Case(at_poll(2, there), found=["there"]),
    "late label on an old run": Case(labelled_at(3, "a", gmt_create_time=OLD), found=["a"]),
    "several": Case(
        lambda pai: (there(pai), labelled_at(3, "a", "b")(pai)),
        {"min_runs": 2, "max_runs": 2, "order_by": "Name DESC"},
        found=["there", "b"],
    ),
    # Which runs are awaited.
    "labels as a dict": Case(labelled_at(2, "a"), {"labels": EVALUATED}, found=["a"]),
    "labels from a template": Case(
        evaluated("a", labels={"day": "20251020"}), {"labels": {"day": "{{ ds_nodash }}"}}, found=["a"]
    ),
    "two labels": Case(
        both(evaluated("a"), evaluated("b", labels={**EVALUATED, "llm": "yes"})),
        {"labels": "is_evaluation:true,llm:yes"},
        found=["b"],
    ),
    "bounds from templates": Case(
        both(evaluated("a", "c"), labelled_at(2, "b")),
        {"min_runs": "{{ 1 + 1 }}", "max_runs": "{{ 2 }}"},
        found=["a", "c"],
    ),
    "more than a page": Case(
        lambda pai: pai.add_runs(230, name=lambda index: f"r{index}", labels=EVALUATED),
        {"min_runs": 230},
        found=[f"r{index}" for index in range(230)],
    ),
    "a window of time": Case(
        both(evaluated("old", gmt_create_time=OLD), labelled_at(2, "new")),
        {"created_after": "{{ data_interval_start }}"},
        found=["new"],
    ),
    "before a moment": Case(
        both(evaluated("new"), labelled_at(2, "old", gmt_create_time=OLD)),
        {"created_before": "{{ data_interval_start }}"},
        found=["old"],
    ),
    "name": Case(both(evaluated("other"), labelled_at(2, "mine")), {"name": "mine"}, found=["mine"]),
    "another workspace": Case(
        both(evaluated("here"), labelled_at(2, "there", workspace_id="145884")),
        {"workspace_id": "145884"},
        found=["there"],
    ),
    "metrics, by a template": Case(
        both(
            evaluated("good", "bad", metrics={"f1": 0.5}),
            at_poll(2, lambda pai: pai.measure_run(run_named(pai, "good"), {"f1": 0.95})),
        ),
        {"metrics": {"f1": ">= {{ 0.9 }}"}},
        found=["good"],
    ),
    # Runs by their ids.
    "an id that carries the label": Case(evaluated("a", "b"), ids("a"), found=["a"]),
    "an id that is labelled later": Case(
        both(evaluated("b"), evaluated("a", labels=None), after_get_run(label_named("a"))),
        ids("a"),
        found=["a"],
    ),
    "an old id that is labelled later": Case(
        both(
            evaluated("a", labels=None, gmt_create_time=OLD),
            lambda pai: pai.add_runs(230, name=lambda index: f"r{index}", labels=EVALUATED),
            after_get_run(label_named("a")),
        ),
        ids("a"),
        found=["a"],
    ),
    "one id as text": Case(evaluated("a"), lambda pai: {"run_id": run_named(pai, "a")}, found=["a"]),
    "all of several ids": Case(
        both(
            evaluated("a"),
            evaluated("b", "c", labels=None),
            after_get_run(label_named("b"), label_named("c")),
        ),
        ids("c", "a", "b", order_by="Name ASC"),
        found=["a", "b", "c"],
    ),
    "fewer than several ids": Case(
        both(evaluated("a", "b"), evaluated("c", labels=None)),
        ids("a", "b", "c", min_runs=2),
        found=["a", "b"],
    ),
    "an id and metrics, without labels": Case(
        both(
            evaluated("a", labels=None, metrics={"f1": 0.5}),
            after_get_run(lambda pai: pai.measure_run(run_named(pai, "a"), {"f1": 0.95})),
        ),
        ids("a", labels=None, metrics={"f1": ">= 0.9"}),
        found=["a"],
    ),
    "an id that is not there": Case(
        evaluated("a"),
        lambda pai: {"run_id": [run_named(pai, "a"), "run-0"], "retries": 2},
        state="failed",
        says=("AirflowFailException", "there is no run 'run-0'. Found: run-"),
    ),
    "an id that is gone meanwhile": Case(
        both(
            evaluated("a", labels=None),
            after_get_run(lambda pai: pai.delete_run(run_named(pai, "a")), lambda pai: there(pai)),
        ),
        ids("a", **SHORT, retries=2),
        state="failed",
    ),
    "an id in another experiment": Case(
        evaluated("a"),
        ids("a", experiment_id="exp-0"),
        state="failed",
        says=("AirflowFailException", "has experiment_id='exp-", "', not 'exp-0'"),
    ),
    "an id of which too many are awaited": Case(
        evaluated("a"), ids("a", min_runs="{{ 2 }}"), state="failed", says=("more than the 1 run",)
    ),
    # It never comes.
    "too few": Case(evaluated("a"), {**SHORT, "min_runs": 2}, state="failed", says=("AirflowSensorTimeout",)),
    "a value in another case": Case(
        evaluated("a", labels={"is_evaluation": "True"}),
        SHORT,
        state="failed",
        says=("AirflowSensorTimeout",),
    ),
    "timeout": Case(
        wait={**SHORT, "retries": 2},
        state="failed",
        says=("AirflowSensorTimeout: The timeout of 1 s is over. Awaited: 1 run with is_evaluation:true.",),
    ),
    "timeout, soft_fail": Case(wait={**SHORT, **SOFT}, state="skipped"),
    "timeout, never_fail": Case(wait={**SHORT, **NEVER}, state="failed", says=("AirflowSensorTimeout",)),
    "timeout, silent_fail": Case(wait={**SHORT, **SILENT}, state="failed", says=("AirflowSensorTimeout",)),
    # No retry can mend it.
    "wrong key": Case(
        revoke, {"retries": 2}, state="failed", says=("AirflowFailException", "InvalidAccessKeyId")
    ),
    "wrong key, soft_fail": Case(revoke, SOFT, state="skipped"),
    "wrong key, never_fail": Case(revoke, NEVER, state="skipped"),
    "wrong key, silent_fail": Case(
        revoke, SILENT, state="failed", says=("AirflowFailException", "InvalidAccessKeyId")
    ),
    "key revoked meanwhile": Case(
        at_poll(2, revoke),
        {"retries": 2},
        state="failed",
        says=("AirflowFailException", "InvalidAccessKeyId"),
    ),
    "key revoked meanwhile, soft_fail": Case(at_poll(2, revoke), SOFT, state="skipped"),
    "no permission": Case(
        DENIED, {"retries": 2}, state="failed", says=("AirflowFailException", "NoPermission")
    ),
    "no permission meanwhile": Case(
        lambda pai: pai.inject("error", action="ListRuns", times=None, after=1),
        {"retries": 2},
        state="failed",
        says=("AirflowFailException", "NoPermission"),
    ),
    "damaged": Case(
        faulty("patch", fields={"Runs": "none"}),
        {"retries": 2},
        state="failed",
        says=("AirflowFailException", "not what the API page promises"),
    ),
    "damaged meanwhile": Case(
        faulty("patch", fields={"Runs": [{"RunId": 7}]}, after=1),
        {"retries": 2, "min_runs": 2},
        state="failed",
        says=("AirflowFailException", "not what the API page promises"),
    ),
    "an empty template": Case(
        wait={"experiment_id": "{{ params.nothing }}", "retries": 3},
        state="failed",
        says=("AirflowFailException", "experiment_id is empty"),
    ),
    "bounds that no listing meets, from a template": Case(
        wait={"min_runs": "{{ 0 }}", "retries": 3}, state="failed", says=("min_runs=0",)
    ),
    # There is no such connection: Airflow says the same where a secrets backend does not answer.
    "missing connection": Case(
        wait={"pai_conn_id": "nobody_made_this", "retries": 1},
        state="failed",
        tries=2,
        says=("nobody_made_this",),
    ),
    "missing connection, never_fail": Case(
        wait={"pai_conn_id": "nobody_made_this", **NEVER}, state="skipped"
    ),
    # It passes: five attempts of one poll fail, and two of the next.
    "throttled for a while": Case(
        faulty("throttle", retry_after_ms=1, times=7), {"fault_tolerance": 2}, found=["there"]
    ),
    "unavailable for a while": Case(faulty("server_error", times=7), {"fault_tolerance": 2}, found=["there"]),
    "HTML for a while": Case(faulty("html", status=200, times=7), {"fault_tolerance": 2}, found=["there"]),
    "reset for a while": Case(faulty("reset", times=7), {"fault_tolerance": 2}, found=["there"]),
    "truncated for a while": Case(faulty("truncate", times=7), {"fault_tolerance": 2}, found=["there"]),
    "faults are counted in a row": Case(
        lambda pai: (
            pai.inject("server_error", times=5),
            pai.inject("server_error", times=5, after=6),
            labelled_at(12, "a")(pai),
        ),
        {"fault_tolerance": 2},
        found=["a"],
    ),
    # It does not pass, but might.
    "throttled throughout": Case(
        THROTTLED, {"fault_tolerance": 2}, state="failed", says=("PaiThrottledError", "Throttling")
    ),
    "throttled throughout, and tried again": Case(
        THROTTLED, {"fault_tolerance": 1, "retries": 1}, state="failed", tries=2, says=("Throttling",)
    ),
    "the first failed poll fails it": Case(
        faulty("throttle", retry_after_ms=1, times=5), {"fault_tolerance": 1}, state="failed"
    ),
    "the first failed poll counts": Case(
        faulty("throttle", retry_after_ms=1, times=10), {"fault_tolerance": 2}, state="failed"
    ),
    "throttled throughout, soft_fail": Case(
        THROTTLED, {"fault_tolerance": 2, **SOFT}, state="failed", says=("Throttling",)
    ),
    "throttled throughout, never_fail": Case(THROTTLED, {"fault_tolerance": 2, **NEVER}, state="skipped"),
    "throttled beyond the tolerance, silent_fail": Case(
        faulty("throttle", retry_after_ms=1, times=17), {"fault_tolerance": 2, **SILENT}, found=["there"]
    ),
    "throttled until the timeout": Case(
        THROTTLED, {**SHORT, "fault_tolerance": 1000}, state="failed", says=("AirflowSensorTimeout",)
    ),
    "throttled until the timeout, soft_fail": Case(
        THROTTLED, {**SHORT, "fault_tolerance": 1000, **SOFT}, state="skipped"
    ),
    "HTML throughout": Case(faulty("html"), {"fault_tolerance": 2}, state="failed", says=("502",)),
}


def wait_in(mode: str, **wait: Any) -> Ran:
    settings = {"labels": "is_evaluation:true", "poke_interval": 0.1, "timeout": 120, **MODES[mode], **wait}
    with new_dag(params={"nothing": ""}) as dag:
        Waits(task_id="wait", **settings)
    return run_dag(dag)


def cases_and_modes() -> Iterator[Any]:
    """Every case in every mode; on an Airflow between the oldest and the newest, each case in one mode.

    That one is another on the next Airflow, so that make test-all tries all pairs of a case, a mode and an
    Airflow.
    """
    for number, name in enumerate(CASES):
        for place, mode in enumerate(MODES):
            here = (number + VERSION[1] - place) % len(MODES) == 0
            yield pytest.param(name, mode, marks=() if here else pytest.mark.whole_table, id=f"{name}-{mode}")


@pytest.mark.parametrize(("name", "mode"), list(cases_and_modes()))
def test_a_wait_ends_alike_in_every_mode(pai: Any, name: str, mode: str) -> None:
    check(pai, CASES[name], mode)


def check(pai: Any, case: Case, mode: str) -> None:
    case.arrange(pai)
    ran = wait_in(mode, **(case.wait(pai) if callable(case.wait) else case.wait))
    assert ran.states == {"wait": case.state}, ran.errors
    assert ran.tries == {"wait": case.tries}
    found = ran.xcom("wait")
    assert (found and [run["name"] for run in found]) == case.found
    said = " ".join(f"{type(error).__name__}: {error}" for error in ran.errors.get("wait", []))
    assert [words for words in case.says if words not in said] == []


def test_what_is_pushed_is_the_same_to_the_byte(pai: Any) -> None:
    pai.add_run("a", labels=EVALUATED, metrics={"loss": float("nan"), "f1": 0.9}, params={"lr": "1"})
    pai.inject("server_error", times=5)  # so that the first look of the deferred ones fails
    pushed = []
    for mode in MODES:
        pai.inject("server_error", times=5)
        pushed.append(wait_in(mode).xcom("wait"))
    assert pushed == pushed[:1] * len(MODES)


@pytest.mark.parametrize("mode", ["poke", "deferred"])
def test_a_connection_that_is_not_found_meanwhile_ends_no_wait(pai: Any, mode: str) -> None:
    run_id = pai.add_run("a")

    def callback(action: str, count: int) -> None:
        if count == 2:
            delete_connection(pai)
        if count == 5:
            pai.label_run(run_id, EVALUATED)

    pai.before_request(callback)
    assert wait_in(mode, retries=0).states == {"wait": "success"}


@pytest.fixture
def interrupted() -> Iterator[None]:
    """Airflow's signal may come just when a connection is made or closed, which then stays open."""
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
        gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "reschedule"])
def test_execution_timeout_bounds_a_wait_and_leaves_it_its_retries(
    pai: Any, interrupted: None, mode: str
) -> None:
    wait = {"execution_timeout": timedelta(seconds=1), "retries": 1}
    if VERSION < (3, 0):  # whose dag.test() ends with it; a worker leaves it to the retries
        with pytest.raises(AirflowTaskTimeout):
            wait_in(mode, **wait)
        return
    ran = wait_in(mode, **wait)
    assert (ran.states, ran.tries) == ({"wait": "failed"}, {"wait": 2})
    assert {type(error).__name__ for error in ran.errors["wait"]} == {"AirflowTaskTimeout"}


@pytest.mark.parametrize("mode", MODES)
def test_airflow_does_not_complain_of_how_it_is_called(
    pai: Any, mode: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    labelled_at(2, "a")(pai)
    assert wait_in(mode).states == {"wait": "success"}
    assert "cannot be called outside" not in "".join((*capfd.readouterr(), caplog.text))


@pytest.mark.parametrize("mode", MODES)
def test_the_link_leads_to_the_run_that_was_found(pai: Any, mode: str) -> None:
    labels = labelled_at(2, "a", source_type="TrainingService", source_id="train1234")
    labels(pai)
    ran = wait_in(mode)
    assert "train1234" in str(ran.xcom("wait", "pai_run_link"))
