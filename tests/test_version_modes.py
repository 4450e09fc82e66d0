# ruff: noqa: F811 - a fixture that is imported is named again where it is used
"""One table of waits for a model's version, and the same end of each in every mode, in real DAG runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from airflow_db import VERSION, airflow_db, new_dag, pai, run_dag  # noqa: F401 - fixtures
from test_modes import MODES, NEVER, SHORT, SILENT, SOFT, AsScheduled, both, triggerer  # noqa: F401

from airflow_provider_pai.api import PaiUsageError
from airflow_provider_pai.sensors import PaiModelVersionSensor

pytestmark = pytest.mark.timeout(300)
LISTED = "ListModelVersions"


class WaitsForVersion(AsScheduled, PaiModelVersionSensor):
    """The sensor of versions, in a scheduler's hands."""


@dataclass
class Case:
    """What PAI does, what is waited for beside the model's name, and how the wait must end."""

    arrange: Callable[[Any], Any] = lambda pai: None
    wait: dict[str, Any] | Callable[[Any], dict[str, Any]] = field(default_factory=dict)
    state: str = "success"
    tries: int = 1
    found: str | None = None
    says: tuple[str, ...] = ()


def model(pai: Any, name: str = "digits") -> str:
    return next(each["ModelId"] for each in pai.models() if each["ModelName"] == name)


def versions(*approvals: str, **fields: Any) -> Callable[[Any], None]:
    """A model with these versions, 0.1.0 and on."""

    def arrange(pai: Any) -> None:
        model_id = pai.add_model("digits")
        for approval in approvals:
            pai.add_model_version(model_id, approval_status=approval, **fields)

    return arrange


def at_request(number: int, action: str, change: Callable[[Any], object]) -> Callable[[Any], None]:
    """Let something happen just before PAI answers the request of this number."""

    def arrange(pai: Any) -> None:
        def callback(asked: str, count: int) -> None:
            if (asked, count) == (action, number):
                change(pai)

        pai.before_request(callback)

    return arrange


def meanwhile(change: Callable[[Any], object], number: int = 3) -> Callable[[Any], None]:
    return at_request(number, LISTED, change)


def decided(version: str, status: str, description: str | None = None) -> Callable[[Any], None]:
    return lambda pai: pai.approve_model_version(model(pai), version, status=status, description=description)


def added(approval: str = "Approved", **fields: Any) -> Callable[[Any], None]:
    return lambda pai: pai.add_model_version(model(pai), approval_status=approval, **fields)


def faulty(kind: str, **fields: Any) -> Callable[[Any], None]:
    return lambda pai: pai.inject(kind, **{"action": LISTED, "times": None, **fields})


def by_id(**wait: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda pai: {"model_id": model(pai), "model_name": None, **wait}


def two_of_a_name(pai: Any) -> None:
    pai.quirks.model_names = "repeatable"
    for _ in range(2):
        pai.add_model_version(pai.add_model("digits"), "0.1.0")


def beside_an_empty_one_of_the_name(pai: Any) -> None:
    pai.quirks.model_names = "repeatable"
    pai.add_model("digits")
    pai.add_model_version(pai.add_model("digits"), "0.1.0", approval_status="Approved")


def another_of_its_name(pai: Any) -> None:
    pai.delete_model(model(pai))
    versions("Approved")(pai)


THIS = {"version_name": "0.1.0"}
THROTTLED = both(versions("Approved"), faulty("throttle", retry_after_ms=1))
CASES = {
    # Somebody decides.
    "approved already": Case(versions("Approved"), THIS, found="0.1.0"),
    "approved later": Case(
        both(versions("Pending"), meanwhile(decided("0.1.0", "Approved"))), THIS, found="0.1.0"
    ),
    "by the model's id": Case(
        both(versions("Pending"), meanwhile(decided("0.1.0", "Approved"))), by_id(**THIS), found="0.1.0"
    ),
    "a template": Case(
        versions("Approved", "Approved"),
        {"version_name": "0.{{ 1 }}.0", "approval": "{{ 'Approved' }}"},
        found="0.1.0",
    ),
    "rejected is awaited": Case(
        both(versions("Pending"), meanwhile(decided("0.1.0", "Rejected"))),
        {**THIS, "approval": "Rejected"},
        found="0.1.0",
    ),
    # Any version.
    "the newest of several": Case(versions("Approved", "Approved", "Pending"), found="0.2.0"),
    "newer than one": Case(
        both(versions("Approved", "Approved"), meanwhile(added())), {"newer_than": "0.2.0"}, found="0.3.0"
    ),
    "newer than a version that is not there": Case(
        versions("Approved"), {"newer_than": "0.7.0"}, state="failed", says=("PaiModelNotFoundError", "0.7.0")
    ),
    "with labels": Case(
        both(versions("Approved"), meanwhile(added(labels={"stage": "prod", "a": "b"}))),
        {"labels": "stage:prod"},
        found="0.2.0",
    ),
    "a model that comes later": Case(at_request(3, "ListModels", versions("Approved")), found="0.1.0"),
    "a model that is made anew": Case(
        both(versions("Pending"), meanwhile(another_of_its_name)), found="0.1.0"
    ),
    "more than a page": Case(
        both(versions(*["Pending"] * 230), meanwhile(decided("0.7.0", "Approved"))), found="0.7.0"
    ),
    "approved while a page is read": Case(
        both(
            versions(*["Pending"] * 130),
            lambda pai: pai.inject(
                "approve_version",
                action=LISTED,
                after=2,
                version={"model_id": model(pai), "version_name": "0.2.0"},
            ),
        ),
        found="0.2.0",
    ),
    # Somebody decides against it.
    "rejected": Case(
        both(versions("Pending"), meanwhile(decided("0.1.0", "Rejected", "biased"))),
        {**THIS, "retries": 2},
        state="failed",
        says=("AirflowFailException", "The version 0.1.0 of digits was rejected.", "biased"),
    ),
    "rejected, on_rejected skip": Case(
        both(versions("Pending"), meanwhile(decided("0.1.0", "Rejected"))),
        {**THIS, "on_rejected": "skip"},
        state="skipped",
    ),
    "rejected at once, on_rejected skip": Case(
        versions("Rejected"), {**THIS, "on_rejected": "{{ 'skip' }}"}, state="skipped"
    ),
    "rejected, soft_fail": Case(versions("Rejected"), {**THIS, **SOFT}, state="skipped"),
    "rejected, never_fail": Case(versions("Rejected"), {**THIS, **NEVER}, state="skipped"),
    "rejected, on_rejected wait": Case(
        both(versions("Rejected"), meanwhile(decided("0.1.0", "Approved"))),
        {**THIS, "on_rejected": "wait"},
        found="0.1.0",
    ),
    "one is rejected and another undecided": Case(
        both(versions("Rejected", "Pending"), meanwhile(decided("0.2.0", "Approved"))), found="0.2.0"
    ),
    "all are rejected": Case(
        versions("Rejected", "Rejected"), state="failed", says=("The version 0.2.0 of digits was rejected.",)
    ),
    # It never comes, or cannot.
    "timeout": Case(
        versions("Pending"),
        {**SHORT, **THIS, "retries": 2},
        state="failed",
        says=("AirflowSensorTimeout", "Awaited: the version 0.1.0 of digits to be Approved."),
    ),
    "timeout, soft_fail": Case(versions("Pending"), {**SHORT, **SOFT}, state="skipped"),
    "timeout without a model": Case(wait=SHORT, state="failed", says=("AirflowSensorTimeout",)),
    "a version that is not there": Case(
        versions("Approved"),
        {"version_name": "9.0.0", "retries": 1},
        state="failed",
        tries=2,
        says=("PaiModelNotFoundError", "9.0.0"),
    ),
    "a version of a model that is not there": Case(
        wait=THIS, state="failed", says=("the model 'digits' has no version '0.1.0'",)
    ),
    "a version that vanishes": Case(
        both(versions("Pending"), meanwhile(lambda pai: pai.delete_model_version(model(pai), "0.1.0"))),
        THIS,
        state="failed",
        says=("PaiModelNotFoundError",),
    ),
    "a model that vanishes": Case(
        both(versions("Pending"), meanwhile(lambda pai: pai.delete_model(model(pai)))),
        by_id(),
        state="failed",
        says=("PaiModelNotFoundError",),
    ),
    "an empty model of the name beside it": Case(beside_an_empty_one_of_the_name, found="0.1.0"),
    "two models of the name": Case(
        two_of_a_name,
        {"retries": 2},
        state="failed",
        says=("AirflowFailException", "2 models named 'digits'", "model_id"),
    ),
    "an approval that does not exist, from a template": Case(
        wait={"approval": "{{ 'Aproved' }}", "retries": 2},
        state="failed",
        says=("AirflowFailException", "'Approved'"),
    ),
    "no permission": Case(
        both(versions("Approved"), faulty("error")),
        {"retries": 2},
        state="failed",
        says=("AirflowFailException", "NoPermission"),
    ),
    # It passes, or does not.
    "throttled for a while": Case(
        both(versions("Approved"), faulty("throttle", retry_after_ms=1, times=7)),
        {"fault_tolerance": 2},
        found="0.1.0",
    ),
    "reset for a while": Case(
        both(versions("Approved"), faulty("reset", times=7)), {"fault_tolerance": 2}, found="0.1.0"
    ),
    "throttled throughout": Case(
        THROTTLED, {"fault_tolerance": 2}, state="failed", says=("PaiThrottledError",)
    ),
    "throttled throughout, never_fail": Case(THROTTLED, {"fault_tolerance": 2, **NEVER}, state="skipped"),
    "throttled beyond the tolerance, silent_fail": Case(
        both(versions("Approved"), faulty("throttle", retry_after_ms=1, times=17)),
        {"fault_tolerance": 2, **SILENT},
        found="0.1.0",
    ),
    "missing connection": Case(
        wait={"pai_conn_id": "nobody_made_this", "retries": 1},
        state="failed",
        tries=2,
        says=("nobody_made_this",),
    ),
}


def cases_and_modes() -> Iterator[Any]:
    """As tests/test_modes.py has it: on an Airflow between the ends each case in one mode."""
    for number, name in enumerate(CASES):
        for place, mode in enumerate(MODES):
            here = (number + VERSION[1] - place) % len(MODES) == 0
            yield pytest.param(name, mode, marks=() if here else pytest.mark.whole_table, id=f"{name}-{mode}")


def wait_in(mode: str, **wait: Any) -> Any:
    settings = {"model_name": "digits", "poke_interval": 0.1, "timeout": 120, **MODES[mode], **wait}
    with new_dag() as dag:
        WaitsForVersion(task_id="wait", **settings)
    return run_dag(dag)


@pytest.mark.parametrize(("name", "mode"), list(cases_and_modes()))
def test_a_wait_ends_alike_in_every_mode(pai: Any, name: str, mode: str) -> None:
    case = CASES[name]
    case.arrange(pai)
    ran = wait_in(mode, **(case.wait(pai) if callable(case.wait) else case.wait))
    assert ran.states == {"wait": case.state}, ran.errors
    assert ran.tries == {"wait": case.tries}
    found = ran.xcom("wait")
    assert (found and found["version_name"]) == case.found
    said = " ".join(f"{type(error).__name__}: {error}" for error in ran.errors.get("wait", []))
    assert [words for words in case.says if words not in said] == []


@pytest.mark.parametrize("mode", MODES)
def test_what_is_pushed_says_which_version_and_where_its_files_are(pai: Any, mode: str) -> None:
    model_id = pai.add_model("digits")
    pai.add_model_version(
        model_id,
        "1.0.0",
        uri="oss://bucket.oss-cn-hangzhou.aliyuncs.com/digits/1",
        approval_status="Approved",
        labels={"pai_run_id": "run-1"},
        metrics={"Results": [{"Metrics": {"accuracy": 0.93}}]},
        VersionDescription="good",
    )
    assert wait_in(mode).xcom("wait") == {
        "model_name": "digits",
        "model_id": model_id,
        "version_name": "1.0.0",
        "approval_status": "Approved",
        "uri": "oss://bucket.oss-cn-hangzhou.aliyuncs.com/digits/1",
        "run_id": "run-1",
        "version_description": "good",
        "labels": {"pai_run_id": "run-1"},
        "metrics": {"accuracy": 0.93},
    }


WRONG = {
    "nothing": ({}, "give model_id, or model_name"),
    "both": ({"model_id": "model-1", "model_name": "digits"}, "give model_id, or model_name"),
    "a version and newer than one": (
        {"model_name": "digits", "version_name": "1.0.0", "newer_than": "0.9.0"},
        "contradict each other",
    ),
    "a version that PAI refuses": ({"model_name": "digits", "version_name": "v1"}, "v1"),
    "an approval": ({"model_name": "digits", "approval": "approved"}, "Did you mean 'Approved'"),
    "what to do": ({"model_name": "digits", "on_rejected": "retry"}, "one of fail, skip, wait"),
    "no text": ({"model_name": ""}, "model_name"),
    "a tolerance": ({"model_name": "digits", "fault_tolerance": 0}, "fault_tolerance"),
    "no trigger": ({"model_name": "digits", "end_from_trigger": True}, "needs deferrable=True"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_shows_when_the_dag_is_parsed(name: str) -> None:
    given, says = WRONG[name]
    with pytest.raises(PaiUsageError) as refused:
        PaiModelVersionSensor(task_id="wait", **{"deferrable": False, **given})
    assert says in str(refused.value)


@pytest.mark.skipif("PAI_TOTAL_COUNT" in os.environ, reason="the answers are compared with others")
@pytest.mark.parametrize("mode", ["poke", "deferred"])
def test_a_wait_says_how_far_it_has_come(pai: Any, mode: str, caplog: Any, capfd: Any) -> None:
    both(versions("Rejected", "Pending"), meanwhile(decided("0.2.0", "Approved")))(pai)
    wait_in(mode)
    said = caplog.text + "".join(capfd.readouterr())
    assert "Waiting for a version of digits to be Approved" in said
    assert "digits: 0.1.0 is Rejected, 0.2.0 is Pending; waiting for Approved" in said
