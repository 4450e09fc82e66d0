"""Turn the figures of the waits into a table, and hold them against what this project promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tabulate import tabulate

from benchmarks.waiting_race import Plan

MB = 1024 * 1024
MOST_LAG_MS = 50
MOST_PAGES_READ = 23.0
"""20 pages hold what the windows hold, one more shows where they begin, and two polls may fall between."""

Figures = dict[str, Any]
Figure = Callable[[Figures, Plan], float]


def percentile(numbers: Iterable[float], share: float) -> float:
    """Return the number that a share of them does not pass; NaN of none."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def requests(phase: str) -> Figure:
    """Return the requests an interval in a phase."""
    return lambda figures, _: figures[phase]["requests"] * figures["interval"] / figures[phase]["seconds"]


def poll_cpu(figures: Figures, plan: Plan) -> float:
    """Return the CPU ms that asking once for every wait takes, whether or not the interval was kept."""
    quiet = figures["quiet"]
    if figures["contestant"] == "ours":
        polls = quiet["seconds"] / figures["interval"]
    else:
        polls = max(quiet["requests"], 1) / plan.waits
    return float(1000 * quiet["cpu"] / polls)


def own_interval(figures: Figures, plan: Plan) -> float:
    """Return the seconds from one poll to the next of a wait that polls for itself."""
    quiet = figures["quiet"]
    return float(plan.waits * quiet["seconds"] / max(quiet["requests"], 1))


def lag(phase: str, share: float) -> Figure:
    """Return by how many ms a short sleep in the event loop overslept in a phase."""
    return lambda figures, _: 1000 * percentile(figures[phase]["lags"], share)


def delay(share: float) -> Figure:
    """Return the seconds from a label to the event that ends its waits."""
    return lambda figures, _: percentile(figures["label"]["delays"], share)


def astray(figures: Figures, _: Plan) -> float:
    """Return how many waits a label should have ended and did not, or ended although it should not."""
    label = figures["label"]
    return float(label["expected"] - len(label["delays"]) + label["wrong"])


COLUMNS: dict[str, tuple[str, str, Figure]] = {
    # head: (format, phase that it needs, figure)
    "inter-\nval s": ("g", "quiet", lambda f, _: float(f["interval"])),
    "requests an\ninterval,\nno labels": (",.1f", "quiet", requests("quiet")),
    "\n\nlabels": (",.1f", "busy", requests("busy")),
    "CPU ms,\npoll\nof all": (",.1f", "quiet", poll_cpu),
    "lag ms\np99, no\nwaits": (",.1f", "idle", lag("idle", 0.99)),
    "\np99,\nlabels": (",.1f", "busy", lag("busy", 0.99)),
    "\nlongest,\nlabels": (",.0f", "busy", lag("busy", 1.0)),
    "\nlongest,\nstart": (",.0f", "start", lag("start", 1.0)),
    "label to\nevent\ns p50": (".2f", "label", delay(0.5)),
    "\n\np99": (".2f", "label", delay(0.99)),
    "restart:\nre-\nquests": (",.0f", "start", lambda f, _: f["start"]["requests"]),
    "\nsec-\nonds": (",.1f", "start", lambda f, _: f["start"]["seconds"]),
    "MB": (",.0f", "quiet", lambda f, _: f["quiet"]["rss"] / MB),
    "\nof the\nwaits": (",.1f", "quiet", lambda f, _: (f["quiet"]["rss"] - f["idle"]["rss"]) / MB),
}


def table(all_figures: list[Figures], plan: Plan) -> str:
    """Return all figures, a row for each race."""
    rows = []
    for figures in all_figures:
        cells = [
            f"{figure(figures, plan):{form}}" if phase in figures else ""
            for form, phase, figure in COLUMNS.values()
        ]
        rows.append([f"{figures['airflow']} {name(figures)}", *cells])
    align = ("left", *["right"] * len(COLUMNS))
    return tabulate(rows, ("Airflow, who\nand what", *COLUMNS), disable_numparse=True, colalign=align)


def name(figures: Figures) -> str:
    """Return the name of a race."""
    return f"ours, {figures['scene']}" if figures["contestant"] == "ours" else str(figures["contestant"])


def promises(all_figures: list[Figures], plan: Plan) -> str:
    """Return what is promised beside what was measured, a column for each Airflow."""
    airflows = list(dict.fromkeys(figures["airflow"] for figures in all_figures))
    rows: dict[str, list[str]] = {}
    for airflow in airflows:
        of_airflow = [figures for figures in all_figures if figures["airflow"] == airflow]
        for what, most, measured in _promises(of_airflow, plan):
            row = rows.setdefault(what, [what, "", *[""] * len(airflows)])
            verdict = "reached" if measured <= most else "MISSED"
            row[1] = f"{most:,.4g}"
            row[2 + airflows.index(airflow)] = f"{measured:,.4g}" + f" {verdict}"
    align = ("left", *["right"] * (1 + len(airflows)))
    return tabulate(rows.values(), ("promise", "at most", *airflows), disable_numparse=True, colalign=align)


def _promises(races: list[Figures], plan: Plan) -> Iterator[tuple[str, float, float]]:
    """Yield what is promised of the races on one Airflow: what, at most how much, and what was measured."""
    ours = [figures for figures in races if figures["contestant"] == "ours"]
    for figures in ours:
        scene, interval, started = name(figures), figures["interval"], figures["start"]
        announced = figures["scene"] != "uncounted"
        if announced:  # and otherwise the pages of the windows, which is stated and not promised
            yield f"{scene}: requests an interval, no labels", 1, round(requests("quiet")(figures, plan), 1)
        if "label" in figures:
            late = f"{scene}: label to event p99, s (interval {interval:g} s)"
            yield late, interval + 1 if announced else 2 * interval, delay(0.99)(figures, plan)
            yield f"{scene}: waits not ended by their label, or wrongly", 0, astray(figures, plan)
            yield f"{scene}: loop lag p99 ms, labels set", MOST_LAG_MS, lag("busy", 0.99)(figures, plan)
        most = {
            "recent": 2.0,
            "ever": plan.waits + started["seconds"] // interval + 2,  # a question each, and the polls
        }.get(figures["scene"], MOST_PAGES_READ)
        yield f"{scene}: requests after a restart", most, started["requests"]
    cheap = next((figures for figures in ours if figures["scene"] == "recent"), None)
    for figures in races:
        if cheap is not None and figures["contestant"] != "ours":
            ratio = poll_cpu(cheap, plan) / poll_cpu(figures, plan)
            yield f"CPU for a poll of all: ours / {figures['contestant']}", 10 / plan.waits, ratio


def remarks(all_figures: list[Figures], plan: Plan) -> Iterator[str]:
    """Yield what a reader of the table has to know of this run."""
    for figures in all_figures:
        who = f"Airflow {figures['airflow']}, {name(figures)}"
        took = own_interval(figures, plan)
        if figures["contestant"] != "ours" and took > 1.1 * figures["interval"]:
            yield (
                f"{who}: could not keep the interval; each wait was polled every {took:.1f} seconds, so its "
                "requests an interval would be more."
            )
        broken = figures["quiet"]["broken"] + figures.get("busy", {}).get("broken", [])
        if broken:
            yield f"{who}: waits broke, the first with {broken[0]}."


def head(command: str, machine: Figures, all_figures: list[Figures]) -> str:
    """Return what the figures were measured with."""
    lines = [f"$ {command}", f"Python {machine['python']}, {machine['system']}, {machine['cpus']} CPUs"]
    for packages in {figures["airflow"]: figures["packages"] for figures in all_figures}.values():
        lines.append(", ".join(f"{package} {number}" for package, number in packages.items()))
    return "\n".join(lines)
