"""Let the contestants list in turn, so that whatever else the machine does meets them all alike."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

from benchmarks.contestants import CONTESTANTS
from benchmarks.fresh import ROOT
from benchmarks.server import PAGE_SIZE, serving, stats

RUNS = 20_000
SCENES = {
    "stream": "one page in memory at a time, as client.iter gives them",
    "keep": "all kept in a list, as list_runs returns them",
}


class Racer:
    """A contestant in a process of its own."""

    def __init__(self, name: str, url: str) -> None:
        command = [sys.executable, "-m", "benchmarks.contestants", name, url]
        self._url = url
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Racer:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # closes its input, which ends it
            pass

    def list_once(self, scene: str) -> dict[str, Any]:
        """Return what one listing took, and how the server saw it."""
        before = stats(self._url)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{scene}\n")
        self._process.stdin.flush()
        figures: dict[str, Any] = json.loads(self._process.stdout.readline())
        if figures["runs"] != RUNS:
            raise SystemExit(f"a contestant returned {figures['runs']} runs of {RUNS}")
        after = stats(self._url)
        return figures | {name: after[name] - before[name] for name in after}


def race(rounds: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return what each contestant took in each round of each scene.

    The first round warms up and comes with the rest. A connection that is kept from round to round is counted
    where it was opened.
    """
    figures: dict[str, dict[str, list[dict[str, Any]]]]
    figures = {scene: {name: [] for name in CONTESTANTS} for scene in SCENES}
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(serving(RUNS // PAGE_SIZE))
        racers = {name: stack.enter_context(Racer(name, url)) for name in CONTESTANTS}
        for _ in range(1 + rounds):
            for scene in SCENES:
                for name, racer in racers.items():
                    figures[scene][name].append(racer.list_once(scene))
    return figures
