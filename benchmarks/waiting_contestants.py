"""A triggerer's event loop with one kind of waits in it.

``python -m benchmarks.waiting_contestants NAME URL`` reads the waits as one line of JSON, then commands, and
writes JSON. A wait is what each Airflow makes of a trigger: a task that iterates over ``run()``. Airflow's
supervisor and its database are missing.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from benchmarks.contestants import KEY_ID, KEY_SECRET
from benchmarks.imports import rss
from benchmarks.server import WORKSPACE_ID
from benchmarks.waiting_scene import LABEL

PROBE_SECONDS = 0.01
PACKAGES = (
    "apache-airflow",
    "aiohttp",
    "msgspec",
    "apache-airflow-providers-http",
    "alibabacloud-aiworkspace20210204",
    "alibabacloud-tea-openapi",
)
Events = AsyncIterator[Any]


def ours(wait: dict[str, Any], interval: float) -> Events:
    """Wait as PaiRunSensor does in the triggerer."""
    from airflow_provider_pai.triggers import PaiRunTrigger

    return PaiRunTrigger(labels=LABEL, workspace_id=WORKSPACE_ID, poke_interval=interval, **wait).run()


def _parameters(wait: dict[str, Any]) -> dict[str, Any]:
    """Return what a poll for one wait asks: whether there is any, so one run is enough."""
    asked = {"WorkspaceId": WORKSPACE_ID, "Labels": LABEL, "OrderBy": "GmtCreateTime DESC", "MaxResults": 1}
    names = {"experiment_id": "ExperimentId", "name": "Name", "created_after": "GmtCreateTime"}
    return {**asked, **{names[name]: value for name, value in wait.items()}}


def http_sensor(wait: dict[str, Any], interval: float) -> Events:
    """Wait as HttpSensor does in the triggerer."""
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    data = {**_parameters(wait), "Empty": "404"}
    return HttpSensorTrigger(endpoint="api/v1/runs", data=data, poke_interval=interval).run()


async def sdk(wait: dict[str, Any], interval: float) -> Events:
    """Wait as one writes it by hand around the official SDK's coroutines.

    All share one client, which spares them most of its memory.
    """
    from alibabacloud_aiworkspace20210204.models import ListRunsRequest

    request = ListRunsRequest().from_map(_parameters(wait))
    while True:
        if (await _sdk_client().list_runs_async(request)).body.runs:
            yield True
            return
        await asyncio.sleep(interval)


@cache
def _sdk_client() -> Any:
    from alibabacloud_aiworkspace20210204.client import Client
    from alibabacloud_tea_openapi.utils_models import Config

    endpoint = urlsplit(sys.argv[2]).netloc
    return Client(
        Config(access_key_id=KEY_ID, access_key_secret=KEY_SECRET, endpoint=endpoint, protocol="http")
    )


CONTESTANTS: dict[str, tuple[Callable[[dict[str, Any], float], Events], str]] = {
    "ours": (ours, "airflow_provider_pai.triggers"),
    "HttpSensor": (http_sensor, "airflow.providers.http.triggers.http"),
    "SDK async": (sdk, "alibabacloud_aiworkspace20210204.client"),
}
"""How each waits, and the module of its trigger, which a triggerer imports once."""


class Triggerer:
    """The waits, the probe of their loop, and the figures of the time since the last mark."""

    def __init__(self, wait: Callable[[dict[str, Any], float], Events]) -> None:
        self._wait = wait
        self._tasks: list[asyncio.Task[None]] = []
        self._events: list[tuple[int, float, bool]] = []
        self._lags: list[float] = []
        self._probe: asyncio.Task[None] | None = None
        self._mark = (time.monotonic(), time.process_time())

    async def start(self, waits: list[dict[str, Any]], interval: float, over: float) -> None:
        """Begin to wait, at once as a restarted triggerer does, or evenly over some seconds."""
        began = time.monotonic()
        for number, wait in enumerate(waits):
            self._tasks.append(asyncio.create_task(self._watch(number, self._wait(wait, interval))))
            await asyncio.sleep(max(0.0, began + over * number / len(waits) - time.monotonic()))

    async def _watch(self, number: int, events: Events) -> None:
        async for event in events:
            payload = getattr(event, "payload", event)
            good = payload is True or (isinstance(payload, dict) and payload.get("status") == "met")
            self._events.append((number, time.monotonic(), good))

    def unanswered(self) -> int:
        """Return how many of our waits have heard nothing from PAI yet."""
        from airflow_provider_pai.waiting.poller import _pollers

        pollers = [poller for of_client in _pollers.values() for poller in of_client.values()]
        subscriptions = [
            each for poller in pollers for question in poller.questions for each in question.subscriptions
        ]
        waiting = sum(not task.done() for task in self._tasks)
        return waiting - sum(each.answered for each in subscriptions)

    def probe(self, on: bool) -> None:
        """Begin or stop to measure by how much a short sleep oversleeps."""
        if self._probe is not None:
            self._probe.cancel()
        self._probe = asyncio.create_task(self._sleep()) if on else None

    async def _sleep(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(PROBE_SECONDS)
            self._lags.append(time.perf_counter() - before - PROBE_SECONDS)

    def mark(self) -> dict[str, Any]:
        """Return the figures since the last mark."""
        (began, cpu), self._mark = self._mark, (time.monotonic(), time.process_time())
        lags, self._lags = self._lags, []
        broken = [task for task in self._tasks if task.done() and not task.cancelled() and task.exception()]
        return {
            "seconds": self._mark[0] - began,
            "cpu": self._mark[1] - cpu,
            "rss": rss(),
            "lags": lags,
            "events": self._events,
            "broken": [repr(task.exception()) for task in broken],
        }


async def main(name: str, asked: dict[str, Any]) -> None:
    """Do as the benchmark says, until it closes the pipe."""
    commands: asyncio.Queue[str] = asyncio.Queue()
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: commands.put_nowait(sys.stdin.readline()))
    triggerer = Triggerer(CONTESTANTS[name][0])
    told: dict[str, Any] = {}
    while True:
        print(json.dumps(told), file=ANSWERS, flush=True)
        command, _, argument = (await commands.get()).strip().partition(" ")
        if not command:
            os._exit(0)  # a thousand cancelled waits would only take time
        told = {}
        if command == "start":
            await triggerer.start(asked["waits"], asked["interval"], float(argument))
        elif command == "probe":
            triggerer.probe(argument == "on")
        elif command == "unanswered":
            told = {"waits": triggerer.unanswered()}
        else:
            told = triggerer.mark()


if __name__ == "__main__":
    ANSWERS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    importlib.import_module("airflow.triggers.base")  # a triggerer has all of Airflow
    importlib.import_module(CONTESTANTS[sys.argv[1]][1])
    # A triggerer writes a line for each 404 of an HttpSensor; here that costs it nothing.
    logging.disable(logging.WARNING)
    if structlog := sys.modules.get("structlog"):  # Airflow 3 logs through it
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print(json.dumps({name: version(name) for name in PACKAGES}), file=ANSWERS, flush=True)
    if not (line := sys.stdin.readline()):
        sys.exit()
    asyncio.run(main(sys.argv[1], json.loads(line)))
