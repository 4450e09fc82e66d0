"""One client for each connection in a loop: shared, renewed when its Connection changes, and closed."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from airflow_db import SECRET, airflow_db, pai  # noqa: F401 - fixtures
from test_triggers import LABEL, LIMIT, in_one_loop

from airflow_provider_pai.api import (
    PaiAuthenticationError,
    PaiConfigurationError,
    PaiError,
    Run,
    RunQuery,
    list_runs,
)
from airflow_provider_pai.waiting import client as clients
from airflow_provider_pai.waiting.client import TURNS, SharedClient, shared_client

pytestmark = pytest.mark.timeout(2 * LIMIT)


async def listed(client: SharedClient) -> list[Run]:
    query = await client.located(RunQuery(labels=LABEL))
    return await client.run(lambda: list_runs(query))


def rotate(pai: Any, monkeypatch: pytest.MonkeyPatch, number: int) -> None:  # noqa: F811
    """Give the connection a new key, and take the last one back."""
    pai.accept(f"key-{number}", f"secret-{number}")
    uri = pai.connection_uri.replace(
        f"{pai.access_key_id}:{pai.access_key_secret}", f"key-{number}:secret-{number}"
    )
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", uri)
    pai.revoke(pai.access_key_id if number == 1 else f"key-{number - 1}")


@in_one_loop
async def test_everybody_shares_one_client_and_the_last_one_closes_it(pai):  # noqa: F811
    async with shared_client("pai_default", None) as first:
        async with shared_client("pai_default", None) as second:
            assert first is second
        async with shared_client("pai_default", "cn-beijing") as other:
            assert other is not first
        for _ in range(3):
            await asyncio.gather(*(listed(first) for _ in range(20)))
        assert len({request.client_port for request in pai.requests}) <= 20  # of 60 requests
    assert clients._clients == {}
    async with shared_client("pai_default", None) as again:
        assert again is not first
        assert await listed(again) == []


@in_one_loop
async def test_any_three_seconds_hold_so_many_turns_and_no_more(pai):  # noqa: F811
    async def asked(client: SharedClient) -> None:
        async with client.turn():
            await listed(client)

    async with shared_client("pai_default", None) as client:
        pai.inject("slow", delay=1.5, times=1)  # its answer is late, and so is the next turn
        await asyncio.gather(*(asked(client) for _ in range(TURNS + 5)))
    assert pai.request_counts["ListRuns"] == TURNS + 5
    assert pai.busiest["ListRuns"] <= TURNS


def test_every_loop_has_its_own(pai):  # noqa: F811
    async def client() -> SharedClient:
        async with shared_client("pai_default", None) as found:
            await listed(found)
            return found

    assert asyncio.run(client()) is not asyncio.run(client())


@in_one_loop
async def test_a_query_is_located_in_the_workspace_of_the_connection(pai):  # noqa: F811
    async with shared_client("pai_default", None) as client:
        assert (await client.located(RunQuery())).workspace_id == pai.workspace_id
        assert (await client.located(RunQuery(workspace_id="145884"))).workspace_id == "145884"


@in_one_loop
async def test_a_rotated_key_is_taken_up_as_soon_as_the_old_one_is_refused(pai, monkeypatch):  # noqa: F811
    async with shared_client("pai_default", None) as client:
        for number in (1, 2, 3):
            await listed(client)
            rotate(pai, monkeypatch, number)
            answers = await asyncio.gather(*(listed(client) for _ in range(5)))
            assert answers == [[]] * 5
            assert pai.requests[-1].access_key_id == f"key-{number}"


@in_one_loop
async def test_a_changed_connection_is_read_again_in_time(pai, monkeypatch):  # noqa: F811
    async with shared_client("pai_default", None) as client:
        assert (await client.settings()).workspace_id == pai.workspace_id
        uri = pai.connection_uri.replace(pai.workspace_id, "145884")
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", uri)
        assert (await client.settings()).workspace_id == pai.workspace_id  # not read for every request
        monkeypatch.setattr(clients, "REFRESH_SECONDS", 0.0)
        assert (await client.settings()).workspace_id == "145884"


@in_one_loop
async def test_a_key_that_is_simply_wrong_is_refused_and_not_asked_for_ever(pai):  # noqa: F811
    async with shared_client("pai_default", None) as client:
        await listed(client)
        known = len(pai.requests)
        pai.revoke(pai.access_key_id)
        with pytest.raises(PaiAuthenticationError) as caught:
            await listed(client)
        assert SECRET not in str(caught.value)
        assert len(pai.requests) == known + 1


@in_one_loop
async def test_a_deleted_connection_is_a_lasting_error(pai, monkeypatch):  # noqa: F811
    async with shared_client("pai_default", None) as client:
        await listed(client)
        del os.environ["AIRFLOW_CONN_PAI_DEFAULT"]
        monkeypatch.setattr(clients, "REFRESH_SECONDS", 0.0)
        with pytest.raises(PaiConfigurationError, match="pai_default") as caught:
            await listed(client)
        assert not caught.value.transient
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", pai.connection_uri)
        assert await listed(client) == []


@in_one_loop
async def test_a_connection_that_cannot_be_meant_says_what_to_mend(pai, monkeypatch):  # noqa: F811
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", "pai://id:secret-of-nobody@/?region=nowhere")
    async with shared_client("pai_default", None) as client:
        with pytest.raises(PaiError, match="nowhere") as caught:
            await listed(client)
        assert not caught.value.transient
        assert "secret-of-nobody" not in str(caught.value)


@in_one_loop
async def test_one_that_is_cancelled_while_the_connection_is_read_leaves_the_others_alone(pai):  # noqa: F811
    async with shared_client("pai_default", None) as client:
        asking = [asyncio.create_task(listed(client)) for _ in range(5)]
        await asyncio.sleep(0)
        asking[0].cancel()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == [[]] * 4
