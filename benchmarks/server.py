"""A server that answers ListRuns from prepared bytes, so that what is measured is the client.

It checks no signature and knows two paths: ``/stats``, and any other, which is a page of runs chosen by
``PageToken``. Run as a process of its own: ``python -m benchmarks.server PAGES`` prints its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from typing import Any

from benchmarks.fresh import ROOT

PAGE_SIZE = 100
WORKSPACE_ID = "145883"
LABELS = {"is_evaluation": "true", "dataset": "mmlu-pro", "stage": "candidate"}
PARAMS = ("learning_rate", "batch_size", "epochs", "optimizer", "weight_decay", "base_model")
METRICS = ("accuracy", "f1", "precision", "recall", "loss", "perplexity", "latency_ms", "tokens_per_second")
SEND_BUFFER_BYTES = 1024 * 1024  # a page leaves in one call, whatever the client does meanwhile

_TOKEN = re.compile(rb"[?&]PageToken=(\d+)")
_START = datetime(2025, 10, 1, tzinfo=timezone.utc)


def run(number: int, chance: random.Random) -> dict[str, Any]:
    """Return one verbose run as PAI writes it, about 1750 bytes of JSON; later numbers are younger."""
    created = (_START + timedelta(seconds=number)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    run_id = f"run-{number:012d}"
    times = {"GmtCreateTime": created, "GmtModifiedTime": created}
    return {
        "Accessibility": "PRIVATE",
        "SourceId": f"train{number:08d}",
        "SourceType": "TrainingService",
        "WorkspaceId": WORKSPACE_ID,
        "Params": [{"Key": key, "Value": f"{chance.random():.6f}"} for key in PARAMS],
        "Labels": [{"Key": key, "Value": value, "RunId": run_id, **times} for key, value in LABELS.items()],
        "Metrics": [
            {"Key": key, "Value": chance.random(), "Step": 1000, "Timestamp": 1759300000000 + number}
            for key in METRICS
        ],
        "Name": f"evaluation_of_candidate_{number}",
        "OwnerId": "1631044012343440",
        "UserId": "200000000000000001",
        "ExperimentId": "exp-1zpfthdx4k2m9q",
        "RunId": run_id,
        **times,
    }


def pages(count: int) -> list[bytes]:
    """Return whole HTTP answers: ``count`` pages of one listing, in which no run comes twice."""
    chance = random.Random(20210204)
    answers = []
    for page in range(count):
        listing = {
            "requestId": f"ADF6D849-0000-0000-0000-{page:012d}",
            "Runs": [run(page * PAGE_SIZE + place, chance) for place in range(PAGE_SIZE)],
            "TotalCount": count * PAGE_SIZE,
            "NextPageToken": (page + 1) % count,
        }
        answers.append(answer(json.dumps(listing, separators=(",", ":")).encode()))
    return answers


def answer(body: bytes) -> bytes:
    """Return ``body`` with the header lines that PAI's gateway sends."""
    head = (
        "HTTP/1.1 200 OK\r\n"
        f"Date: {formatdate(usegmt=True)}\r\n"
        "Content-Type: application/json;charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Keep-Alive: timeout=25\r\n"
        "x-acs-request-id: ADF6D849-0000-0000-0000-7E7030F0CE53\r\n"
        "\r\n"
    )
    return head.encode() + body


class Counters:
    """What the server has seen of its clients, ``/stats`` left out."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0

    def report(self) -> bytes:
        """Return the counters and the CPU time of this process as an HTTP answer."""
        figures = {**vars(self), "server_cpu_seconds": time.process_time()}
        return answer(json.dumps(figures).encode())


class Connection(asyncio.Protocol):
    """One client's connection, kept alive for as long as the client likes."""

    def __init__(self, answers: list[bytes], counters: Counters) -> None:
        self._answers = answers
        self._counters = counters
        self._pending = b""
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each request that is now complete; a GET has no body."""
        self._pending += data
        while b"\r\n\r\n" in self._pending:
            request, _, self._pending = self._pending.partition(b"\r\n\r\n")
            self._transport.write(self._answer(request.partition(b"\r\n")[0]))

    def _answer(self, line: bytes) -> bytes:
        if line.startswith(b"GET /stats"):
            return self._counters.report()
        self._counters.requests += 1
        self._counters.connections += not self._counted
        self._counted = True
        token = _TOKEN.search(line)
        return self._answers[int(token[1]) if token else 0]


async def serve(count: int) -> None:
    """Serve ``count`` pages on a free port of the loopback interface, until the process is ended."""
    answers, counters = pages(count), Counters()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(answers, counters), sock=listener
    )
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def serving(count: int) -> Iterator[str]:
    """Run the server in a process of its own and give its address."""
    command = [sys.executable, "-m", "benchmarks.server", str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def stats(url: str) -> dict[str, float]:
    """Return the counters of the server at ``url``."""
    with urllib.request.urlopen(f"{url}/stats", timeout=10) as response:
        figures: dict[str, float] = json.load(response)
        return figures


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
