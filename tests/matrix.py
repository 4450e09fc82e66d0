"""The tests on every supported Airflow, five at a time, and one table of what came of it: make test-all.

What says the same on every Airflow (the marker `any_airflow`, which tests/conftest.py gives to whole modules)
runs on the newest alone, and once more with the lowest versions that are declared; all else on each.
Large tables run whole on the oldest and the newest (`whole_table`), and on those between them a part of each
in turns. The tests of waits run once more with listings that tell no TotalCount.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

CHECKOUT = Path(__file__).resolve().parent.parent
AT_ONCE = 5  # on two cores, since many tests wait
SECONDS = 1800
"""How long the tests may take on one Airflow."""
LOWEST = "lowest"
WITHOUT_LIBRARIES = [
    f"--ignore=tests/test_{name}.py" for name in ("conformance", "layout", "mutants", "poller", "signing")
]
"""The test modules that say the same with any version of other libraries."""
WAITING = [f"tests/test_{name}.py" for name in ("triggers", "events", "modes", "sensors", "shared_client")]
"""The test modules of waits, which run once more on the newest Airflow, without TotalCount in listings."""
OF_ANY = ("-m", "any_airflow")
OF_AIRFLOW = ("-m", "not any_airflow")
BETWEEN = ("-m", "not any_airflow and not whole_table")
SHOWN = 20_000
"""How much of the end of a log is printed, in characters; pytest tells its failures there."""


@dataclass
class Outcome:
    """What came of the tests in one environment."""

    name: str
    status: int | None
    """What pytest ended with; ``None`` where its time was up."""
    seconds: float
    log: Path
    counts: Counter[str]
    skipped: Counter[str]
    """How many tests were skipped for each reason."""

    @property
    def failed(self) -> int:
        """How many tests failed; one at least where pytest did not end well."""
        return self.counts["failed"] or (0 if self.status == 0 and self.counts["passed"] else 1)


def run(name: str, airflow: str, *choice: str, **environment: str) -> Outcome:
    """Run the tests, or a choice of them, in an Airflow's environment, which is there already."""
    home = CHECKOUT / ".airflow" / name.replace(" ", "-")
    home.mkdir(parents=True, exist_ok=True)
    log, report = home / "tests.log", home / "tests.xml"
    report.unlink(missing_ok=True)
    command = [f".venvs/{airflow}/bin/python", "-m", "pytest", "-q", f"--junitxml={report}", *choice]
    started = time.monotonic()
    with log.open("w") as file:
        try:
            status: int | None = subprocess.run(
                command,
                cwd=CHECKOUT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=SECONDS,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    outcome = Outcome(name, status, time.monotonic() - started, log, *count(report))
    said = f"{outcome.counts['passed']} passed, {outcome.failed} failed"
    print(f"{name}: {said}, {outcome.seconds:.0f} s", flush=True)
    return outcome


def count(report: Path) -> tuple[Counter[str], Counter[str]]:
    """Return how many tests passed, failed and were skipped, and why, as pytest's JUnit report has it."""
    counts: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        ends = {element.tag: element for element in case}
        if "failure" in ends or "error" in ends:
            counts["failed"] += 1
        elif "skipped" in ends:
            counts["skipped"] += 1
            why = ends["skipped"].get("message", "")
            if why == "collection skipped":  # a whole module; its reason is at the end of the text
                why = (ends["skipped"].text or "").rpartition("Skipped: ")[2].rstrip("')")
            skipped[why] += 1
        else:
            counts["passed"] += 1
    return counts, skipped


def table_of(outcomes: list[Outcome]) -> Table:
    """Draw the table: a row for each environment."""
    table = Table(title="The tests on every supported Airflow")
    for heading in ("Airflow", "passed", "failed", "skipped", "seconds"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        numbers = (outcome.counts["passed"], outcome.failed, outcome.counts["skipped"])
        colour = "red" if outcome.failed else "green"
        table.add_row(outcome.name, *map(str, numbers), f"{outcome.seconds:.0f}", style=colour)
    return table


def main() -> None:
    """Run the tests on each Airflow that is named; the status is 0 where all of them passed."""
    airflows = sorted(sys.argv[1:], key=lambda airflow: [int(part) for part in airflow.split(".")])
    oldest, *between, newest = airflows
    # Not several processes for one Airflow: each of them would load it, and make a database.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [  # the longest first
            pool.submit(run, newest, newest, *OF_AIRFLOW),
            pool.submit(run, oldest, oldest, *OF_AIRFLOW),
            *(pool.submit(run, airflow, airflow, *BETWEEN) for airflow in between),
            pool.submit(run, "any Airflow", newest, *OF_ANY),
            pool.submit(run, "lowest versions", LOWEST, *OF_ANY, *WITHOUT_LIBRARIES),
            pool.submit(run, "without TotalCount", newest, *BETWEEN, *WAITING, PAI_TOTAL_COUNT="absent"),
        ]
        outcomes = [future.result() for future in running]
    for outcome in outcomes:
        if outcome.failed:
            print(f"\n==> {outcome.name} ended with {outcome.status}; the whole log is {outcome.log}")
            print(outcome.log.read_text(errors="replace")[-SHOWN:])
    for outcome in outcomes:
        for reason, number in outcome.skipped.items():
            print(f"{outcome.name} skipped {number}: {reason}")
    Console(width=80).print(table_of(outcomes))
    passed, failed = (
        sum(numbers) for numbers in zip(*((o.counts["passed"], o.failed) for o in outcomes), strict=True)
    )
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
