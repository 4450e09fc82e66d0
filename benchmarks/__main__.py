"""Measure everything in one run: ``python -m benchmarks [--quick] [--json FILE]``.

Trust the ratios: the contestants take turns, so that they share whatever else the machine does. The
command succeeds whatever the figures are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import imports, memory, report
from benchmarks.fresh import measured
from benchmarks.server import PAGE_SIZE, serving
from benchmarks.throughput import RUNS, SCENES, race

AIRFLOW_IMPORT_SECONDS = 40.0  # one import of Airflow takes 2 to 10 seconds


def import_figures(rounds: int, budget: float) -> dict[str, list[dict[str, Any]]]:
    """Return what each import took, each in ``rounds`` interpreters; Airflow's only while in budget."""
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in (*imports.IMPORTS, imports.PROVIDER)}
    with tempfile.TemporaryDirectory() as home:
        environment = {"AIRFLOW_HOME": home}
        for name in figures:
            measured("imports", name, environment=environment)  # writes bytecode, and Airflow its settings
        for _ in range(rounds):
            for name in imports.IMPORTS:
                figures[name].append(measured("imports", name))
        taken, until = figures[imports.PROVIDER], time.monotonic() + budget
        while len(taken) < rounds and (len(taken) < 3 or time.monotonic() < until):
            taken.append(measured("imports", imports.PROVIDER, environment=environment))
    return figures


def memory_figures() -> dict[str, dict[str, Any]]:
    """Return what a long listing adds to memory, by both ways of asking."""
    with serving(memory.RUNS // PAGE_SIZE) as url:
        return {way: measured("memory", url, way) for way in ("rss", "tracemalloc")}


def main() -> None:
    """Measure, and print each table as soon as it is known."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a measurement")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures to FILE")
    options = parser.parse_args()
    rounds, interpreters, seconds = (2, 3, 10.0) if options.quick else (5, 7, AIRFLOW_IMPORT_SECONDS)

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]  # what is measured is on this machine

    figures: dict[str, Any] = {"machine": report.machine()}
    print(report.head(" ".join(["python -m benchmarks", *sys.argv[1:]]), figures["machine"]))

    figures["throughput"] = race(rounds)
    for scene, what in SCENES.items():
        print(f"\n{RUNS:,} verbose runs in pages of {PAGE_SIZE}, {what}:")
        print(f"median (least … greatest) of {rounds} rounds")
        print(report.throughput_table(figures["throughput"][scene]))
    print(report.server_line(figures["throughput"]["stream"]))

    print("\nImporting into a fresh interpreter, and the memory it then holds more")
    figures["imports"] = import_figures(interpreters, seconds)
    print(report.import_table(figures["imports"]))
    print(report.import_line(figures["imports"]))

    print(f"\nOne page in memory at a time: {memory.RUNS:,} runs through PaiClient.iter")
    figures["memory"] = memory_figures()
    print(report.memory_table(figures["memory"]))

    print(f"\n{report.target_table(figures)}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
