"""The tests on every supported Airflow, five at a time, and one table of what came of it: make test-all.

What says the same on every Airflow (the marker `any_airflow`, which tests/conftest.py gives to whole modules)
runs on the oldest and the newest alone, with the oldest and the newest of all libraries; all else on each.
The tests of what uses other libraries most run once more with the lowest versions that pyproject.toml
declares.
"""

from __future__ import annotations

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
SECONDS = 1200
"""How long the tests may take on one Airflow."""
LOWEST = "lowest"
USING_LIBRARIES = (
    *("client", "connection", "flow", "models", "operations", "paging", "sources", "tls"),
    *("query", "verdict"),
)
"""The test modules that run with the lowest versions: all else says the same with any."""
SHOWN = 20_000
"""How much of the end of a log is printed, in characters; pytest tells its failures there."""


@dataclass
class Outcome:
    """What came of the tests on one Airflow."""

    airflow: str
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


def run(airflow: str, *choice: str) -> Outcome:
    """Run the tests, or a choice of them, on one Airflow, whose environment is there already."""
    home = CHECKOUT / ".airflow" / airflow
    home.mkdir(parents=True, exist_ok=True)
    log, report = home / "tests.log", home / "tests.xml"
    report.unlink(missing_ok=True)
    command = [f".venvs/{airflow}/bin/python", "-m", "pytest", "-q", f"--junitxml={report}", *choice]
    started = time.monotonic()
    with log.open("w") as file:
        try:
            status: int | None = subprocess.run(
                command, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    outcome = Outcome(airflow, status, time.monotonic() - started, log, *count(report))
    said = f"{outcome.counts['passed']} passed, {outcome.failed} failed"
    print(f"{title(airflow)}: {said}, {outcome.seconds:.0f} s", flush=True)
    return outcome


def title(airflow: str) -> str:
    """Return what a line of output calls an environment."""
    return "Lowest versions" if airflow == LOWEST else f"Airflow {airflow}"


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
    """Draw the table: a row for each Airflow."""
    table = Table(title="The tests on every supported Airflow")
    for heading in ("Airflow", "passed", "failed", "skipped", "seconds"):
        table.add_column(heading, justify="right")
    for outcome in outcomes:
        numbers = (outcome.counts["passed"], outcome.failed, outcome.counts["skipped"])
        colour = "red" if outcome.failed else "green"
        table.add_row(outcome.airflow, *map(str, numbers), f"{outcome.seconds:.0f}", style=colour)
    return table


def main() -> None:
    """Run the tests on each Airflow that is named; the status is 0 where all of them passed."""
    airflows = sorted(sys.argv[1:], key=lambda airflow: [int(part) for part in airflow.split(".")])
    whole = {airflows[0], airflows[-1]}
    # Not several processes for one Airflow: each of them would load it, and make a database.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {  # the longest first
            airflow: pool.submit(run, airflow, *([] if airflow in whole else ["-m", "not any_airflow"]))
            for airflow in sorted(airflows, key=whole.__contains__, reverse=True)
        }
        lowest = pool.submit(run, LOWEST, *(f"tests/test_{name}.py" for name in USING_LIBRARIES))
        outcomes = [lowest.result(), *(running[airflow].result() for airflow in airflows)]
    for outcome in outcomes:
        if outcome.failed:
            print(
                f"\n==> {title(outcome.airflow)} ended with {outcome.status}; the whole log is {outcome.log}"
            )
            print(outcome.log.read_text(errors="replace")[-SHOWN:])
    for outcome in outcomes:
        for reason, number in outcome.skipped.items():
            print(f"{title(outcome.airflow)} skipped {number}: {reason}")
    for airflow in airflows:
        if airflow not in whole:
            print(f"Airflow {airflow} ran without what says the same on every Airflow")
    Console(width=80).print(table_of(outcomes))
    passed, failed = (
        sum(numbers) for numbers in zip(*((o.counts["passed"], o.failed) for o in outcomes), strict=True)
    )
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
