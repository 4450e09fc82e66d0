"""How long the event loop stands still: ``python -m benchmarks.blocking [--rounds N]``.

A triggerer runs a thousand waits in one loop: whatever blocks it delays them all. Each figure is the longest
that a probe in the loop overslept, in a fresh interpreter. ``python -m benchmarks.blocking NAME ours|usual``
measures one of them and writes JSON. Needs Airflow 3.1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import Any

from tabulate import tabulate

from benchmarks.fresh import measured

PROBE_SECONDS = 0.001
SLOW_SECONDS = 1.0
"""How long the stand-in for a metadata service takes to issue a credential."""
WAITS = 3
RUNS = 1000
"""On one page: ten times what the provider asks for."""
MOST_MS = 50.0
CONNECTION = {"conn_type": "pai", "login": "id", "password": "secret", "extra": {"region": "cn-hangzhou"}}

Scenario = Callable[[], Awaitable[Any]]


async def look_up() -> None:
    """Read a connection as a triggerer does."""
    from airflow_provider_pai.hooks import PaiHook

    await PaiHook("measured").asettings()


async def look_up_on_the_loop() -> None:
    """Read it by the sync call."""
    from airflow_provider_pai.hooks import PaiHook

    _ = PaiHook("measured").settings


async def open_client() -> None:
    """Make the client of a connection, TLS included."""
    from airflow_provider_pai.waiting.client import shared_client

    async with shared_client("measured", None) as client:
        await client.settings()


async def open_client_on_the_loop() -> None:
    """Make the official SDK's client."""
    from alibabacloud_aiworkspace20210204.client import Client
    from alibabacloud_tea_openapi.utils_models import Config

    Client(Config(access_key_id="id", access_key_secret="secret", region_id="cn-hangzhou"))


def slow_uri() -> str:
    """Serve a credential from a URI, slowly, and return it."""
    issued = {"AccessKeyId": "id", "AccessKeySecret": "secret", "SecurityToken": "token"}
    body = json.dumps({"Code": "Success", **issued, "Expiration": "2099-01-01T00:00:00Z"}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(SLOW_SECONDS)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/credential"


async def obtain() -> None:
    """Obtain a credential for several flows at once, which then find nobody at home."""
    from airflow_provider_pai.api import list_runs_page
    from airflow_provider_pai.waiting.client import shared_client

    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"
    extra = {"credential_type": "credentials_uri", "credentials_uri": slow_uri()}
    os.environ["AIRFLOW_CONN_MEASURED"] = json.dumps({"conn_type": "pai", "host": closed, "extra": extra})
    logging.disable()

    async def ask() -> None:
        with suppress(TimeoutError):
            async with shared_client("measured", None) as client, asyncio.timeout(1.5 * SLOW_SECONDS):
                await client.run(list_runs_page, lambda limit: limit.polls)

    await asyncio.gather(*(ask() for _ in range(WAITS)))


async def obtain_on_the_loop() -> None:
    """Obtain as many by the library's own coroutine, which may fail: it stalls its own connection too."""
    from alibabacloud_credentials.client import Client
    from alibabacloud_credentials.models import Config

    client = Client(Config(type="credentials_uri", credentials_uri=slow_uri()))
    logging.disable()
    await asyncio.gather(*(client.get_credential_async() for _ in range(WAITS)), return_exceptions=True)


def page() -> bytes:
    """Return a page of runs as PAI writes it."""
    import random

    from benchmarks.server import run

    chance = random.Random(7)
    return json.dumps({"Runs": [run(number, chance) for number in range(RUNS)], "TotalCount": RUNS}).encode()


def largest_page() -> bytes:
    """Return as many runs as the largest answer can hold."""
    from airflow_provider_pai.api.wire import MAX_BODY_BYTES

    number = MAX_BODY_BYTES // len('{"RunId":"1000000"},')
    return b'{"Runs":[%s]}' % b",".join(b'{"RunId":"%d"}' % (1_000_000 + index) for index in range(number))


PAGE = b""


async def decode() -> None:
    """Decode a page into typed runs, as a client does with an answer."""
    from airflow_provider_pai.api import list_runs_page
    from airflow_provider_pai.api.client import advance
    from airflow_provider_pai.api.flow import Response

    flow = list_runs_page()
    next(flow)
    await advance(flow, Response(status=200, headers={}, body=PAGE))


async def decode_by_the_sdk() -> None:
    """Decode it into the official SDK's models."""
    from alibabacloud_aiworkspace20210204.models import ListRunsResponseBody

    ListRunsResponseBody().from_map(json.loads(PAGE))


async def nothing() -> None:
    """Only sleep: what the machine itself makes the probe oversleep."""
    await asyncio.sleep(SLOW_SECONDS)


SCENARIOS: dict[str, tuple[str, Scenario, str, Scenario]] = {
    "nothing": ("nothing goes on", nothing, "the same", nothing),
    "connection": ("looking up a connection", look_up, "the sync call", look_up_on_the_loop),
    "client": ("making a client", open_client, "the SDK's client", open_client_on_the_loop),
    "credential": (
        f"{WAITS} ask for a credential that takes {SLOW_SECONDS:g} s",
        obtain,
        "the library's coroutine",
        obtain_on_the_loop,
    ),
    "page": (f"decoding a page of {RUNS:,} runs", decode, "the SDK's models", decode_by_the_sdk),
    "largest page": ("decoding 8 MiB of runs", decode, "the SDK's models", decode_by_the_sdk),
}
PAGES = {"page": page, "largest page": largest_page}


async def longest_stall(scenario: Scenario) -> float:
    """Return the longest that a probe overslept while something went on, in milliseconds."""
    longest = 0.0

    async def probe() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            await asyncio.sleep(PROBE_SECONDS)
            longest = max(longest, time.perf_counter() - before - PROBE_SECONDS)

    probing = asyncio.create_task(probe())
    await asyncio.sleep(0.1)
    longest = 0.0
    await scenario()
    await asyncio.sleep(0.01)  # what went on without a pause shows when the probe is next due
    probing.cancel()
    return 1000 * longest


def measure(name: str, whose: str) -> float:
    """Return one figure. A triggerer has imported its triggers, and all of Airflow, before it runs one."""
    global PAGE

    import airflow_provider_pai.triggers

    assert airflow_provider_pai.triggers
    if name in PAGES:
        import alibabacloud_aiworkspace20210204.models

        assert alibabacloud_aiworkspace20210204.models
        PAGE = PAGES[name]()
    os.environ["AIRFLOW_CONN_MEASURED"] = json.dumps(CONNECTION)
    _, ours, _, usual = SCENARIOS[name]
    return asyncio.run(longest_stall(ours if whose == "ours" else usual))


def main() -> None:
    """Measure each, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocking", description=__doc__)
    parser.add_argument("one", nargs="*", metavar="NAME ours|usual", help="measure one, and write JSON")
    parser.add_argument("--rounds", type=int, default=5, help="interpreters for each figure (5)")
    options = parser.parse_args()
    if options.one:
        print(json.dumps({"ms": measure(*options.one)}))
        return
    rows = []
    for name, (what, _, peer, _) in SCENARIOS.items():
        ours, usual = [], []
        for _ in range(options.rounds):  # in turns, so that they share whatever else the machine does
            ours.append(measured("blocking", name, "ours")["ms"])
            usual.append(measured("blocking", name, "usual")["ms"])
        reached = "reached" if median(ours) <= MOST_MS else "missed"
        figures = [f"{median(taken):.1f} ({min(taken):.1f} … {max(taken):.1f})" for taken in (ours, usual)]
        rows.append((what, figures[0], figures[1], peer, reached))
    print(f"The longest stall of the event loop in ms: median (least … greatest) of {options.rounds}")
    headers = ("while", "ours", "the usual way", "which is", f"at most {MOST_MS:g} ms")
    print(tabulate(rows, headers, disable_numparse=True, colalign=("left", "right", "right", "left", "left")))


if __name__ == "__main__":
    main()
