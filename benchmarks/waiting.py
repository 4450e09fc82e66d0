"""Let a thousand deferred sensors wait: ``python -m benchmarks.waiting [--quick] [--airflow VERSION]``.

Each contestant has a fresh process with one event loop, on each of two Airflows, and waits against a local
server: ours, one HttpSensor for each wait, and one trigger for each around the official SDK's coroutines.
Trust the ratios. The command succeeds whatever the figures are. Needs ``.venvs``, which ``make bench`` makes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.waiting_race import QUICK, Plan, python_of, race
from benchmarks.waiting_report import head, promises, remarks, table
from benchmarks.waiting_scene import EXPERIMENTS, HISTORY, SCENES

AIRFLOWS = ("3.3.2", "2.10.4")
PEERS = (("HttpSensor", "recent"), ("SDK async", "recent"))
LONG = "ever"
NOTES = """\
"restart": until each wait has its first answer, from the moment that all start. "labels": while labels are
set. "lag": by how much a sleep of 10 ms in the event loop overslept; "start": while all waits start.
The server is kind to the peers: it understands a time filter that PAI's page leaves open, answers "none" with
404, the one "not yet" that a deferred HttpSensor knows, and asks nobody for a signature, which HttpSensor has
not. So a poll for one wait costs them the least there is, while ours reads a full page. Their first polls are
spread over an interval. PAI's quota, 50 ListRuns in 3 seconds, is not enforced here: ours keeps to half."""


def measured(airflow: str, scene: str | None, plan: Plan) -> list[dict[str, Any]]:
    """Return the figures of all races on one Airflow, or of ours in one scene."""
    if scene is not None:
        return [race(airflow, "ours", scene, plan)]
    with ThreadPoolExecutor(1) as beside:
        # Its thousand questions take three minutes at the rate limit, and no more than a few ms of CPU each.
        long = beside.submit(race, airflow, "ours", LONG, plan)
        ours = [race(airflow, "ours", name, plan) for name in SCENES if name != LONG]
        peers = [race(airflow, contestant, name, plan) for contestant, name in PEERS]
        return [*ours, long.result(), *peers]


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--airflow", action="append", metavar="VERSION", help="on this Airflow alone")
    parser.add_argument("--scene", choices=SCENES, help="only ours, in this scene")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures to FILE")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    airflows = options.airflow or AIRFLOWS
    if missing := [airflow for airflow in airflows if not python_of(airflow).exists()]:
        parser.error(f"There is no {python_of(missing[0])}; `make bench` makes it.")
    for variable in [variable for variable in os.environ if variable.lower().endswith("_proxy")]:
        del os.environ[variable]  # what is measured is on this machine

    began = time.monotonic()
    races = [figures for airflow in airflows for figures in measured(airflow, options.scene, plan)]
    machine = report.machine()
    print(head(" ".join(["python -m benchmarks.waiting", *sys.argv[1:]]), machine, races))
    print(
        f"\n{plan.waits:,} deferred waits over {EXPERIMENTS} experiments of one workspace;\n"
        f"{HISTORY:,} runs carry the label already; {plan.labels} more are labelled within {plan.busy:g} s"
    )
    for scene in {figures["scene"]: None for figures in races}:
        print(f"{scene}: {SCENES[scene].meaning}")
    print(f"\n{table(races, plan)}\n\n{NOTES}")
    for remark in remarks(races, plan):
        print(remark)
    print(f"\n{promises(races, plan)}\n\nThe whole took {time.monotonic() - began:.0f} seconds.")
    if options.json:
        options.json.write_text(json.dumps({"plan": plan._asdict(), "races": races}, indent=1) + "\n")


if __name__ == "__main__":
    main()
