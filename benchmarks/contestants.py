"""The same listing by six clients.

``python -m benchmarks.contestants NAME URL`` makes a client, then lists once for every line it reads, which
names the scene, and writes what that took as JSON. Imports are inside, so that each process holds its own
contestant's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from benchmarks.server import PAGE_SIZE, WORKSPACE_ID

KEY_ID, KEY_SECRET = "LTAInotanaccesskey000000", "notasecretnotasecretnotasecret"
LABEL = "is_evaluation:true"


class Listing(NamedTuple):
    """One listing in two scenes. Both ask for every page and decode it."""

    stream: Callable[[], int]
    """Count the runs, and keep no more than a page or two of them."""
    keep: Callable[[], list[Any]]
    """Gather all runs in a list."""


def of_pages(pages: Callable[[], Iterator[list[Any]]]) -> Listing:
    """Return the listing of a client that gives page after page."""

    def keep() -> list[Any]:
        runs: list[Any] = []
        for page in pages():
            runs += page
        return runs

    return Listing(lambda: sum(map(len, pages())), keep)


@contextlib.contextmanager
def ours_sync(url: str) -> Iterator[Listing]:
    """List by :class:`~airflow_provider_pai.api.PaiClient`."""
    from airflow_provider_pai.api import Credential, PaiClient, RunQuery, list_runs, walk_runs

    key = Credential(access_key_id=KEY_ID, access_key_secret=KEY_SECRET)
    query = RunQuery(workspace_id=WORKSPACE_ID, labels=LABEL)
    with PaiClient(url, key) as client:
        yield Listing(
            lambda: sum(1 for _ in client.iter(walk_runs(query, page_size=PAGE_SIZE))),
            lambda: client.run(list_runs(query, page_size=PAGE_SIZE)),
        )


@contextlib.contextmanager
def ours_async(url: str) -> Iterator[Listing]:
    """List by :class:`~airflow_provider_pai.api.AsyncPaiClient`."""
    from airflow_provider_pai.api import AsyncPaiClient, Credential, RunQuery, list_runs, walk_runs

    key = Credential(access_key_id=KEY_ID, access_key_secret=KEY_SECRET)
    query = RunQuery(workspace_id=WORKSPACE_ID, labels=LABEL)
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(AsyncPaiClient(url, key).__aenter__())

    async def count() -> int:
        runs = 0
        async for _ in client.iter(walk_runs(query, page_size=PAGE_SIZE)):
            runs += 1
        return runs

    yield Listing(
        lambda: loop.run_until_complete(count()),
        lambda: loop.run_until_complete(client.run(list_runs(query, page_size=PAGE_SIZE))),
    )
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

    def pages() -> Iterator[list[Any]]:
        request = _sdk_request()
        while True:
            page = client.list_runs(request).body
            yield page.runs
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    yield of_pages(pages)


@contextlib.contextmanager
def sdk_async(url: str) -> Iterator[Listing]:
    """List by the official SDK's coroutines."""
    client = _sdk_client(url)

    async def listing(take: Callable[[list[Any]], None]) -> None:
        request = _sdk_request()
        while True:
            page = (await client.list_runs_async(request)).body
            take(page.runs)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    loop = asyncio.new_event_loop()

    def stream() -> int:
        counts: list[int] = []
        loop.run_until_complete(listing(lambda page: counts.append(len(page))))
        return sum(counts)

    def keep() -> list[Any]:
        runs: list[Any] = []
        loop.run_until_complete(listing(runs.extend))
        return runs

    yield Listing(stream, keep)
    loop.close()


def _bare(url: str, decode: Callable[[bytes], tuple[list[Any], Any]]) -> Iterator[Listing]:
    from http.client import HTTPConnection

    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)

    def pages() -> Iterator[list[Any]]:
        parameters: dict[str, Any] = {
            "WorkspaceId": WORKSPACE_ID,
            "Labels": LABEL,
            "OrderBy": "GmtCreateTime ASC",
            "Verbose": "true",
            "MaxResults": PAGE_SIZE,
        }
        while True:
            connection.request("GET", f"/api/v1/runs?{urlencode(parameters)}")
            runs, token = decode(connection.getresponse().read())
            yield runs
            if not token:
                return
            parameters["PageToken"] = token

    yield of_pages(pages)
    connection.close()


@contextlib.contextmanager
def bare_loop(url: str) -> Iterator[Listing]:
    """List with the least: nothing is signed, checked, limited or tried again. The floor."""
    import msgspec

    from airflow_provider_pai.api.models import RunPage

    decoder = msgspec.json.Decoder(RunPage)

    def decode(body: bytes) -> tuple[list[Any], Any]:
        page = decoder.decode(body)
        return page.runs, page.next_page_token

    yield from _bare(url, decode)


@contextlib.contextmanager
def bare_dicts(url: str) -> Iterator[Listing]:
    """The same, with plain dicts for runs."""
    import msgspec

    decoder = msgspec.json.Decoder()

    def decode(body: bytes) -> tuple[list[Any], Any]:
        page = decoder.decode(body)
        return page["Runs"], page["NextPageToken"]

    yield from _bare(url, decode)


CONTESTANTS: dict[str, Callable[[str], contextlib.AbstractContextManager[Listing]]] = {
    "SDK sync": sdk_sync,
    "SDK async": sdk_async,
    "ours sync": ours_sync,
    "ours async": ours_async,
    "bare loop": bare_loop,
    "bare loop, dicts": bare_dicts,
}


def timed(listing: Listing, scene: str) -> dict[str, float]:
    """Return what one listing takes. Freeing what it kept is no part of it."""
    gc.collect()  # what an earlier round left is not this round's work
    cpu, started = time.process_time(), time.perf_counter()
    runs = getattr(listing, scene)()
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    count = runs if scene == "stream" else len(runs)
    return {"runs": count, "seconds": seconds, "cpu_seconds": cpu_seconds}


def main(name: str, url: str) -> None:
    """List whenever asked."""
    with CONTESTANTS[name](url) as listing:
        for scene in sys.stdin:
            print(json.dumps(timed(listing, scene.strip())), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
