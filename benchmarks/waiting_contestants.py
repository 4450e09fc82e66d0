"""A triggerer's event loop with one kind of waits in it.

``python -m benchmarks.waiting_contestants NAME URL`` reads the waits as one line of JSON, then commands, and
writes JSON. Airflow's own ``TriggerRunner`` makes the triggers from what ``serialize()`` gave and runs them,
shared streams included; only its supervisor and its database are missing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import structlog
from airflow.executors import workloads
from airflow.jobs.triggerer_job_runner import TriggerRunner
from airflow.models.trigger import Trigger
from airflow.triggers.base import BaseTrigger, TriggerEvent

from benchmarks.contestants import KEY_ID, KEY_SECRET
from benchmarks.imports import rss
from benchmarks.server import WORKSPACE_ID
from benchmarks.waiting_scene import LABEL

PROBE_SECONDS = 0.01
Serialized = tuple[str, dict[str, Any]]


def ours(wait: dict[str, Any], interval: float) -> Serialized:
    """Return a wait as PaiRunSensor defers it, once it has asked in vain."""
    from airflow.sdk.exceptions import TaskDeferred

    from airflow_provider_pai.sensors import PaiRunSensor

    sensor = PaiRunSensor(
        task_id="wait",
        labels=LABEL,
        workspace_id=WORKSPACE_ID,
        poke_interval=interval,
        deferrable=True,
        **wait,
    )
    try:
        sensor.execute({})
    except TaskDeferred as left:
        serialized: Serialized = left.trigger.serialize()
        return serialized
    raise SystemExit(f"{wait} should not be met yet")


def _parameters(wait: dict[str, Any]) -> dict[str, Any]:
    """Return what a poll for one wait asks: whether there is any, so one run is enough."""
    asked = {"WorkspaceId": WORKSPACE_ID, "Labels": LABEL, "OrderBy": "GmtCreateTime DESC", "MaxResults": 1}
    names = {"experiment_id": "ExperimentId", "name": "Name", "created_after": "GmtCreateTime"}
    return {**asked, **{names[name]: value for name, value in wait.items()}}


def http_sensor(wait: dict[str, Any], interval: float) -> Serialized:
    """Return a wait as HttpSensor defers it."""
    from airflow.providers.http.triggers.http import HttpSensorTrigger

    data = {**_parameters(wait), "Empty": "404"}
    return HttpSensorTrigger(endpoint="api/v1/runs", data=data, poke_interval=interval).serialize()


def sdk(wait: dict[str, Any], interval: float) -> Serialized:
    """Return a wait as one writes it by hand around the official SDK."""
    return SdkTrigger(_parameters(wait), interval).serialize()


class SdkTrigger(BaseTrigger):
    """Poll by the official SDK's coroutines. All share one client, which spares them most of its memory."""

    def __init__(self, parameters: dict[str, Any], poke_interval: float) -> None:
        super().__init__()
        self.parameters = parameters
        self.poke_interval = poke_interval

    def serialize(self) -> Serialized:
        """Return what makes an equal trigger in another process."""
        kwargs = {"parameters": self.parameters, "poke_interval": self.poke_interval}
        return "benchmarks.waiting_contestants.SdkTrigger", kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire once a poll finds any run."""
        from alibabacloud_aiworkspace20210204.models import ListRunsRequest

        request = ListRunsRequest().from_map(self.parameters)
        while True:
            page = (await _sdk_client().list_runs_async(request)).body
            if page.runs:
                yield TriggerEvent(True)
                return
            await asyncio.sleep(self.poke_interval)


@cache
def _sdk_client() -> Any:
    from alibabacloud_aiworkspace20210204.client import Client
    from alibabacloud_tea_openapi.utils_models import Config

    endpoint = urlsplit(os.environ["WAITING_URL"]).netloc
    return Client(
        Config(access_key_id=KEY_ID, access_key_secret=KEY_SECRET, endpoint=endpoint, protocol="http")
    )


CONTESTANTS: dict[str, Callable[[dict[str, Any], float], Serialized]] = {
    "ours": ours,
    "HttpSensor": http_sensor,
    "SDK async": sdk,
}


class Events(deque[Any]):
    """The runner's outbound events; tells when each came."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float, bool]] = []

    def append(self, entry: Any) -> None:
        """Note which wait fired, when, and whether with what it waited for."""
        payload = entry.event.payload
        good = payload is True or (isinstance(payload, dict) and payload.get("status") == "met")
        self.seen.append((entry.trigger_id, time.monotonic(), good))


class Triggerer:
    """The runner, the probe of its loop, and the figures of the time since the last mark."""

    def __init__(self) -> None:
        self.runner = TriggerRunner()
        self.runner.events = self.events = Events()
        self._lags: list[float] = []
        self._probe: asyncio.Task[None] | None = None
        self._mark = (time.monotonic(), self._cpu())

    async def start(self, waits: list[Serialized], over: float) -> None:
        """Make the triggers, at once as a restarted triggerer does, or evenly over some seconds."""
        began = time.monotonic()
        for number, (classpath, kwargs) in enumerate(waits):
            encrypted = Trigger.encrypt_kwargs(kwargs)
            self.runner.to_create.append(
                workloads.RunTrigger(
                    id=number, ti=None, classpath=classpath, encrypted_kwargs=encrypted, timeout_after=None
                )
            )
            if over:
                await asyncio.sleep(max(0.0, began + over * number / len(waits) - time.monotonic()))
                await self.runner.create_triggers()
        await self.runner.create_triggers()

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
        (began, cpu), self._mark = self._mark, (time.monotonic(), self._cpu())
        lags, self._lags = self._lags, []
        tasks = [about["task"] for about in self.runner.triggers.values()]
        broken = [task for task in tasks if task.done() and not task.cancelled() and task.exception()]
        return {
            "seconds": self._mark[0] - began,
            "cpu": self._mark[1] - cpu,
            "rss": rss(),
            "lags": lags,
            "events": self.events.seen,
            "broken": [repr(task.exception()) for task in broken],
        }

    @staticmethod
    def _cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime


async def main(waits: list[Serialized]) -> None:
    """Do as the benchmark says, until it closes the pipe."""
    commands: asyncio.Queue[str] = asyncio.Queue()
    asyncio.get_running_loop().add_reader(sys.stdin, lambda: commands.put_nowait(sys.stdin.readline()))
    triggerer = Triggerer()
    told: dict[str, Any] = {"ready": True}
    while True:
        print(json.dumps(told), file=ANSWERS, flush=True)
        command, _, argument = (await commands.get()).strip().partition(" ")
        if not command:
            os._exit(0)  # a thousand cancelled waits would only take time
        told = {}
        if command == "start":
            await triggerer.start(waits, float(argument))
        elif command == "probe":
            triggerer.probe(argument == "on")
        else:
            told = triggerer.mark()


if __name__ == "__main__":
    ANSWERS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    # A triggerer writes a line for each 404 of an HttpSensor; here that costs it nothing.
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print("{}", file=ANSWERS, flush=True)
    if not (line := sys.stdin.readline()):
        sys.exit()
    asked = json.loads(line)
    asyncio.run(main([CONTESTANTS[sys.argv[1]](wait, asked["interval"]) for wait in asked["waits"]]))
