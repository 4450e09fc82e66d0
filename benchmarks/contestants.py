"""The same listing by five clients.

``python -m benchmarks.contestants NAME URL`` makes a client, then lists once for every line it reads and
writes what that took as JSON. Each contestant gives a function that asks for every page, decodes it and
gathers all runs. Imports are inside, so that each process holds its own contestant's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.server import PAGE_SIZE, WORKSPACE_ID

KEY_ID, KEY_SECRET = "LTAInotanaccesskey000000", "notasecretnotasecretnotasecret"
LABEL = "is_evaluation:true"

Listing = Callable[[], list[Any]]


@contextlib.contextmanager
def ours_sync(url: str) -> Iterator[Listing]:
    """List by :class:`~airflow_provider_pai.api.PaiClient`."""
    from airflow_provider_pai.api import Credential, PaiClient, RunQuery, StaticCredential, list_runs

    key = StaticCredential(Credential(access_key_id=KEY_ID, access_key_secret=KEY_SECRET))
    query = RunQuery(workspace_id=WORKSPACE_ID, labels=LABEL)
    with PaiClient(url, key) as client:
        yield lambda: client.run(list_runs(query, page_size=PAGE_SIZE))


@contextlib.contextmanager
def ours_async(url: str) -> Iterator[Listing]:
    """List by :class:`~airflow_provider_pai.api.AsyncPaiClient`."""
    from airflow_provider_pai.api import AsyncPaiClient, Credential, RunQuery, StaticCredential, list_runs

    key = StaticCredential(Credential(access_key_id=KEY_ID, access_key_secret=KEY_SECRET))
    query = RunQuery(workspace_id=WORKSPACE_ID, labels=LABEL)
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(AsyncPaiClient(url, key).__aenter__())
    yield lambda: loop.run_until_complete(client.run(list_runs(query, page_size=PAGE_SIZE)))
    loop.run_until_complete(client.__aexit__(None, None, None))
    loop.close()


def _sdk_client(url: str) -> Any:
    from alibabacloud_aiworkspace20210204.client import Client
    from alibabacloud_tea_openapi.utils_models import Config

    endpoint = urlsplit(url).netloc
    return Client(
        Config(access_key_id=KEY_ID, access_key_secret=KEY_SECRET, endpoint=endpoint, protocol="http")
    )


def _sdk_request() -> Any:
    from alibabacloud_aiworkspace20210204.models import ListRunsRequest

    return ListRunsRequest(
        workspace_id=WORKSPACE_ID,
        labels=LABEL,
        order_by="GmtCreateTime ASC",
        verbose=True,
        max_results=PAGE_SIZE,
    )


@contextlib.contextmanager
def sdk_sync(url: str) -> Iterator[Listing]:
    """List by the official SDK."""
    client = _sdk_client(url)

    def listing() -> list[Any]:
        request = _sdk_request()
        runs: list[Any] = []
        while True:
            page = client.list_runs(request).body
            runs += page.runs
            if not page.next_page_token:
                return runs
            request.page_token = page.next_page_token

    yield listing


@contextlib.contextmanager
def sdk_async(url: str) -> Iterator[Listing]:
    """List by the official SDK's coroutines."""
    client = _sdk_client(url)

    async def listing() -> list[Any]:
        request = _sdk_request()
        runs: list[Any] = []
        while True:
            page = (await client.list_runs_async(request)).body
            runs += page.runs
            if not page.next_page_token:
                return runs
            request.page_token = page.next_page_token

    loop = asyncio.new_event_loop()
    yield lambda: loop.run_until_complete(listing())
    loop.close()


@contextlib.contextmanager
def bare_loop(url: str) -> Iterator[Listing]:
    """List with the least: nothing is signed, checked, limited or tried again. The floor."""
    from http.client import HTTPConnection

    import msgspec

    from airflow_provider_pai.api.models import RunPage

    decoder = msgspec.json.Decoder(RunPage)
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)

    def listing() -> list[Any]:
        parameters: dict[str, Any] = {
            "WorkspaceId": WORKSPACE_ID,
            "Labels": LABEL,
            "OrderBy": "GmtCreateTime ASC",
            "Verbose": "true",
            "MaxResults": PAGE_SIZE,
        }
        runs: list[Any] = []
        while True:
            connection.request("GET", f"/api/v1/runs?{urlencode(parameters)}")
            page = decoder.decode(connection.getresponse().read())
            runs += page.runs
            if not page.next_page_token:
                return runs
            parameters["PageToken"] = page.next_page_token

    yield listing
    connection.close()


CONTESTANTS: dict[str, Callable[[str], contextlib.AbstractContextManager[Listing]]] = {
    "SDK sync": sdk_sync,
    "SDK async": sdk_async,
    "ours sync": ours_sync,
    "ours async": ours_async,
    "bare loop": bare_loop,
}


def timed(listing: Listing) -> dict[str, float]:
    """Return what one listing takes."""
    gc.collect()  # what an earlier round left is not this round's work
    cpu, started = time.process_time(), time.perf_counter()
    runs = listing()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return {"runs": len(runs), "seconds": seconds, "cpu_seconds": cpu_seconds}


def main(name: str, url: str) -> None:
    """List whenever asked."""
    with CONTESTANTS[name](url) as listing:
        for _ in sys.stdin:
            print(json.dumps(timed(listing)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
