"""Turn raw figures into tables, and hold them against what this project promises."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from statistics import median
from typing import Any

from tabulate import tabulate

from benchmarks import imports, memory, throughput
from benchmarks.server import PAGE_SIZE

PACKAGES = (
    "apache-airflow",
    "aiohttp",
    "requests",
    "msgspec",
    "alibabacloud-aiworkspace20210204",
    "alibabacloud-tea-openapi",
)
FLOOR, DICTS, RIVAL = "bare loop", "bare loop, dicts", "SDK sync"
MB = 1024 * 1024

Figures = dict[str, Any]


def machine() -> Figures:
    """Return what the figures were measured with."""
    return {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
    }


def ratios(race: Figures, one: str, other: str, figure: str = "seconds") -> list[float]:
    """Return one contestant's time over another's, round by round: neighbours in time share their noise."""
    return [a[figure] / b[figure] for a, b in zip(race[one][1:], race[other][1:], strict=True)]


def spread(numbers: Iterable[float], form: str = ".2f") -> str:
    """Return the median, and the least and the greatest."""
    numbers = list(numbers)
    return f"{median(numbers):{form}} ({min(numbers):{form}} … {max(numbers):{form}})"


def throughput_table(race: Figures) -> str:
    """Return the race, a row for each contestant."""
    pages = throughput.RUNS // PAGE_SIZE
    rows = [
        (
            name,
            spread(1000 * figures["seconds"] / pages for figures in rounds[1:]),
            f"{median(1000 * figures['cpu_seconds'] / pages for figures in rounds[1:]):.2f}",
            spread(ratios(race, RIVAL, name)),
            spread(ratios(race, name, FLOOR)),
            f"{sum(figures['connections'] for figures in rounds):,.0f}",
        )
        for name, rounds in race.items()
    ]
    requests = sum(figures["requests"] for figures in race[FLOOR])
    return _table(
        rows,
        "client",
        "ms a page",
        "CPU ms",
        f"throughput / {RIVAL}",
        f"time / {FLOOR}",
        f"connections for {requests:,.0f} requests",
    )


def server_line(race: Figures) -> str:
    """Say what the server itself took, as proof that it was not what the contestants waited for.

    And why aiohttp may need a second connection: the rounds of one contestant lie far apart.
    """
    pages = throughput.RUNS // PAGE_SIZE
    kept = median(1000 * figures["server_cpu_seconds"] / pages for figures in race[FLOOR])
    return (
        f"Of each page the server took {kept:.2f} ms of CPU, in a process of its own. aiohttp gives up a "
        "connection after 15 idle seconds, which can lie between two rounds."
    )


def import_table(figures: Figures) -> str:
    """Return the imports, a row for each."""
    nothing = median(run["rss"] for run in figures[imports.NOTHING])
    rows = []
    for name, runs in figures.items():
        if name == imports.NOTHING:
            continue
        held = 0 if name == imports.PROVIDER else nothing
        rows.append(
            (
                name,
                spread((1000 * run["seconds"] for run in runs), ".0f"),
                f"{median(1000 * run['cpu_seconds'] for run in runs):.0f}",
                spread(((run["rss"] - held) / MB for run in runs), ".1f"),
                len(runs),
            )
        )
    return _table(rows, "import", "ms", "CPU ms", "MB", "interpreters")


def import_line(figures: Figures) -> str:
    """Say what stands beside the provider's import."""
    runs = figures[imports.PROVIDER]
    share = median(100 * run["seconds"] / run["airflow_seconds"] for run in runs)
    return (
        f"Airflow's own import took {spread((1000 * run['airflow_seconds'] for run in runs), '.0f')} ms; "
        f"ours is {share:.1f} % of it, and loads {', '.join(runs[-1]['modules'])}."
    )


def memory_table(figures: Figures) -> str:
    """Return what the long listing added."""
    return _table(
        [(name, f"{added['bytes'] / MB:.1f}") for name, added in figures.items()],
        f"listing {memory.RUNS:,} runs by client.iter, seen by",
        "MB added at the peak",
    )


def target_table(figures: Figures) -> str:
    """Return what was aimed at, beside what was reached."""
    stream, keep = figures["throughput"]["stream"], figures["throughput"]["keep"]
    import_ms = median(1000 * run["seconds"] for run in figures["imports"][imports.PROVIDER])
    added = figures["memory"]["rss"]["bytes"] / MB
    rows = [
        _at_least(f"streaming, throughput of ours sync / {RIVAL}", 4.5, _ratio(stream, RIVAL, "ours sync")),
        _at_least(f"streaming, throughput of ours async / {RIVAL}", 5.5, _ratio(stream, RIVAL, "ours async")),
        _at_most(f"streaming, time of ours async / {FLOOR}", 1.3, _ratio(stream, "ours async", FLOOR)),
        _at_least(f"keeping, throughput of ours sync / {RIVAL}", 4.0, _ratio(keep, RIVAL, "ours sync")),
        _at_least(f"keeping, throughput of ours async / {RIVAL}", 4.0, _ratio(keep, RIVAL, "ours async")),
        _at_most(f"keeping, time of ours sync / {DICTS}", 1.0, _ratio(keep, "ours sync", DICTS)),
        _at_most(f"keeping, time of ours async / {DICTS}", 1.0, _ratio(keep, "ours async", DICTS)),
        _at_most("operators and sensors add to Airflow's import, ms", 30, import_ms),
        _at_most(f"listing {memory.RUNS:,} runs by iter adds, MB", 30, added),
    ]
    return _table(rows, "target", "wanted", "measured", "")


def _ratio(race: Figures, one: str, other: str) -> float:
    return median(ratios(race, one, other))


def _at_least(what: str, wanted: float, measured: float) -> tuple[str, ...]:
    return _row(what, "≥", wanted, measured, measured >= wanted)


def _at_most(what: str, wanted: float, measured: float) -> tuple[str, ...]:
    return _row(what, "≤", wanted, measured, measured <= wanted)


def _row(what: str, sign: str, wanted: float, measured: float, reached: bool) -> tuple[str, ...]:
    return what, f"{sign} {wanted:g}", f"{measured:.3g}", "reached" if reached else "missed"


def _table(rows: list[tuple[Any, ...]], *headers: str) -> str:
    align = ("left", *("right" for _ in headers[1:]))
    return tabulate(rows, headers, disable_numparse=True, colalign=align)


def head(command: str, about: Figures) -> str:
    """Return what the figures were measured with, as text."""
    packages = ", ".join(f"{name} {number}" for name, number in about["packages"].items())
    return f"$ {command}\nPython {about['python']}, {about['system']}, {about['cpus']} CPUs\n{packages}"
