"""A server that answers ListRuns from memory, so that what is measured is who waits.

It checks no signature. It knows the one label of ``waiting_scene``, ``ExperimentId``, ``Name``, both orders
by time, and pages by token. To contestants that poll for each wait it is kinder than PAI's page promises:
``GmtCreateTime`` means "created since", and ``Empty=404`` answers 404 where nothing matches, which is all
that a deferred HttpSensor can tell apart. ``/label`` and ``/stats`` serve the benchmark itself.

Run as a process of its own: ``python -m benchmarks.waiting_server NOW present|absent`` prints its address;
the last says whether answers have a ``TotalCount``.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import functools
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from benchmarks.fresh import ROOT
from benchmarks.server import SEND_BUFFER_BYTES, answer, run
from benchmarks.waiting_scene import LABEL, Record, history, iso


@functools.lru_cache(maxsize=30_000)
def text(record: Record) -> bytes:
    """Return a run as PAI writes it, about 1750 bytes."""
    wire = run(record.number, random.Random(record.number))
    created = iso(record.created)
    for stamped in (wire, *wire["Labels"]):
        stamped.update(GmtCreateTime=created, GmtModifiedTime=created)
    wire.update(ExperimentId=record.experiment, Name=record.name)
    return json.dumps(wire, separators=(",", ":")).encode()


class Store:
    """The runs that carry the label, oldest first: all, and those of each experiment."""

    def __init__(self, records: list[Record], *, total_count: bool) -> None:
        self._total_count = total_count
        self._next = len(records)
        self._all = records
        self._of: dict[str, list[Record]] = defaultdict(list)
        for record in self._all:
            self._of[record.experiment].append(record)

    def label(self, *, experiment: str, age: str, name: str) -> None:
        """Let a run that was created ``age`` seconds ago carry the label from now on."""
        record = Record(time.time() - float(age), self._next, experiment, name)
        self._next += 1
        bisect.insort(self._all, record)
        bisect.insort(self._of[experiment], record)

    def page(self, query: dict[str, str]) -> tuple[bytes, bool]:
        """Return the body of one page, and whether it has any run."""
        if query.get("Labels") != LABEL:
            raise SystemExit(f"no contestant should ask for {query}")
        runs = self._of[query["ExperimentId"]] if "ExperimentId" in query else self._all
        if "Name" in query:
            runs = [record for record in runs if record.name == query["Name"]]
        first = 0
        if "GmtCreateTime" in query:
            since = datetime.fromisoformat(query["GmtCreateTime"].replace("Z", "+00:00")).timestamp()
            first = bisect.bisect_left(runs, (since,))
        total = len(runs) - first
        start, size = int(query.get("PageToken", 0)), int(query.get("MaxResults", 10))
        places = range(start, min(start + size, total))
        if query["OrderBy"] == "GmtCreateTime DESC":
            shown = [runs[-1 - place] for place in places]
        else:
            shown = [runs[first + place] for place in places]
        token = start + size if start + size < total else 0
        count = b'"TotalCount":%d,' % total if self._total_count else b""
        head = b'{"requestId":"ADF6D849-0000-0000-0000-7E7030F0CE53",%b"NextPageToken":%d,"Runs":['
        return head % (count, token) + b",".join(map(text, shown)) + b"]}", bool(shown)


class Service:
    """Routes, and what was counted of ListRuns."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts = {"requests": 0, "connections": 0, "bytes": 0}

    def handle(self, target: str, *, fresh: bool) -> bytes:
        """Return the whole HTTP answer to a request; ``fresh`` if it is the first on its connection."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        if parts.path == "/stats":
            return answer(json.dumps({**self._counts, "cpu": time.process_time()}).encode())
        if parts.path == "/label":
            self._store.label(**query)
            # One clock for all processes of this machine, as far as the systems go that have getrusage.
            return answer(json.dumps({"at": time.monotonic()}).encode())
        body, found = self._store.page(query)
        whole = answer(body)
        if not found and query.get("Empty") == "404":
            whole = whole.replace(b"200 OK", b"404 Not Found", 1)
        for name, more in (("requests", 1), ("connections", fresh), ("bytes", len(whole))):
            self._counts[name] += more
        return whole


class Connection(asyncio.Protocol):
    """One client's connection, kept for as long as the client likes."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pending = b""
        self._fresh = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is now complete; a GET has no body."""
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            request, _, self._pending = self._pending.partition(b"\r\n\r\n")
            self._transport.write(self._service.handle(request.split(b" ", 2)[1].decode(), fresh=self._fresh))
            self._fresh = False


async def serve(now: float, total_count: str) -> None:
    """Serve on a free port of the loopback interface, until the process is ended."""
    service = Service(Store(history(now), total_count=total_count == "present"))
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(service), sock=listener, backlog=1024
    )
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def serving(now: float, *, total_count: bool) -> Iterator[str]:
    """Run the server in a process of its own and give its address."""
    counted = "present" if total_count else "absent"
    command = [sys.executable, "-m", "benchmarks.waiting_server", repr(now), counted]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def ask(url: str, route: str, **parameters: Any) -> dict[str, Any]:
    """Ask one of the benchmark's own routes."""
    with urllib.request.urlopen(f"{url}/{route}?{urlencode(parameters)}", timeout=30) as response:
        told: dict[str, Any] = json.load(response)
        return told


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), sys.argv[2]))
