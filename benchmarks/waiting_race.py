"""Let each contestant wait in turn, set labels from outside, and take the figures."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contestants import KEY_ID, KEY_SECRET
from benchmarks.fresh import ROOT
from benchmarks.waiting_scene import EXPERIMENTS, SCENES, awaited, ended_by, experiment_id, waits
from benchmarks.waiting_server import ask, serving

MOST_SETTLING_SECONDS = 60.0
IDLE_SECONDS = 1.5


class Plan(NamedTuple):
    """How much is measured; the last four in intervals, or in labels."""

    waits: int
    interval: float
    quiet: int = 2
    """with no label set and no probe, for CPU"""
    probed: int = 1
    """with no label set, for the loop's lag"""
    busy: int = 4
    """with labels set at random moments"""
    labels: int = 48


class Process:
    """A contestant in a fresh process."""

    def __init__(self, name: str, url: str, home: str) -> None:
        Path(home).mkdir()
        self._errors = (Path(home) / "stderr").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.waiting_contestants", name],
            cwd=ROOT,
            env={**os.environ, **_environment(url, home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._errors.closed:  # it left when its race was over
            return
        with contextlib.suppress(BrokenPipeError), self._process:  # closes its input, which ends it
            pass
        self._errors.close()

    def tell(self, command: str) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # hear() says why
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        """Return the next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise SystemExit(f"a contestant ended early:\n{self._errors.read()[-4000:]}")
        told: dict[str, Any] = json.loads(line)
        return told


def _environment(url: str, home: str) -> dict[str, str]:
    pai = {"conn_type": "pai", "host": url, "login": KEY_ID, "password": KEY_SECRET}
    return {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_PAI_DEFAULT": json.dumps({**pai, "extra": {"region": "cn-hangzhou"}}),
        "AIRFLOW_CONN_HTTP_DEFAULT": json.dumps({"conn_type": "http", "host": url}),
        "WAITING_URL": url,
    }


def races(contestants: Sequence[tuple[str, str]], plan: Plan) -> Iterator[dict[str, Any]]:
    """Yield the figures of each contestant in its scene, one after another."""
    now = time.time()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(now))
        # Importing Airflow takes most of a minute on a busy machine, so all do it now, then stand idle.
        home = stack.enter_context(tempfile.TemporaryDirectory())
        processes = [
            stack.enter_context(Process(name, url, f"{home}/{place}"))
            for place, (name, _) in enumerate(contestants)
        ]
        for process in processes:
            process.hear()
        for (name, scene), process in zip(contestants, processes, strict=True):
            with process:
                yield _race(name, scene, process, url, plan, now)


def _race(
    contestant: str, scene_name: str, process: Process, url: str, plan: Plan, now: float
) -> dict[str, Any]:
    scene = SCENES[scene_name]
    ask(url, "reset")
    figures: dict[str, Any] = {"contestant": contestant, "scene": scene_name}
    alone = contestant != "ours"  # each of its waits polls for itself
    process.tell(json.dumps({"interval": plan.interval, "waits": waits(scene, plan.waits, now)}))
    other = {"experiment": experiment_id(EXPERIMENTS), "age": 0.0}
    for number in range(scene.came):
        ask(url, "label", **other, name=f"came_{number}")
    requests = _counter(url)

    process.tell("probe on")
    figures["idle"] = _measured(process, requests, IDLE_SECONDS)
    process.tell("probe off")

    # Spread over an interval, those that poll for themselves are spared a burst in each.
    process.tell(f"start {plan.interval if alone else 0}")
    settled = _all_have_asked if alone else _quiet
    figures["start"] = settled(requests, plan)

    figures["quiet"] = _measured(process, requests, plan.quiet * plan.interval)
    process.tell("probe on")
    figures["probed"] = _measured(process, requests, plan.probed * plan.interval)
    figures["busy"] = _busy(process, requests, url, scene_name, plan)
    return figures


def _counter(url: str) -> Callable[[], int]:
    """Return what tells how many requests there were since now."""
    before = ask(url, "stats")["requests"]
    return lambda: ask(url, "stats")["requests"] - before


def _measured(process: Process, requests: Callable[[], int], seconds: float) -> dict[str, Any]:
    process.tell("mark")
    before = requests()
    time.sleep(seconds)
    after = requests()
    return {**process.tell("mark"), "requests": after - before}


def _all_have_asked(requests: Callable[[], int], plan: Plan) -> dict[str, Any]:
    """Wait until there were as many requests as waits, and another interval; each wait asks for itself."""
    began = time.monotonic() - plan.interval
    while (count := requests()) < plan.waits and time.monotonic() < began + MOST_SETTLING_SECONDS:
        time.sleep(0.1)
    seconds = time.monotonic() - began
    time.sleep(plan.interval)
    return {"requests": plan.waits, "seconds": seconds, "settled": count >= plan.waits}


def _quiet(requests: Callable[[], int], plan: Plan) -> dict[str, Any]:
    """Wait until requests come an interval apart; tell how many there were before, the first such with them.

    What is read again after a restart is read at once, so the first pause of almost an interval is its end,
    unless the next poll reads more again.
    """
    began = last = time.monotonic()
    count = seen_at_pause = 0
    told: dict[str, Any] = {}
    while time.monotonic() < began + MOST_SETTLING_SECONDS:
        time.sleep(0.05)
        now, new = time.monotonic(), requests() - count
        if new:
            last, count = now, count + new
        if count and now - last >= 0.6 * plan.interval and count > seen_at_pause:
            if told and count == seen_at_pause + 1:
                return told
            told = {"requests": count, "seconds": last - began, "settled": True}
            seen_at_pause = count
    return {"requests": count, "seconds": last - began, "settled": False}


def _busy(
    process: Process, requests: Callable[[], int], url: str, scene_name: str, plan: Plan
) -> dict[str, Any]:
    """Set labels at random moments, then wait for what they end; after two intervals it is missing."""
    scene, chance = SCENES[scene_name], random.Random(7)
    experiments = chance.sample(
        range(min(EXPERIMENTS, plan.waits)), min(plan.labels, EXPERIMENTS, plan.waits)
    )
    moments = sorted(chance.uniform(0.0, plan.busy * plan.interval) for _ in experiments)
    process.tell("mark")
    before, began = requests(), time.monotonic()
    labelled: dict[int, float] = {}
    for moment, experiment in zip(moments, experiments, strict=True):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        at = ask(url, "label", **awaited(scene, experiment, chance))["at"]
        labelled.update(dict.fromkeys(ended_by(scene, plan.waits, experiment), at))
    time.sleep(max(0.0, began + plan.busy * plan.interval - time.monotonic()))
    figures = {**process.tell("mark"), "requests": requests() - before}
    give_up = time.monotonic() + 2 * plan.interval
    while len(figures["events"]) < len(labelled) and time.monotonic() < give_up:
        time.sleep(0.5)
        figures["events"] = process.tell("mark")["events"]
    events = figures.pop("events")
    good = {wait: at for wait, at, met in events if met and wait in labelled}
    return {
        **figures,
        "expected": len(labelled),
        "wrong": len(events) - len(good),
        "delays": [good[wait] - at for wait, at in labelled.items() if wait in good],
    }
