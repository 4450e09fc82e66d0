"""Both transports over the wire, in one suite: signing, faults, and that no secret gets out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import gzip
import json
import logging
import math
import platform
import re
import socket
import socketserver
import sys
import threading
import time
import traceback
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import pytest

from airflow_provider_pai import __version__
from airflow_provider_pai.api import (
    AsyncPaiClient,
    Credential,
    Failure,
    Flow,
    Metric,
    PaiAuthenticationError,
    PaiClient,
    PaiConfigurationError,
    PaiError,
    PaiNotFoundError,
    PaiNotJsonError,
    PaiPermissionError,
    PaiResponseError,
    PaiThrottledError,
    PaiTransportError,
    PaiUnavailableError,
    PaiUsageError,
    Request,
    Response,
    RunQuery,
    StaticCredential,
    client,
    create_experiment,
    create_run,
    delete_experiment,
    delete_experiment_label,
    delete_run,
    delete_run_label,
    flow,
    get_default_workspace,
    get_experiment,
    get_run,
    list_experiments,
    list_run_metrics,
    list_runs,
    list_runs_page,
    list_workspaces,
    log_run_metrics,
    over_aiohttp,
    over_requests,
    set_experiment_labels,
    set_run_labels,
    update_experiment,
    update_run,
    walk_runs,
    wire,
)

pytestmark = pytest.mark.timeout(30)

RESERVED = (
    "!*'();@&$/?#[]%<>\"{}|\\^`~+- ._é阶段"  # all characters that are special in URLs, except ',' '=' ':'
)
KEY = {"access_key_id": "emulator", "access_key_secret": "emulator-secret"}


class Caller:
    """One way to run flows. A client exists as long as its ``with``."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def run(self, endpoint: str, *flows: Flow[Any], key: Any = None) -> Any:
        """Run flows over one client, and return the last one's result."""
        source = key if hasattr(key, "get") else StaticCredential(key or Credential(**KEY))
        if self.kind is PaiClient:
            with PaiClient(endpoint, source) as sync_client:
                return [sync_client.run(each) for each in flows][-1]

        async def drive() -> Any:
            async with AsyncPaiClient(endpoint, source) as async_client:
                return [await async_client.run(each) for each in flows][-1]

        return asyncio.run(drive())

    def pages(self, endpoint: str, listing: Any) -> Iterator[Any]:
        source = StaticCredential(Credential(**KEY))
        if self.kind is PaiClient:
            with PaiClient(endpoint, source) as sync_client:
                return list(sync_client.iter(listing))

        async def drive() -> Any:
            async with AsyncPaiClient(endpoint, source) as async_client:
                return [item async for item in async_client.iter(listing)]

        return asyncio.run(drive())


@pytest.fixture(params=[PaiClient, AsyncPaiClient], ids=["sync", "async"])
def caller(request):
    return Caller(request.param)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in (
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Retry at once: test_flow covers how long the client waits."""
    monkeypatch.setattr(flow, "BACKOFF_SECONDS", 0.001)


@contextlib.contextmanager
def raw_server(answer: bytes | Callable[[bytes], bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers every connection with exactly these bytes. Yields its URL and what it read."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                heard.append(connection.recv(65536))
                connection.sendall(answer(heard[-1]) if callable(answer) else answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", heard
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=5)


@contextlib.contextmanager
def counting_server() -> Iterator[tuple[str, list[str]]]:
    """A server that keeps connections. Yields its URL, and which connections were opened and closed."""
    events: list[str] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            events.append("opened")
            self.request.settimeout(5)
            while self.request.recv(65536):
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            events.append("closed")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", events
        finally:
            server.shutdown()


def http(body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return head + b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


def one_attempt(limit: float = 5.0) -> Flow[Any]:
    """A flow that returns the outcome of one attempt."""
    return (yield Request(action="ListRuns", path="/api/v1/runs", limit=limit))


def test_a_closed_client_has_no_connection_any_more_and_opens_another_if_asked_again() -> None:
    """Not only when it is collected, where Python would drop the signal of an Airflow timeout."""
    with counting_server() as (url, events):
        client = PaiClient(url, StaticCredential(Credential(**KEY)))
        for _ in range(2):
            client.run(one_attempt())
            client.run(one_attempt())
            client.close()
            deadline = time.monotonic() + 10
            while len(events) % 2 and time.monotonic() < deadline:
                time.sleep(0.01)
        assert events == ["opened", "closed", "opened", "closed"]


# --- every operation, end to end


def test_the_life_of_an_experiment(caller, pai_emulator):
    def life() -> Flow[None]:
        experiment_id = yield from create_experiment(
            "nightly", workspace_id="145883", artifact_uri="oss://b/p", labels={"team": "llm"}
        )
        yield from set_experiment_labels(experiment_id, {"stage": "a:b"})
        yield from update_experiment(experiment_id, name="weekly", accessibility="PUBLIC")
        experiment = yield from get_experiment(experiment_id)
        assert (experiment.name, experiment.accessibility) == ("weekly", "PUBLIC")
        assert experiment.labels == {"team": "llm", "stage": "a:b"}
        assert (yield from list_experiments(name="weekly", labels="stage:a:b")) == [experiment]
        assert (yield from list_experiments(name="week")) == []
        yield from delete_experiment_label(experiment_id, "team")
        assert (yield from get_experiment(experiment_id)).labels == {"stage": "a:b"}
        yield from delete_experiment(experiment_id)
        with pytest.raises(PaiNotFoundError):
            yield from get_experiment(experiment_id)
        assert [space.workspace_id for space in (yield from list_workspaces(page_size=1))] == [
            "145883",
            "145884",
        ]
        assert (yield from get_default_workspace()).workspace_id == "145883"

    caller.run(pai_emulator.url, life())


def test_the_life_of_a_run(caller, pai_emulator):
    experiment_id = pai_emulator.add_experiment("nightly")

    def life() -> Flow[None]:
        run_id = yield from create_run(
            experiment_id, name="r-1", labels="a:b", params={"lr": 0.1}, source_type="DLC", source_id="job-1"
        )
        run = yield from get_run(run_id)
        assert (run.name, run.labels, run.params) == ("r-1", {"a": "b"}, {"lr": "0.1"})
        assert (run.source_type, run.source_id, run.experiment_id) == ("DLC", "job-1", experiment_id)
        yield from update_run(run_id, name="r-2", params={"lr": 1})
        yield from set_run_labels(run_id, {"c": "d"})
        yield from log_run_metrics(run_id, {"accuracy": 0.5}, step=1, timestamp=1)
        yield from log_run_metrics(run_id, {"accuracy": 0.93}, step=2, timestamp=2)
        run = yield from get_run(run_id)
        assert (run.name, run.labels, run.params) == ("r-2", {"a": "b", "c": "d"}, {"lr": "1"})
        assert run.to_dict()["metrics"] == {"accuracy": 0.93}
        history = yield from list_run_metrics(run_id, "accuracy", page_size=1)
        assert history == [Metric("accuracy", 0.5, 1, 1), Metric("accuracy", 0.93, 2, 2)]
        assert (yield from list_run_metrics(run_id, page_size=1)) == history
        assert (yield from list_runs(RunQuery(labels="c:d", experiment_id=experiment_id))) == [run]
        assert (yield from list_runs_page(name="r-2", max_results=1)).total_count == 1
        yield from delete_run_label(run_id, "a")
        assert (yield from get_run(run_id)).labels == {"c": "d"}
        yield from delete_run(run_id)
        with pytest.raises(PaiNotFoundError, match=run_id):
            yield from get_run(run_id)

    caller.run(pai_emulator.url, life())


QUIRKS = {
    "page_token": ["offset", "index"],
    "token_type": ["integer", "string"],
    "last_token": ["0", "absent", "null"],
    "empty_pages": ["never", "between", "last"],
    "total_count": ["given", "absent"],
    "name_match": ["exact", "fuzzy"],
    "labels_filter": ["exact", "ignored"],
    "label_split": ["first", "last"],
    "order": ["honoured", "ignored", "by_name"],
    "non_finite": ["string", "null", "literal"],
}


@pytest.mark.parametrize(("quirk", "value"), [(quirk, value) for quirk in QUIRKS for value in QUIRKS[quirk]])
def test_every_behaviour_that_the_page_leaves_open_gives_the_same_answer(caller, pai_emulator, quirk, value):
    setattr(pai_emulator.quirks, quirk, value)
    pai_emulator.quirks.max_results = 3
    wanted = pai_emulator.add_runs(7, name="night", labels={"a:b": "c:d"}, metrics={"loss": math.nan})
    pai_emulator.add_runs(3, name="nightly", labels={"a:b": "c:d"})
    pai_emulator.add_runs(3, name="night", labels={"a": "b:c:d"})
    query = RunQuery(name="night", labels={"a:b": "c:d"})
    runs = caller.run(pai_emulator.url, list_runs(query))
    assert [run.run_id for run in runs] == wanted
    assert all(math.isnan(run.metrics[0].value) for run in runs)
    assert [run.run_id for run in caller.pages(pai_emulator.url, walk_runs(query))] == (
        wanted if value != "ignored" or quirk != "order" else wanted[::-1]
    )


@pytest.mark.parametrize("quirk", ["camel", "lower", "xml"])
def test_refusals_in_every_form_are_understood(caller, pai_emulator, quirk):
    pai_emulator.quirks.error_body = quirk
    with pytest.raises(PaiNotFoundError) as caught:
        caller.run(pai_emulator.url, get_run("run-0"))
    assert (caught.value.code, caught.value.status) == ("RunNotFound", 404)
    assert re.fullmatch("[0-9A-F-]{36}", caught.value.request_id)


# --- bytes signed are bytes sent


def test_every_reserved_character_survives_signing_and_sending(caller, pai_emulator):
    experiment_id = pai_emulator.add_experiment()
    labels = {RESERVED: f"v {RESERVED}", "a:b": "c:d", "plain": "x"}
    key = f"metric {RESERVED}:,="

    def there_and_back() -> Flow[Any]:
        run_id = yield from create_run(experiment_id, labels=labels, params={RESERVED: RESERVED})
        yield from log_run_metrics(run_id, {key: 1.0})
        assert [metric.key for metric in (yield from list_run_metrics(run_id, key))] == [key]
        (found,) = yield from list_runs(RunQuery(labels=labels))
        assert (found.run_id, found.labels, found.params) == (run_id, labels, {RESERVED: RESERVED})
        page = yield from list_runs_page(labels={"plain": "x", RESERVED: f"v {RESERVED}"}, verbose=True)
        assert [run.run_id for run in page.runs] == [run_id]
        assert (yield from list_runs(RunQuery(name=RESERVED))) == []
        yield from delete_run_label(run_id, RESERVED)
        assert RESERVED not in (yield from get_run(run_id)).labels
        with pytest.raises(PaiNotFoundError):
            yield from get_run(f"run/{RESERVED}")

    caller.run(pai_emulator.url, there_and_back())


def test_the_path_and_query_on_the_wire_are_the_signed_ones_to_the_byte(caller):
    query = {"Labels": f"a:{RESERVED},b:=", "OrderBy": "GmtCreateTime ASC"}

    def one() -> Flow[Any]:
        return (yield Request(action="ListRuns", path="/api/v1/runs/a%2Fb%20c%3A%2E", query=query))

    with raw_server(http(b"{}")) as (url, heard):
        assert caller.run(url, one()).status == 200
    line, *headers = heard[0].decode().split("\r\n")
    assert line == f"GET /api/v1/runs/a%2Fb%20c%3A%2E?{client.canonical_query(query)} HTTP/1.1"
    names = [header.partition(":")[0].lower() for header in headers if header]
    assert len(names) == len(set(names))
    assert "cookie" not in names


def test_a_write_says_how_long_it_is_and_that_it_is_json(caller):
    with raw_server(http(b'{"RunId": "run-1"}')) as (url, heard):
        caller.run(url, create_run("exp-1"))
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    assert b"content-length: %d" % len(b'{"ExperimentId":"exp-1"}') in head.lower()
    assert body in (b"", b'{"ExperimentId":"exp-1"}')


def test_a_request_says_who_asks(caller):
    with raw_server(http(b"{}")) as (url, heard):
        caller.run(url, one_attempt())
    agents = re.findall(rb"^user-agent: (.*)\r$", heard[0], re.IGNORECASE | re.MULTILINE)
    ours, python = f"airflow-provider-pai/{__version__}", f"python/{platform.python_version()}"
    airflow = f"apache-airflow/{metadata.version('apache-airflow')}"
    assert [agent.decode() for agent in agents] == [f"{ours} {airflow} {python}"]


def test_without_airflow_it_is_not_named(monkeypatch):
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert re.fullmatch(r"airflow-provider-pai/\S+ python/\S+", wire.user_agent.__wrapped__())


def test_no_nonce_is_used_twice_over_all_attempts(caller):
    with raw_server(http(b"{}", b"HTTP/1.1 503 Busy")) as (url, heard), pytest.raises(PaiUnavailableError):
        caller.run(url, get_run("run-1"))
    nonces = re.findall(rb"x-acs-signature-nonce: (\w{32})", b"".join(heard), re.IGNORECASE)
    assert len(nonces) == len(set(nonces)) == flow.ATTEMPTS


# --- credentials


def test_an_sts_token_is_signed_and_sent(caller, pai_emulator):
    pai_emulator.accept("STS.x", "s", security_token="CAIS+tok/en==")
    key = Credential(access_key_id="STS.x", access_key_secret="s", security_token="CAIS+tok/en==")
    assert caller.run(pai_emulator.url, list_runs(RunQuery()), key=key) == []


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ({"access_key_id": "nobody", "access_key_secret": "x"}, "InvalidAccessKeyId.NotFound"),
        ({"access_key_id": "emulator", "access_key_secret": "x"}, "SignatureDoesNotMatch"),
        ({**KEY, "security_token": "x"}, "InvalidSecurityToken.Malformed"),
    ],
)
def test_a_wrong_key_fails_at_once(caller, pai_emulator, key, code):
    with pytest.raises(PaiAuthenticationError) as caught:
        caller.run(pai_emulator.url, list_runs(RunQuery()), key=Credential(**key))
    assert caught.value.code == code
    assert len(pai_emulator.requests) == 1


class Renewing:
    """A source that returns another key for every attempt."""

    def __init__(self, *, blocking: bool) -> None:
        self.blocking = blocking
        self.threads: list[int] = []
        self.at_once = self.most_at_once = 0

    def get(self) -> Credential:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.threads.append(threading.get_ident())
        number = len(self.threads)
        if self.blocking:
            time.sleep(0.01)  # so that others come meanwhile
        self.at_once -= 1
        return Credential(access_key_id=f"key-{number}", access_key_secret="s")


@pytest.mark.parametrize("blocking", [True, False])
def test_the_source_is_asked_before_every_attempt(caller, pai_emulator, blocking):
    pai_emulator.accept("key-3", "s")
    pai_emulator.inject("server_error", times=2)
    source = Renewing(blocking=blocking)
    caller.run(pai_emulator.url, list_runs(RunQuery()), key=source)
    assert [request.access_key_id for request in pai_emulator.requests] == ["key-1", "key-2", "key-3"]
    here = threading.get_ident()
    assert all((thread != here) == (blocking and caller.kind is AsyncPaiClient) for thread in source.threads)


def test_blocking_sources_are_asked_one_at_a_time_by_many_flows(pai_emulator):
    source = Renewing(blocking=True)
    for number in range(1, 21):
        pai_emulator.accept(f"key-{number}", "s")

    async def drive() -> None:
        async with AsyncPaiClient(pai_emulator.url, source) as many:
            await asyncio.gather(*(many.run(list_runs(RunQuery())) for _ in range(20)))

    asyncio.run(drive())
    assert source.most_at_once == 1


def test_a_flow_that_is_cancelled_leaves_the_look_up_to_the_others(pai_emulator):
    asked, go_on = threading.Event(), threading.Event()

    class Slow:
        blocking = True

        def get(self) -> Credential:
            asked.set()
            assert go_on.wait(5)
            return Credential(**KEY)

    async def drive() -> list[Any]:
        async with AsyncPaiClient(pai_emulator.url, Slow()) as many:
            flows = [asyncio.create_task(many.run(list_runs(RunQuery()))) for _ in range(2)]
            await asyncio.to_thread(asked.wait, 5)
            flows[0].cancel()
            await asyncio.wait(flows, timeout=0.05)
            go_on.set()
            return await asyncio.gather(*flows, return_exceptions=True)

    cancelled, other = asyncio.run(drive())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert other == []


class Failing:
    blocking = False

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked = 0

    def get(self) -> Credential:
        self.asked += 1
        raise self.error


def test_a_flow_learns_what_is_wrong_with_the_credential(caller):
    def careful() -> Flow[str]:
        try:
            yield from get_run("run-1")
        except PaiConfigurationError as error:
            return str(error)
        return ""

    wrong = Failing(PaiConfigurationError("no such role"))
    assert caller.run("http://127.0.0.1:9", careful(), key=wrong) == "no such role"


def test_a_credential_that_fails_when_nobody_waits_any_more_is_not_spoken_of():
    class Slow(Failing):
        blocking = True

        def get(self) -> Credential:
            time.sleep(0.2)
            return super().get()

    said: list[Any] = []

    async def drive() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        source = Slow(PaiTransportError("no metadata service", sent=False))
        async with AsyncPaiClient("http://127.0.0.1:9", source) as one:
            waiting = asyncio.create_task(one.run(get_run("run-1")))
            await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await asyncio.sleep(0.2)
        gc.collect()

    asyncio.run(drive())
    assert said == []


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
def test_what_is_not_text_is_an_error_of_the_call(caller, text):
    def one() -> Flow[Any]:
        return (yield Request(action="ListRuns", path="/api/v1/runs", query={"PageToken": text}))

    outcome = caller.run("http://127.0.0.1:9", one())
    assert isinstance(outcome, Failure)
    assert isinstance(outcome.error, PaiUsageError)
    assert not outcome.sent


def test_a_source_that_cannot_be_reached_is_asked_again_and_one_that_is_wrong_is_not(caller):
    transient_source = Failing(PaiTransportError("no metadata service", sent=False))
    with pytest.raises(PaiTransportError, match="no metadata service"):
        caller.run("http://127.0.0.1:9", create_run("exp-1"), key=transient_source)
    assert transient_source.asked == flow.ATTEMPTS
    wrong = Failing(PaiConfigurationError("no such role"))
    with pytest.raises(PaiConfigurationError, match="no such role"):
        caller.run("http://127.0.0.1:9", create_run("exp-1"), key=wrong)
    assert wrong.asked == 1


# --- faults


@pytest.mark.parametrize(
    ("fault", "fields"),
    [
        ("throttle", {"retry_after_ms": 1}),
        ("throttle", {"status": 400}),
        ("throttle", {"status": 429}),
        ("server_error", {"status": 500}),
        ("server_error", {"status": 503}),
        ("html", {"status": 502}),
        ("html", {"status": 200}),
        ("body", {"body": b"", "status": 200}),
        ("reset", {}),
        ("reset_after", {}),
        ("truncate", {}),
        ("error", {"status": 400, "code": "SignatureNonceUsed"}),
    ],
)
def test_a_read_survives_a_transient_fault(caller, pai_emulator, fault, fields):
    wanted = pai_emulator.add_runs(3)
    pai_emulator.inject(fault, times=2, **fields)
    assert [run.run_id for run in caller.run(pai_emulator.url, list_runs(RunQuery()))] == wanted
    assert pai_emulator.request_counts == {"ListRuns": 3}


@pytest.mark.parametrize(
    ("fault", "fields", "kind"),
    [
        ("throttle", {"retry_after_ms": 1}, PaiThrottledError),
        ("server_error", {}, PaiUnavailableError),
        ("html", {"status": 200}, PaiNotJsonError),
        ("reset", {}, PaiTransportError),
        ("truncate", {}, PaiTransportError),
        ("error", {}, PaiPermissionError),
        ("error", {"status": 401, "code": "InvalidSecurityToken.Expired"}, PaiAuthenticationError),
        ("body", {"status": 307, "body": ""}, PaiNotJsonError),
    ],
)
def test_a_fault_that_stays_is_raised_after_bounded_attempts(caller, pai_emulator, fault, fields, kind):
    pai_emulator.inject(fault, times=None, **fields)
    with pytest.raises(kind) as caught:
        caller.run(pai_emulator.url, list_runs(RunQuery()))
    assert len(pai_emulator.requests) == (flow.ATTEMPTS if caught.value.transient else 1)


def test_a_retry_after_reaches_the_error(caller, pai_emulator):
    pai_emulator.inject("throttle", times=None, retry_after_ms=500_000)
    with pytest.raises(PaiThrottledError) as caught:
        caller.run(pai_emulator.url, list_runs(RunQuery()))
    assert caught.value.retry_after == 500
    assert len(pai_emulator.requests) == 1


@pytest.mark.parametrize("fault", ["reset_after", "truncate", "html", "server_error", "reset"])
def test_a_write_whose_answer_is_lost_is_not_sent_again(caller, pai_emulator, fault):
    experiment_id = pai_emulator.add_experiment()
    pai_emulator.inject(fault, times=None)
    with pytest.raises(PaiError) as caught:
        caller.run(pai_emulator.url, create_run(experiment_id))
    assert caught.value.transient
    assert pai_emulator.request_counts == {"CreateRun": 1}
    assert len(pai_emulator.runs()) == (fault in ("reset_after", "truncate"))


def test_a_throttled_write_is_carried_out_once(caller, pai_emulator):
    experiment_id = pai_emulator.add_experiment()
    pai_emulator.inject("throttle", times=3)
    run_id = caller.run(pai_emulator.url, create_run(experiment_id))
    assert [run["RunId"] for run in pai_emulator.runs()] == [run_id]


def test_a_kept_connection_that_breaks_costs_an_attempt_and_no_silent_repeat(caller, pai_emulator):
    experiment_id = pai_emulator.add_experiment()
    pai_emulator.inject("reset_after", action="CreateRun")
    with pytest.raises(PaiTransportError) as caught:
        caller.run(pai_emulator.url, list_runs(RunQuery()), create_run(experiment_id))
    assert caught.value.sent
    assert len(pai_emulator.runs()) == 1


@pytest.mark.parametrize("fault", ["reset", "reset_after"])
def test_no_library_repeats_a_read_on_a_kept_connection_that_breaks(caller, pai_emulator, fault):
    def then_it_breaks() -> Flow[Any]:
        yield from list_runs(RunQuery())
        pai_emulator.inject(fault, times=None)
        return (yield from list_runs(RunQuery()))

    with pytest.raises(PaiTransportError):
        caller.run(pai_emulator.url, then_it_breaks())
    assert pai_emulator.request_counts == {"ListRuns": 1 + flow.ATTEMPTS}


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_an_answer_that_takes_too_long_is_abandoned(caller, pai_emulator, fault):
    # 60 s late, or about 100 bytes 0.2 s apart: never silent for as long as the limit on silence.
    pai_emulator.inject(fault, times=None, delay=60.0 if fault == "slow" else 0.2)
    outcome = caller.run(pai_emulator.url, one_attempt(limit=0.5))
    assert isinstance(outcome, Failure)
    assert outcome.sent
    assert "time" in outcome.reason.lower()


def test_a_silence_is_shorter_than_an_attempt(caller, monkeypatch):
    for transport in (over_aiohttp, over_requests):
        monkeypatch.setattr(transport, "READ_SECONDS", 0.2)
    for start in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"):
        with dripping_server(start, b"", 60.0) as url:
            started = time.monotonic()
            outcome = caller.run(url, one_attempt(limit=10.0))
        assert isinstance(outcome, Failure)
        assert outcome.sent
        assert time.monotonic() - started < 5


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses a connection")
def test_a_connection_that_nobody_takes_is_given_up_early_and_was_not_sent(caller, monkeypatch):
    for transport in (over_aiohttp, over_requests):
        monkeypatch.setattr(transport, "CONNECT_SECONDS", 0.2)
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # so that the queue is full
            other = sockets.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        started = time.monotonic()
        outcome = caller.run("http://{}:{}".format(*listener.getsockname()), one_attempt(limit=10.0))
    assert isinstance(outcome, Failure)
    assert outcome.sent is False
    assert time.monotonic() - started < 5


@contextlib.contextmanager
def dripping_server(start: bytes, drip: bytes, seconds: float) -> Iterator[str]:
    """A server that begins to answer, and then sends the same bytes again and again."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as connection:
            connection.settimeout(1)
            connection.recv(65536)
            connection.sendall(start)
            while not over.wait(seconds):
                connection.sendall(drip)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(timeout=5)


DRIPS = {
    "status": (b"", b"H", 0.05),
    "header": (b"HTTP/1.1 200 OK\r\n", b"X", 0.05),
    "chunk size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0", 0.05),
    "body": (b"HTTP/1.1 200 OK\r\n\r\n", b" ", 0.05),
    "100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "103": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 0.05),
    "flood of 100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.0),
    "flood of 103": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100, 0.0),
}


@pytest.mark.parametrize("kind", [*DRIPS, "status by proxy", "header by proxy"])
def test_an_answer_that_drips_ends_with_its_time(caller, monkeypatch, kind):
    name, by_proxy, _ = kind.partition(" by proxy")
    with dripping_server(*DRIPS[name]) as url:
        if by_proxy:
            monkeypatch.setenv("HTTPS_PROXY", url)
        started = time.monotonic()
        outcome = caller.run("https://pai.invalid" if by_proxy else url, one_attempt(limit=0.3))
    assert isinstance(outcome, Failure)
    assert outcome.sent is not bool(by_proxy)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints", "199 Unheard of"])
def test_an_interim_answer_is_not_the_answer(caller, status):
    interim = f"HTTP/1.1 {status}\r\nLink: </x>; rel=preload\r\n\r\n".encode()
    with raw_server(2 * interim + http(b'{"Runs": [{"RunId": "run-1"}]}')) as (url, heard):
        assert [run.run_id for run in caller.run(url, list_runs(RunQuery()))] == ["run-1"]
    assert len(heard) == 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_answer_that_unpacks_to_too_much_is_not_unpacked(caller, encoding):
    packing = zlib.compressobj(9, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    packed = b"".join(packing.compress(bytes(2**20)) for _ in range(64)) + packing.flush()
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}".encode()
    tracemalloc.start()
    with raw_server(http(packed, head)) as (url, _):
        outcome = caller.run(url, one_attempt())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(outcome, Failure)
    assert isinstance(outcome.error, PaiResponseError)
    assert peak < 3 * wire.MAX_BODY_BYTES


@pytest.mark.parametrize("window", [15, -15], ids=["zlib", "raw"])
def test_both_kinds_of_deflate_are_understood(caller, window):
    packing = zlib.compressobj(9, zlib.DEFLATED, window)
    packed = packing.compress(b'{"Runs": [{"RunId": "run-1"}]}') + packing.flush()
    with raw_server(http(packed, b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate")) as (url, _):
        assert [run.run_id for run in caller.run(url, list_runs(RunQuery()))] == ["run-1"]


def largest_answer() -> tuple[bytes, int]:
    """As many runs as an answer can hold, and their number."""
    number = wire.MAX_BODY_BYTES // len(b'{"RunId":"1000000"},') - 1
    runs = b",".join(b'{"RunId":"%d"}' % (1_000_000 + index) for index in range(number))
    return b'{"Runs":[%s]}' % runs, number


def test_the_largest_answer_is_decoded_in_a_moment():
    body, number = largest_answer()
    listing = list_runs(RunQuery())
    next(listing)
    started = time.process_time()
    with pytest.raises(StopIteration) as ended:
        listing.send(Response(status=200, headers={}, body=body))
    assert len(ended.value.value) == number
    assert time.process_time() - started < 5  # 1 s where nothing else runs; 64 MiB took 20 s


def test_while_the_largest_answer_is_decoded_the_event_loop_has_its_turns():
    body, number = largest_answer()
    turns: list[bool] = []
    answered = asyncio.Event()

    async def others() -> None:
        while True:
            await asyncio.sleep(0.001)
            turns.append(answered.is_set())

    class Noting(AsyncPaiClient):
        async def attempt(self, request: Request) -> Any:
            outcome = await super().attempt(request)
            answered.set()
            return outcome

    async def story(url: str) -> list[Any]:
        beside = asyncio.create_task(others())
        async with Noting(url, StaticCredential(Credential(**KEY))) as noting:
            runs = await noting.run(list_runs(RunQuery()))
        beside.cancel()
        return runs

    with raw_server(http(body)) as (url, _):
        assert len(asyncio.run(story(url))) == number
    assert sum(turns) > 10


def test_an_answer_that_is_too_large_is_abandoned(caller, pai_emulator, monkeypatch):
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 1000)
    monkeypatch.setattr(client, "CHUNK_BYTES", 100)
    pai_emulator.inject("body", body=b" " * 2000, times=None)
    outcome = caller.run(pai_emulator.url, one_attempt())
    assert isinstance(outcome, Failure)
    assert "1000 bytes" in outcome.reason
    with pytest.raises(PaiResponseError, match="1000 bytes") as caught:
        caller.run(pai_emulator.url, list_runs(RunQuery()))
    assert not caught.value.retryable
    assert len(pai_emulator.requests) == 2


def test_a_closed_port_is_a_transport_error_that_was_never_sent(caller):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(PaiTransportError) as caught:
        caller.run(f"http://127.0.0.1:{port}", create_run("exp-1"))
    assert caught.value.sent is False
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "object at 0x" not in str(caught.value)


def test_a_host_that_does_not_exist_is_a_transport_error_that_was_never_sent(caller):
    outcome = caller.run("http://pai.invalid", one_attempt())
    assert isinstance(outcome, Failure)
    assert outcome.sent is False
    assert "pai.invalid" in outcome.reason


GARBAGE = [
    b"",
    b"\x00",
    b"HTTP/1.1",
    b"HTTP/9.9 abc\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"
    + gzip.compress(b"{}" * 99)[:-9],
    b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: klingon\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=[repr(garbage[:60]) for garbage in GARBAGE])
def test_any_bytes_in_place_of_an_answer_are_an_outcome_and_not_a_crash(caller, garbage):
    with raw_server(garbage) as (url, heard):
        outcome = caller.run(url, one_attempt())
        assert isinstance(outcome, (Response, Failure))
        if isinstance(outcome, Failure):
            assert outcome.sent
        assert len(heard) == 1


def test_a_compressed_answer_is_understood(caller):
    packed = gzip.compress(json.dumps({"Runs": [{"RunId": "run-1"}]}).encode())
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip"
    with raw_server(http(packed, head)) as (url, _):
        assert [run.run_id for run in caller.run(url, list_runs(RunQuery()))] == ["run-1"]


@pytest.mark.parametrize("missing", [1, 9, 20])
def test_a_compressed_answer_that_breaks_off_is_no_answer(caller, missing):
    packed = gzip.compress(b"{}" + b" " * 10_000)[:-missing]
    with raw_server(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + packed) as (url, _):
        outcome = caller.run(url, one_attempt())
    assert isinstance(outcome, Failure)
    assert "not complete" in outcome.reason


def test_a_redirect_is_not_followed_and_gets_no_signature(caller):
    with raw_server(http(b"{}")) as (elsewhere, heard):
        redirect = b"HTTP/1.1 302 Found\r\nLocation: " + elsewhere.encode() + b"/api/v1/runs"
        with raw_server(http(b"", redirect)) as (url, asked):
            assert caller.run(url, one_attempt()).status == 302
        assert (len(asked), heard) == (1, [])


def test_a_cookie_is_not_kept(caller):
    head = b"HTTP/1.1 200 OK\r\nSet-Cookie: session=1; Path=/"
    with raw_server(http(b"{}", head)) as (url, heard):
        # By its name: aiohttp's jar takes no cookie from an address.
        caller.run(url.replace("127.0.0.1", "localhost"), one_attempt(), one_attempt())
    assert len(heard) == 2
    assert b"cookie" not in b"".join(heard).lower()


# --- the clock


@pytest.mark.parametrize("skew", [3600, -3600, 86400 * 400])
def test_a_wrong_clock_is_corrected_once_and_stays_corrected(caller, pai_emulator, skew):
    experiment_id = pai_emulator.add_experiment()
    pai_emulator.clock_offset = skew
    flows = [create_run(experiment_id), list_runs(RunQuery()), create_run(experiment_id)]
    caller.run(pai_emulator.url, *flows)
    assert pai_emulator.request_counts == {"CreateRun": 3, "ListRuns": 1}
    assert len(pai_emulator.runs()) == 2


def test_a_clock_that_changes_again_is_corrected_from_the_start(caller, pai_emulator):
    def drifting() -> Flow[None]:
        for skew in (3600, 7200, 0):
            pai_emulator.clock_offset = skew
            yield from list_runs(RunQuery())

    caller.run(pai_emulator.url, drifting())
    assert pai_emulator.request_counts == {"ListRuns": 6}


# --- secrets

SECRET = "VerySecretKey0123456789abcdef"
TOKEN = "CAISverysecret+token/0123456789=="


def echoes() -> dict[str, tuple[int, str]]:
    both = f"{SECRET} and {TOKEN}"
    escaped = json.dumps(both).replace("=", "\\u003d").replace("/", "\\/")
    error = '{"Code": "SignatureDoesNotMatch", "Message": %s, "RequestId": "R-1"}'
    return {
        "a refusal": (400, error % json.dumps(both)),
        "a refusal with escapes": (400, error % escaped),
        "a refusal in the clothes of a success": (200, error % escaped),
        "an XML refusal": (
            403,
            f"<Error><Code>X</Code><Message>{both.replace('=', '&#61;')}</Message></Error>",
        ),
        "a page": (200, f"<html>{both}</html>"),
        "a broken object": (200, '{"x": ' + escaped),
        "a record of the wrong type": (200, '{"Runs": [{"RunId": 5, "Name": %s}]}' % escaped),  # noqa: UP031
        "a server error": (500, both),
        "a code": (400, json.dumps({"Code": both, "Message": "m"})),
    }


@pytest.mark.parametrize("echo", echoes())
def test_no_secret_shows_even_when_the_server_repeats_it(caller, pai_emulator, caplog, echo):
    caplog.set_level(logging.DEBUG)
    status, body = echoes()[echo]
    pai_emulator.inject("body", status=status, body=body, times=None)
    key = Credential(access_key_id="STS.x", access_key_secret=SECRET, security_token=TOKEN)
    with pytest.raises(PaiError) as caught:
        caller.run(pai_emulator.url, list_runs(RunQuery()), key=key)
    error = caught.value
    exposed = [
        str(error),
        repr(error),
        repr(vars(error)),
        caplog.text,
        repr(key),
        repr(StaticCredential(key)),
    ]
    exposed += traceback.format_exception(error)
    for text in exposed:
        for secret in (SECRET, TOKEN):
            assert secret not in text
            assert secret.rstrip("=") not in text.replace("\\/", "/")


def test_a_request_that_is_refused_for_its_signature_keeps_the_token_inside(caller, pai_emulator, caplog):
    caplog.set_level(logging.DEBUG)
    pai_emulator.accept("STS.x", "another-secret", security_token=TOKEN)
    key = Credential(access_key_id="STS.x", access_key_secret=SECRET, security_token=TOKEN)
    with pytest.raises(PaiAuthenticationError) as caught:
        caller.run(pai_emulator.url, list_runs(RunQuery()), key=key)
    assert caught.value.code == "SignatureDoesNotMatch"
    exposed = caplog.text + "".join(traceback.format_exception(caught.value))
    assert TOKEN not in exposed
    assert SECRET not in exposed


def test_a_proxys_password_stays_out_of_errors(caller, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://user:proxy-password@127.0.0.1:9")
    outcome = caller.run("http://pai.invalid", one_attempt())
    assert isinstance(outcome, Failure)
    assert "proxy-password" not in outcome.reason


# --- endpoints and proxies


@pytest.mark.parametrize("kind", [PaiClient, AsyncPaiClient])
@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        None,
        "aiworkspace.cn-hangzhou.aliyuncs.com",
        "ftp://host",
        "http://",
        "http://host/path",
        "http://[::1",
        "http://:80",
        "http://host:99999",
        "http://host:port",
        "http://ho st",
        "http://user:password@host",
        "https://host?x=1",
        "https://host#x",
    ],
)
def test_a_malformed_endpoint_is_a_configuration_error(kind, endpoint):
    with pytest.raises(PaiConfigurationError, match="https://aiworkspace") as caught:
        kind(endpoint, StaticCredential(Credential(**KEY)))
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("end", ["", "/"])
def test_an_endpoint_may_end_in_a_slash(caller, pai_emulator, end):
    assert caller.run(pai_emulator.url + end, list_runs(RunQuery())) == []


def test_the_environments_proxy_is_used_with_its_login(caller, monkeypatch):
    with raw_server(http(b'{"Runs": [{"RunId": "by proxy"}]}')) as (url, heard):
        monkeypatch.setenv("HTTP_PROXY", url.replace("http://", "http://user:pass@"))
        runs = caller.run("http://pai.invalid", list_runs(RunQuery()))
    assert [run.run_id for run in runs] == ["by proxy"]
    head = heard[0].lower()
    assert head.startswith(b"get http://pai.invalid/api/v1/runs?")
    assert b"host: pai.invalid\r\n" in head
    assert b"proxy-authorization: basic dxnlcjpwyxnz" in head


@pytest.mark.parametrize(
    ("setting", "login"),
    [
        ("{host}", None),
        ("http://{host}/", None),
        ("user:pass@{host}", "user:pass"),
        ("http://user@{host}", "user:"),
        ("http://%E9%98%B6%E6%AE%B5:p%40ss%2F%23w@{host}", "阶段:p@ss/#w"),
        ("http://jörg:pässwört@{host}", "jörg:pässwört"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", ["HTTP{s}_PROXY", "all_proxy"])
def test_a_proxy_setting_means_the_same_to_both(caller, monkeypatch, setting, login, scheme, name):
    with raw_server(http(b"", b"HTTP/1.1 407 Who are you")) as (url, heard):
        proxy = setting.format(host=url.removeprefix("http://"))
        monkeypatch.setenv(name.format(s="S" * (scheme == "https")), proxy)
        outcome = caller.run(f"{scheme}://pai.invalid", one_attempt())
    if scheme == "http":
        assert outcome.status == 407  # the proxy's answer looks like any other
        assert heard[0].startswith(b"GET http://pai.invalid/api/v1/runs ")
    else:
        assert isinstance(outcome, Failure)
        assert outcome.sent is False
        assert heard[0].startswith(b"CONNECT pai.invalid:443 ")
    sent = re.findall(rb"^proxy-authorization: basic (.*)\r$", heard[0], re.IGNORECASE | re.MULTILINE)
    assert [base64.b64decode(each).decode() for each in sent] == ([login] if login is not None else [])
    assert b"authorization: ACS3" not in heard[0] or scheme == "http"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("socks5://user:proxy-password@127.0.0.1:1080", "'socks5'.* not supported"),
        ("socks5h://127.0.0.1:1080", "'socks5h'.* not supported"),
        ("SOCKS4://127.0.0.1:1080", "'socks4'.* not supported"),
        ("ftp://127.0.0.1", "'ftp'.* not supported"),
        ("http://", "not an address"),
        ("http://:3128", "not an address"),
        ("http://proxy:port", "not an address"),
        ("http://proxy:99999", "not an address"),
        ("http://user:proxy-password/@proxy:3128", "not an address"),
        ("http://user:#proxy-password@proxy:3128", "not an address"),
        ("http://pro xy:3128", "not an address"),
        ("http://[::1:3128", "not an address"),
    ],
)
@pytest.mark.parametrize("kind", [PaiClient, AsyncPaiClient])
def test_a_proxy_that_is_not_supported_is_refused_when_the_client_is_made(monkeypatch, kind, setting, said):
    monkeypatch.setenv("HTTPS_PROXY", setting)
    with pytest.raises(PaiConfigurationError, match=f"HTTPS_PROXY.*{said}") as caught:
        kind("https://pai.invalid", StaticCredential(Credential(**KEY)))
    assert "proxy-password" not in str(caught.value)
    assert kind("http://pai.invalid", StaticCredential(Credential(**KEY)))  # which does not use it


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", b"", b"SSH-2.0\r\n"])
def test_a_write_that_a_proxy_refuses_is_tried_again_since_pai_never_saw_it(caller, monkeypatch, answer):
    with raw_server(answer) as (url, heard):
        monkeypatch.setenv("HTTPS_PROXY", url)
        with pytest.raises(PaiTransportError, match="CreateRun") as caught:
            caller.run("https://pai.invalid", create_run("exp-1"))
    assert caught.value.sent is False
    assert len(heard) == flow.ATTEMPTS


def test_a_write_to_a_proxy_that_is_not_there_is_tried_again(caller, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "127.0.0.1:9")
    with pytest.raises(PaiTransportError) as caught:
        caller.run("http://pai.invalid", create_run("exp-1"))
    assert caught.value.sent is False


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.9.1", "[::1]", "pai.localhost"])
def test_loopback_never_goes_through_a_proxy(caller, monkeypatch, host):
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    outcome = caller.run(f"http://{host}:9", one_attempt())
    assert isinstance(outcome, Failure)
    with raw_server(http(b"{}")) as (url, _):
        assert caller.run(url, one_attempt()).status == 200


def test_no_proxy_is_used_where_the_environment_says_so(caller, monkeypatch):
    with raw_server(http(b"{}")) as (proxy, heard):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("NO_PROXY", "pai.invalid")
        assert isinstance(caller.run("http://pai.invalid", one_attempt()), Failure)
        assert heard == []


def test_a_netrc_login_does_not_replace_the_signature(caller, monkeypatch, pai_emulator, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password netrc-password\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert caller.run(pai_emulator.url, list_runs(RunQuery())) == []


# --- many at once, one after another


def test_fifty_flows_share_one_client(pai_emulator):
    wanted = pai_emulator.add_runs(30, labels=lambda index: {"n": str(index % 10)})

    async def drive() -> list[list[str]]:
        async with AsyncPaiClient(pai_emulator.url, StaticCredential(Credential(**KEY))) as many:
            queries = [RunQuery(labels={"n": str(index % 10)}) for index in range(50)]
            found = await asyncio.gather(*(many.run(list_runs(query, page_size=1)) for query in queries))
        return [[run.run_id for run in runs] for runs in found]

    assert asyncio.run(drive()) == [wanted[index % 10 :: 10] for index in range(50)]


def test_one_flow_that_waits_does_not_delay_another(pai_emulator):
    pai_emulator.inject("slow", action="GetRun", delay=20.0)
    pai_emulator.add_runs(3)

    async def drive() -> int:
        async with AsyncPaiClient(pai_emulator.url, StaticCredential(Credential(**KEY))) as many:
            waiting = asyncio.create_task(many.run(get_run("run-1")))
            runs = await many.run(list_runs(RunQuery()))
            assert not waiting.done()
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting
        return len(runs)

    assert asyncio.run(drive()) == 3


def test_connections_are_kept(caller, pai_emulator):
    caller.run(pai_emulator.url, *(list_runs(RunQuery()) for _ in range(10)))
    assert len({request.client_port for request in pai_emulator.requests}) == 1


@contextlib.contextmanager
def forgetful_server() -> Iterator[tuple[str, list[socket.socket]]]:
    """A server behind a gateway that forgets: each connection is answered once, and then no more."""
    connections: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(listener.accept()[0])
                connections[-1].recv(65536)
                connections[-1].sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"RunId":"run-1"}')

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        for each in (listener, *connections):
            each.close()
        thread.join(timeout=5)


def test_a_connection_that_was_long_unused_is_not_used_again(caller, monkeypatch):
    assert wire.IDLE_SECONDS == 15
    monkeypatch.setattr(wire, "IDLE_SECONDS", 0.2)

    def trained() -> Flow[Any]:
        run_id = yield from create_run("exp-1")
        time.sleep(0.3)  # longer than a gateway remembers
        yield from log_run_metrics(run_id, {"accuracy": 0.93})

    with forgetful_server() as (url, connections):
        caller.run(url, trained())
    assert len(connections) == 2


def test_a_paginator_asks_for_no_page_before_it_is_needed(pai_emulator):
    pai_emulator.add_runs(30)
    with PaiClient(pai_emulator.url, StaticCredential(Credential(**KEY))) as one:
        items = one.iter(walk_runs(RunQuery(), page_size=10))
        assert len(pai_emulator.requests) == 0
        for _ in range(10):
            next(items)
        assert len(pai_emulator.requests) == 1
        next(items)
        assert len(pai_emulator.requests) == 2


def test_an_error_inside_a_flow_leaves_the_client_usable(caller, pai_emulator):
    def both() -> Flow[Any]:
        with pytest.raises(PaiNotFoundError):
            yield from get_run("run-0")
        return (yield from list_runs(RunQuery()))

    assert caller.run(pai_emulator.url, both()) == []


# --- what cannot be held wrongly


def test_a_flow_that_has_run_is_refused(pai_emulator, caller):
    listing = list_runs(RunQuery())
    with pytest.raises(PaiUsageError, match="has run already"):
        caller.run(pai_emulator.url, listing, listing)


@pytest.mark.parametrize("most", [1, 5, 100, 101])
def test_no_more_runs_are_yielded_than_were_asked_for(pai_emulator, caller, most):
    pai_emulator.add_runs(230, labels={"a": "b"})
    listing = walk_runs(RunQuery(labels="a:b"), page_size=100, max_runs=most)
    assert len(caller.pages(pai_emulator.url, listing)) == most


def test_no_more_named_runs_are_yielded_than_were_asked_for(pai_emulator, caller):
    named = pai_emulator.add_runs(3)
    listing = walk_runs(RunQuery(run_id=named), max_runs=2)
    assert len(caller.pages(pai_emulator.url, listing)) == 2


def test_a_plain_credential_is_a_source(pai_emulator, caller):
    assert caller.run(pai_emulator.url, list_runs(RunQuery()), key=Credential(**KEY)) == []


def test_an_async_client_that_is_not_open_says_so(pai_emulator):
    async def drive() -> None:
        client = AsyncPaiClient(pai_emulator.url, Credential(**KEY))
        with pytest.raises(PaiUsageError, match="not open: async with"):
            await client.run(list_runs(RunQuery()))
        async with client:
            assert await client.run(list_runs(RunQuery())) == []
        with pytest.raises(PaiUsageError, match="not open: async with"):
            await client.run(list_runs(RunQuery()))

    asyncio.run(drive())
