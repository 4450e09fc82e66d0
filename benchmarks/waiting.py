"""Let a thousand deferred sensors wait: ``python -m benchmarks.waiting [--quick] [--waits N] [--json FILE]``.

Each contestant has a fresh process with one event loop, in which Airflow's own TriggerRunner runs the
triggers, all against one local server: ours, one HttpSensor each, and one trigger each around the official
SDK's coroutines. Trust the ratios. The command succeeds whatever the figures are. Needs Airflow 3.3.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.waiting_race import Plan, races
from benchmarks.waiting_report import machine, remarks, table, targets
from benchmarks.waiting_scene import EXPERIMENTS, HISTORY, SCENES

CONTESTANTS = (("ours", "recent"), ("ours", "day"), ("HttpSensor", "recent"), ("SDK async", "recent"))
NOTES = """\
The server is kind to the peers: it understands a time filter that PAI's page leaves open, answers "none" with
404, the one "not yet" that a deferred HttpSensor knows, and asks nobody for a signature, which HttpSensor has
not. So a poll for one wait costs them the least there is, while ours reads a full page. Their first polls are
spread over an interval. PAI's quota, 50 ListRuns in 3 seconds, is not enforced here.
A stall of the loop is one sample of its lag, however long: p99 may miss what "longest" shows.
CPU with labels being set is less what the probe of the loop takes by itself.
"Until all are watched" is what a triggerer's restart costs: every trigger is made from what serialize() gave,
ours all at once."""


def plan_of(options: argparse.Namespace) -> Plan:
    """Return how much to measure."""
    if options.quick:
        return Plan(options.waits or 200, 2.0, quiet=2, probed=1, busy=3, labels=20)
    return Plan(options.waits or 1000, options.interval)


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waiting", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a look, not a measurement")
    parser.add_argument("--waits", type=int, metavar="N", help="how many sensors wait (1000)")
    parser.add_argument(
        "--interval", type=float, metavar="SECONDS", default=5.0, help="their poke_interval (5)"
    )
    parser.add_argument("--scene", choices=SCENES, help="only ours, in this scene")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures to FILE")
    options = parser.parse_args()
    plan = plan_of(options)
    contestants = CONTESTANTS if options.scene is None else (("ours", options.scene),)

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]  # what is measured is on this machine

    figures: dict[str, Any] = {"machine": machine(), "plan": plan._asdict(), "contestants": []}
    print(report.head(" ".join(["python -m benchmarks.waiting", *sys.argv[1:]]), figures["machine"]))
    print(
        f"\n{plan.waits:,} deferred waits over {min(EXPERIMENTS, plan.waits)} experiments of one workspace;\n"
        f"{HISTORY:,} runs carry the label already; poke_interval is {plan.interval:g} s;\n"
        f"{plan.labels} labels set from outside within {plan.busy} intervals"
    )
    for scene in {scene: None for _, scene in contestants}:
        print(f"{scene}: {SCENES[scene].meaning}")
    began = time.monotonic()
    figures["contestants"] += races(contestants, plan)
    print(f"\n{table(figures['contestants'], plan)}\n\n{NOTES}")
    for remark in remarks(figures["contestants"], plan):
        print(remark)
    print(
        f"\n{targets(figures['contestants'], plan)}\n\nThe whole took {time.monotonic() - began:.0f} seconds."
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
