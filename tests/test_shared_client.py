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
    PaiError,
    PaiTransportError,
    Run,
    RunQuery,
    list_runs,
)
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.waiting import client as clients
from airflow_provider_pai.waiting.client import SharedClient, shared_client
from airflow_provider_pai.waiting.rate_limit import Lane, RateLimit, rate_limit

pytestmark = pytest.mark.timeout(2 * LIMIT)

MAX_REQUESTS = 24  # the defaults of [pai]
BEYOND_SLOTS, READ_BACK_SLOTS = 16, 14


def BEYOND(limit: RateLimit) -> Lane:
    return limit.beyond


def POLLS(limit: RateLimit) -> Lane:
    return limit.polls


async def listed(client: SharedClient) -> list[Run]:
    query = RunQuery(labels=LABEL, workspace_id=(await client.settings()).workspace_id)
    return await client.run(lambda: list_runs(query), BEYOND)


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
    assert not any(clients._clients.values())
    async with shared_client("pai_default", None) as again:
        assert again is not first
        assert await listed(again) == []


# --- the rate limit


@in_one_loop
async def test_any_three_seconds_hold_so_many_requests_and_no_more(pai):  # noqa: F811
    async with shared_client("pai_default", None) as client:
        pai.inject("slow", delay=1.5, times=1)  # its answer is late, and so is the next slot
        await asyncio.gather(*(listed(client) for _ in range(BEYOND_SLOTS + 5)))
    assert pai.request_counts["ListRuns"] == BEYOND_SLOTS + 5
    assert pai.busiest["ListRuns"] <= BEYOND_SLOTS


@in_one_loop
async def test_every_attempt_and_every_page_takes_a_slot(pai):  # noqa: F811
    pai.add_runs(1000, labels={"is_evaluation": "true"})
    pai.inject("server_error", action="ListRuns", times=2)
    async with shared_client("pai_default", None) as client:
        assert len((await asyncio.gather(listed(client), listed(client)))[0]) == 1000
    assert pai.request_counts["ListRuns"] == 20 + 2
    assert pai.busiest["ListRuns"] <= BEYOND_SLOTS


@in_one_loop
async def test_a_hundred_questions_hold_up_no_poll(pai):  # noqa: F811
    clock = asyncio.get_running_loop().time
    async with shared_client("pai_default", None) as client:
        questions = [asyncio.create_task(listed(client)) for _ in range(100)]
        await asyncio.sleep(0.5)
        asked_before = pai.request_counts.get("ListRuns", 0)
        query = RunQuery(workspace_id=pai.workspace_id, labels=LABEL)
        started = clock()
        await client.run(lambda: list_runs(query), POLLS)
        assert pai.request_counts["ListRuns"] <= asked_before + 1 + BEYOND_SLOTS // 3
        assert (
            clock() - started < 1.0
        )  # the promise of docs/waiting.md, with a hundred times as much to spare
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)


@in_one_loop
async def test_what_has_no_sign_takes_its_share_and_no_more(pai):  # noqa: F811
    query = RunQuery(workspace_id=pai.workspace_id, labels=LABEL)
    async with shared_client("pai_default", None) as client:
        lane = lambda limit: limit.without_a_sign  # noqa: E731
        asking = [
            asyncio.create_task(client.run(lambda: list_runs(query), lane))
            for _ in range(READ_BACK_SLOTS + 5)
        ]
        await asyncio.sleep(1.0)
        assert pai.request_counts["ListRuns"] == READ_BACK_SLOTS
        await listed(client)  # there is room for what has a sign
        await asyncio.gather(*asking)
    assert pai.busiest["ListRuns"] <= READ_BACK_SLOTS + 1


@in_one_loop
async def test_connections_to_the_same_region_share_one_limit(pai, monkeypatch):  # noqa: F811
    monkeypatch.setenv("AIRFLOW_CONN_PAI_OTHER", pai.connection_uri)
    async with shared_client("pai_default", None) as one, shared_client("pai_other", None) as other:
        assert one is not other
        await asyncio.gather(
            *(listed(client) for client in (one, other) for _ in range(BEYOND_SLOTS // 2 + 3))
        )
    assert pai.busiest["ListRuns"] <= BEYOND_SLOTS
    public = rate_limit("https://aiworkspace.cn-hangzhou.aliyuncs.com")
    assert rate_limit("https://aiworkspace-vpc.cn-hangzhou.aliyuncs.com") is public
    assert rate_limit("https://aiworkspace.cn-beijing.aliyuncs.com") is not public


@pytest.mark.parametrize(
    ("max_requests", "share", "slots"),
    [
        ("48", "0.25", (16, 32, 12)),
        ("2", "0", (1, 1, 1)),
        ("many", "2", (8, 16, 14)),  # said in the log, and the defaults hold: no wait fails by it
    ],
)
def test_the_limit_is_a_setting(monkeypatch, caplog, max_requests, share, slots):
    monkeypatch.setenv("AIRFLOW__PAI__MAX_REQUESTS", max_requests)
    monkeypatch.setenv("AIRFLOW__PAI__READ_BACK_SHARE", share)

    async def lanes() -> tuple[int, ...]:
        limit = rate_limit("https://aiworkspace.cn-hangzhou.aliyuncs.com")
        return limit.polls.slots, limit.beyond.slots, limit.without_a_sign.slots

    assert asyncio.run(lanes()) == slots


# --- the client


def test_every_loop_has_its_own(pai):  # noqa: F811
    async def client() -> SharedClient:
        async with shared_client("pai_default", None) as found:
            await listed(found)
            return found

    assert asyncio.run(client()) is not asyncio.run(client())


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
async def test_while_the_connection_cannot_be_read_the_client_at_hand_goes_on(pai, monkeypatch):  # noqa: F811
    async with shared_client("pai_default", None) as client:
        await listed(client)
        # A secrets backend that does not answer looks like this too: Airflow says "not found".
        del os.environ["AIRFLOW_CONN_PAI_DEFAULT"]
        monkeypatch.setattr(clients, "REFRESH_SECONDS", 0.0)
        assert await listed(client) == []
        pai.revoke(pai.access_key_id)  # now the connection is needed
        with pytest.raises(
            PaiTransportError, match=r"pai_default.*could not be read.*AirflowNotFound"
        ) as caught:
            await listed(client)
        assert caught.value.transient
        pai.accept("new", "new-secret")
        uri = pai.connection_uri.replace(f"{pai.access_key_id}:{pai.access_key_secret}", "new:new-secret")
        monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", uri)
        assert await listed(client) == []


@in_one_loop
async def test_a_connection_that_was_never_read_is_a_failed_poll(pai, monkeypatch):  # noqa: F811
    monkeypatch.delenv("AIRFLOW_CONN_PAI_DEFAULT")
    async with shared_client("pai_default", None) as client:
        for _ in range(2):
            with pytest.raises(PaiTransportError, match="pai_default"):
                await listed(client)
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
async def test_a_look_up_outlives_who_is_cancelled_in_the_middle_of_it(pai, monkeypatch):  # noqa: F811
    look_up = PaiHook.asettings
    ended: list[str] = []

    async def slow_look_up(hook: PaiHook) -> Any:
        try:
            await asyncio.sleep(0.3)
            return await look_up(hook)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        finally:
            ended.append("ended")

    monkeypatch.setattr(PaiHook, "asettings", slow_look_up)
    async with shared_client("pai_default", None) as client:
        asking = [asyncio.create_task(listed(client)) for _ in range(5)]
        await asyncio.sleep(0.1)
        asking[0].cancel()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1:] == [[]] * 4
    assert ended == ["ended"]

    async def leave() -> None:
        async with shared_client("pai_default", None) as client:
            await client.settings()

    leaving = asyncio.create_task(leave())  # the only one there is
    await asyncio.sleep(0.1)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    assert ended == ["ended", "ended"]

    monkeypatch.setattr(clients, "CLOSING_SECONDS", 0.01)  # where a look-up takes longer than closing waits
    leaving = asyncio.create_task(leave())
    await asyncio.sleep(0.1)
    made = clients._clients[asyncio.get_running_loop()]["pai_default", None]
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await asyncio.sleep(0.5)
    assert ended == ["ended", "ended", "ended"]
    assert made._client is None  # nobody is left to close one
