"""Let each contestant wait in turn, set labels from outside, and take the figures."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.contestants import KEY_ID, KEY_SECRET
from benchmarks.fresh import ROOT
from benchmarks.waiting_scene import EXPERIMENTS, SCENES, awaited, ended_by, waits
from benchmarks.waiting_server import ask, serving

MOST_STARTING_SECONDS = 300.0
IDLE_SECONDS = 1.5

Figures = dict[str, Any]


class Plan(NamedTuple):
    """How much is measured: so many ``labels`` are set within ``busy`` seconds."""

    waits: int = 1000
    interval: float = 5.0
    busy: float = 15.0
    labels: int = 48


QUICK = Plan(waits=200, interval=2.0, busy=4.0, labels=20)


def python_of(airflow: str) -> Path:
    """Return the Python of the environment that has this Airflow."""
    return ROOT / ".venvs" / airflow / "bin" / "python"


class Process:
    """A contestant in a fresh process."""

    def __init__(self, airflow: str, name: str, url: str, home: str) -> None:
        self._errors = (Path(home) / "stderr").open("w+")
        self._process = subprocess.Popen(
            [python_of(airflow), "-m", "benchmarks.waiting_contestants", name, url],
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
        with contextlib.suppress(BrokenPipeError), self._process:  # closes its input, which ends it
            pass
        self._errors.close()

    def tell(self, command: str) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self._process.stdin is not None
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
    }


def race(airflow: str, contestant: str, scene_name: str, plan: Plan) -> Figures:
    """Return the figures of one contestant in one scene, against a server of its own."""
    now, scene = time.time(), SCENES[scene_name]
    plan = plan._replace(interval=max(plan.interval, scene.interval))
    with (
        serving(now, total_count=scene.total_count) as url,
        tempfile.TemporaryDirectory() as home,
        Process(airflow, contestant, url, home) as process,
    ):
        figures: Figures = {"airflow": airflow, "contestant": contestant, "scene": scene_name}
        figures.update(interval=plan.interval, packages=process.hear())
        process.tell(json.dumps({"interval": plan.interval, "waits": waits(scene, plan.waits, now)}))
        process.tell("probe on")
        figures["idle"] = _measured(process, url, lambda: time.sleep(IDLE_SECONDS))
        figures["start"] = _measured(process, url, lambda: _start(process, url, contestant, plan))
        process.tell("probe off")  # which takes more CPU than ours
        figures["quiet"] = _measured(process, url, lambda: time.sleep(2 * plan.interval))
        if scene.window is not None:
            process.tell("probe on")
            labelled: dict[int, float] = {}
            figures["busy"] = _measured(process, url, lambda: labelled.update(_label(url, scene_name, plan)))
            figures["label"] = _ended(process, labelled, plan)
        return figures


def _measured(process: Process, url: str, do: Callable[[], object]) -> Figures:
    process.tell("mark")
    before = ask(url, "stats")["requests"]
    do()
    after = ask(url, "stats")["requests"]
    return {**process.tell("mark"), "requests": after - before}


def _start(process: Process, url: str, contestant: str, plan: Plan) -> None:
    """Begin all waits, as a restarted triggerer does, and return once PAI has answered each of them."""
    give_up = time.monotonic() + MOST_STARTING_SECONDS
    before: int = ask(url, "stats")["requests"]
    if contestant == "ours":
        process.tell("start 0")
        while process.tell("unanswered")["waits"] and time.monotonic() < give_up:
            time.sleep(0.05)
    else:  # each polls for itself: spread over an interval they are spared a burst in each
        process.tell(f"start {plan.interval}")
        while ask(url, "stats")["requests"] < before + plan.waits and time.monotonic() < give_up:
            time.sleep(0.1)


def _label(url: str, scene_name: str, plan: Plan) -> dict[int, float]:
    """Set labels at random moments; return the waits that they end, and when each was set."""
    scene, chance = SCENES[scene_name], random.Random(7)
    experiments = chance.sample(range(EXPERIMENTS), plan.labels)
    moments = sorted(chance.uniform(0.0, plan.busy) for _ in experiments)
    began, labelled = time.monotonic(), {}
    for moment, experiment in zip(moments, experiments, strict=True):
        time.sleep(max(0.0, began + moment - time.monotonic()))
        at = ask(url, "label", **awaited(scene, experiment, chance))["at"]
        labelled.update(dict.fromkeys(ended_by(plan.waits, experiment), at))
    time.sleep(max(0.0, began + plan.busy - time.monotonic()))
    return labelled


def _ended(process: Process, labelled: dict[int, float], plan: Plan) -> Figures:
    """Wait for what the labels end; after three intervals it is missing."""
    give_up = time.monotonic() + 3 * plan.interval
    while len(events := process.tell("mark")["events"]) < len(labelled) and time.monotonic() < give_up:
        time.sleep(0.5)
    good = {wait: at for wait, at, met in events if met and wait in labelled}
    return {
        "expected": len(labelled),
        "wrong": len(events) - len(good),
        "delays": [good[wait] - at for wait, at in labelled.items() if wait in good],
    }
