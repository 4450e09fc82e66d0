# ruff: noqa: F811 - a fixture that is imported is named again where it is used
"""Waits for a model's versions in one event loop: one poll for all, and what an asset announces."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from airflow_db import VERSION, airflow_db, pai  # noqa: F401 - fixtures
from test_triggers import INTERVAL, LIMIT, Triggerer, in_one_loop, quota, triggerer, until  # noqa: F401

from airflow_provider_pai.api import PaiUsageError
from airflow_provider_pai.emulator import PaiEmulator
from airflow_provider_pai.registry.condition import VersionCondition
from airflow_provider_pai.triggers import PaiModelVersionTrigger
from airflow_provider_pai.waiting import poller

pytestmark = pytest.mark.timeout(2 * LIMIT)
watched = pytest.mark.skipif(VERSION < (3, 0), reason="asset watchers came with Airflow 3.0")


def wait(**arguments: Any) -> PaiModelVersionTrigger:
    return PaiModelVersionTrigger(**{"model_name": "digits", "poke_interval": INTERVAL, **arguments})


def polls(pai: Any) -> int:
    return int(pai.request_counts.get("ListModelVersions", 0))


async def more_polls(pai: Any, count: int = 2) -> None:
    target = polls(pai) + count
    await until(lambda: polls(pai) >= target)


async def found(airflow: Triggerer, number: int) -> str:
    payload = await airflow.event(number)
    assert payload["status"] == "met", payload
    return str(payload["version"]["version_name"])


@pytest.fixture
def digits(pai: Any) -> str:
    """A model with three versions that nobody has decided about."""
    model_id = pai.add_model("digits")
    for _ in range(3):
        pai.add_model_version(model_id)
    return str(model_id)


@in_one_loop
async def test_all_waits_for_versions_of_a_model_share_one_poll(pai: Any, digits: str) -> None:
    async with triggerer() as airflow:
        for number in range(60):
            airflow.start(wait(version_name=f"0.{number % 3 + 1}.0"))
        await more_polls(pai, 3)
        assert sum(len(of_client) for of_client in poller._pollers.values()) == 1
        assert pai.request_counts["ListModels"] == 1  # the name is looked up once
        assert pai.request_counts.get("GetModelVersion", 0) == 0
        for version in ("0.1.0", "0.2.0", "0.3.0"):
            pai.approve_model_version(digits, version)
        assert [await found(airflow, number) for number in range(3)] == ["0.1.0", "0.2.0", "0.3.0"]
        for number in range(60):
            await found(airflow, number)


@in_one_loop
async def test_the_poll_outlives_the_trigger_that_caused_it(pai: Any, digits: str) -> None:
    async with triggerer() as airflow:
        airflow.start(wait())
        await more_polls(pai)
        airflow.start(wait(version_name="0.2.0"))
        await more_polls(pai)
        airflow.tasks[0].cancel()
        await more_polls(pai)
        pai.approve_model_version(digits, "0.2.0")
        assert await found(airflow, 1) == "0.2.0"


@in_one_loop
async def test_a_version_that_vanishes_ends_the_waits_for_it_alone(pai: Any, digits: str) -> None:
    async with triggerer() as airflow:
        airflow.start(wait(version_name="0.1.0"))
        airflow.start(wait(version_name="0.2.0"))
        await more_polls(pai)
        pai.delete_model_version(digits, "0.1.0")
        error, permanent = await airflow.failure(0)
        assert "PaiModelNotFoundError" in error
        assert not permanent
        await more_polls(pai)
        assert not airflow.tasks[1].done()


@in_one_loop
async def test_a_version_to_be_newer_than_that_vanishes_ends_the_wait(pai: Any, digits: str) -> None:
    async with triggerer() as airflow:
        airflow.start(wait(newer_than="0.2.0"))
        await more_polls(pai)
        pai.delete_model_version(digits, "0.2.0")
        error, permanent = await airflow.failure(0)
        assert "no version '0.2.0'" in error or "NotFound" in error
        assert not permanent  # as its text says, a retry may succeed


@in_one_loop
async def test_a_model_that_gets_a_name_is_noticed(
    pai: Any, digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_pai.registry.poller.POLLS_OF_A_NAME", 2)
    other = pai.add_model("other")
    pai.add_model_version(other, "9.0.0", approval_status="Approved")
    async with triggerer() as airflow:
        airflow.start(wait())
        await more_polls(pai)
        pai.edit_model(digits, lambda body: body.update(ModelName="renamed"))
        pai.edit_model(other, lambda body: body.update(ModelName="digits"))
        assert await found(airflow, 0) == "9.0.0"


@in_one_loop
async def test_who_follows_the_connection_follows_it_to_another_workspace(
    pai: Any, digits: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_provider_pai.waiting.client.REFRESH_SECONDS", INTERVAL)
    other = pai.add_model("digits", workspace_id="145884")
    pai.add_model_version(other, "7.0.0", approval_status="Approved")
    async with triggerer() as airflow:
        airflow.start(wait())
        airflow.start(wait(workspace_id=pai.workspace_id))
        await more_polls(pai)
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", f"{pai.connection_uri}&workspace_id=145884")
        assert await found(airflow, 0) == "7.0.0"
        assert not airflow.tasks[1].done()


@in_one_loop
async def test_an_update_comes_only_where_something_changed(pai: Any, digits: str) -> None:
    async with triggerer() as airflow:
        airflow.start(wait())
        await more_polls(pai, 2)
        ((made,),) = (of_client.values() for of_client in poller._pollers.values())
        (question,) = made.questions
        sent: list[Any] = []
        told: Callable[[Any], None] = question.send
        question.send = lambda update: (sent.append(update), told(update))[1]  # type: ignore[method-assign]
        await more_polls(pai, 4)
        assert sent == []
        pai.add_model_version(digits)
        await more_polls(pai, 2)
        assert len(sent) == 1


def test_the_trigger_means_by_its_arguments_what_the_sensor_means(pai: Any) -> None:
    given: dict[str, Any] = {"model_name": "digits", "labels": "stage:prod", "approval": "Rejected"}
    assert wait(**given).condition() == VersionCondition.of(**given)
    with pytest.raises(PaiUsageError, match="model_id"):
        PaiModelVersionTrigger().condition()


# --- what an asset announces


def names(airflow: Triggerer, number: int = 0) -> list[str]:
    return [payload["version"]["version_name"] for payload in airflow.events[number]]


def watcher(**arguments: Any) -> Any:
    from airflow_provider_pai.triggers import PaiModelVersionEventTrigger

    return PaiModelVersionEventTrigger(**{"model_name": "digits", "poke_interval": INTERVAL, **arguments})


@pytest.fixture(autouse=True)
def settle(monkeypatch: pytest.MonkeyPatch) -> None:
    if VERSION >= (3, 0):
        monkeypatch.setattr("airflow_provider_pai.waiting.announcing.SETTLE_SECONDS", INTERVAL)


@watched
@in_one_loop
async def test_a_version_is_announced_once_when_it_is_approved(pai: Any, digits: str) -> None:
    pai.approve_model_version(digits, "0.1.0")  # before anybody watches
    async with triggerer() as airflow:
        airflow.start(watcher())
        await more_polls(pai)
        pai.approve_model_version(digits, "0.3.0")
        await until(lambda: names(airflow) == ["0.3.0"])
        pai.approve_model_version(digits, "0.3.0", status="Rejected")
        await more_polls(pai, 3)
        pai.approve_model_version(digits, "0.3.0")
        pai.approve_model_version(digits, "0.2.0")
        await until(lambda: len(names(airflow)) > 1)
        assert names(airflow) == ["0.3.0", "0.2.0"]


@watched
@in_one_loop
async def test_the_event_names_the_model_the_version_its_files_and_metrics(pai: Any) -> None:
    async with triggerer() as airflow:
        airflow.start(watcher(labels={"stage": "prod"}))
        await until(lambda: pai.request_counts.get("ListModels", 0) > 2)  # there is no such model yet
        model_id = pai.add_model("digits")
        for labels in ({}, {"stage": "prod", "pai_run_id": "run-1"}):
            pai.add_model_version(
                model_id,
                uri="https://host/1",
                approval_status="Approved",
                labels=labels,
                metrics={"Results": [{"Metrics": {"accuracy": 0.93}}]},
            )
        await until(lambda: names(airflow))
        (payload,) = airflow.events[0]
        kept = ("model_name", "model_id", "version_name", "approval_status", "uri", "run_id", "metrics")
        assert [payload["version"][name] for name in kept] == [
            *("digits", model_id, "0.2.0", "Approved", "https://host/1", "run-1"),
            {"accuracy": 0.93},
        ]


@watched
@in_one_loop
async def test_another_version_of_a_name_is_announced_too(pai: Any, digits: str) -> None:
    """As PAI dates versions to the second, the emulator's clock goes on meanwhile."""
    async with triggerer() as airflow:
        airflow.start(watcher())
        await more_polls(pai)
        pai.approve_model_version(digits, "0.1.0")
        await until(lambda: names(airflow) == ["0.1.0"])
        pai.delete_model_version(digits, "0.1.0")
        pai.clock_offset = 5.0
        pai.add_model_version(digits, "0.1.0", approval_status="Approved")
        await until(lambda: names(airflow) == ["0.1.0", "0.1.0"])


@watched
@in_one_loop
async def test_faults_end_no_watcher(pai: Any, digits: str) -> None:
    async with triggerer() as airflow:
        airflow.start(watcher())
        await more_polls(pai)
        pai.inject("error", action="ListModelVersions", times=2)  # no permission, which ends a wait
        await more_polls(pai, 3)
        pai.approve_model_version(digits, "0.1.0")
        await until(lambda: names(airflow) == ["0.1.0"])


@watched
@pytest.mark.skipif(VERSION < (3, 3), reason="state stores came with Airflow 3.3")
@in_one_loop
async def test_what_happened_while_the_triggerer_was_down_is_announced(pai: Any, digits: str) -> None:
    from airflow.sdk.execution_time.context import AssetStateStoreAccessors
    from test_events import Asset, Stored, kept_by_airflow

    def of_an_asset() -> Any:
        made = watcher()
        made.asset_state_store = AssetStateStoreAccessors(inlets=[Asset(name="digits")])
        return made

    stored = Stored()
    with kept_by_airflow(stored):
        async with triggerer() as airflow:
            airflow.start(of_an_asset())
            await until(lambda: stored.values)
            pai.approve_model_version(digits, "0.1.0")
            await until(lambda: any(each.startswith("0.1.0@") for each in stored.remembered()))
        pai.approve_model_version(digits, "0.2.0")
        async with triggerer() as airflow:
            airflow.start(of_an_asset())
            await until(lambda: names(airflow) == ["0.2.0"])


@watched
def test_an_asset_says_when_the_dag_is_parsed_what_it_cannot_watch() -> None:
    from airflow_provider_pai.triggers import pai_model_asset

    asset = pai_model_asset("digits", model_name="digits")
    assert asset.watchers[0].trigger.condition().approval == "Approved"
    with pytest.raises(PaiUsageError, match="model_id, or model_name"):
        pai_model_asset("digits")
    with pytest.raises(PaiUsageError, match="Approved"):
        pai_model_asset("digits", model_name="digits", approval="approved")


# --- what is asked


@pytest.mark.skipif("PAI_TOTAL_COUNT" in os.environ, reason="its own emulator")
@in_one_loop
async def test_a_model_with_many_versions_costs_a_request_for_each_hundred(
    airflow_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PaiEmulator() as pai:
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", pai.connection_uri)
        model_id = pai.add_model("digits")
        for _ in range(250):
            pai.add_model_version(model_id)
        async with triggerer() as airflow:
            airflow.start(wait(model_name=None, model_id=model_id, poke_interval=1.0))
            await until(lambda: polls(pai) >= 6)
            assert polls(pai) % 3 == 0
            assert "ListModels" not in pai.request_counts
