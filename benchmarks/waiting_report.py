"""Turn the figures of the waits into one table, and hold them against what this project promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

from tabulate import tabulate

from benchmarks import report
from benchmarks.waiting_race import Plan

MB = 1024 * 1024
MOST_LAG_MS = 50
CPU_SHARE = 50
MOST_RESTART_REQUESTS = 60

Figures = dict[str, Any]


def machine() -> Figures:
    """Return what the figures were measured with."""
    about = report.machine()
    about["packages"]["apache-airflow-providers-http"] = version("apache-airflow-providers-http")
    return about


def percentile(numbers: Iterable[float], share: float) -> float:
    """Return the number that a share of them does not pass; NaN of none."""
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def per_interval(phase: Figures, figure: str, plan: Plan) -> float:
    """Return a figure of a phase for one interval."""
    amount: float = phase[figure]
    return amount * plan.interval / phase["seconds"]


def quiet_requests(figures: Figures, plan: Plan) -> float:
    """Return the requests an interval while nothing is new, over both such phases."""
    amount = figures["quiet"]["requests"] + figures["probed"]["requests"]
    seconds: float = figures["quiet"]["seconds"] + figures["probed"]["seconds"]
    return amount * plan.interval / seconds


def busy_cpu(figures: Figures, plan: Plan) -> float:
    """Return the CPU seconds an interval takes while labels are set, less those of the probe alone."""
    return per_interval(figures["busy"], "cpu", plan) - per_interval(figures["idle"], "cpu", plan)


def poll_cpu(figures: Figures, plan: Plan) -> float:
    """Return the CPU seconds that asking once for every wait takes, whether or not the interval was kept."""
    share = max(figures["quiet"]["requests"], 1) / _requests_for_all(figures, plan)
    return float(figures["quiet"]["cpu"]) / share


def own_interval(figures: Figures, plan: Plan) -> float:
    """Return the seconds from one poll to the next, of each wait or of all that share one."""
    return _requests_for_all(figures, plan) * plan.interval / max(quiet_requests(figures, plan), 1e-9)


def _requests_for_all(figures: Figures, plan: Plan) -> int:
    return 1 if figures["contestant"] == "ours" else plan.waits


def _lag(phase: str, share: float) -> Callable[[Figures, Plan], float]:
    return lambda figures, _: 1000 * percentile(figures[phase]["lags"], share)


def _delay(share: float) -> Callable[[Figures, Plan], float]:
    return lambda figures, _: percentile(figures["busy"]["delays"], share)


ROWS: dict[str, tuple[str, Callable[[Figures, Plan], float]]] = {
    "requests an interval, nothing new": (",.1f", quiet_requests),
    "requests an interval, labels being set": (",.1f", lambda f, p: per_interval(f["busy"], "requests", p)),
    "seconds between two polls of a wait": (".2f", own_interval),
    "CPU ms an interval, nothing new": (",.1f", lambda f, p: 1000 * per_interval(f["quiet"], "cpu", p)),
    "CPU ms for one poll of every wait": (",.1f", lambda f, p: 1000 * poll_cpu(f, p)),
    "CPU ms an interval, labels being set": (",.1f", lambda f, p: 1000 * busy_cpu(f, p)),
    "loop lag ms p50, before any wait": (".2f", _lag("idle", 0.5)),
    "loop lag ms p99, before any wait": (".1f", _lag("idle", 0.99)),
    "loop lag ms p50, nothing new": (".2f", _lag("probed", 0.5)),
    "loop lag ms p99, nothing new": (",.1f", _lag("probed", 0.99)),
    "loop lag ms p50, labels being set": (".2f", _lag("busy", 0.5)),
    "loop lag ms p99, labels being set": (",.1f", _lag("busy", 0.99)),
    "loop lag ms longest, labels being set": (",.1f", _lag("busy", 1.0)),
    "label to event s p50": (".2f", _delay(0.5)),
    "label to event s p99": (".2f", _delay(0.99)),
    "waits ended by a label": (",.0f", lambda f, _: len(f["busy"]["delays"])),
    "of so many that it should end": (",.0f", lambda f, _: f["busy"]["expected"]),
    "resident memory MB": (",.0f", lambda f, _: f["busy"]["rss"] / MB),
    "of it because of the waits": (",.1f", lambda f, _: (f["busy"]["rss"] - f["idle"]["rss"]) / MB),
    "requests until all are watched": (",.0f", lambda f, _: f["start"]["requests"]),
    "seconds until all are watched": (".1f", lambda f, _: f["start"]["seconds"]),
}
RATIOS = ("requests", "CPU")


def table(all_figures: list[Figures], plan: Plan) -> str:
    """Return all figures, a column for each contestant, then the peers' over ours, which is the first."""
    first = all_figures[0]
    peers = [figures for figures in all_figures if figures["contestant"] != "ours"]
    headers = ["", *(column(figures) for figures in all_figures)]
    headers += [f"{figures['contestant']} / ours" for figures in peers]
    rows = []
    for what, (form, figure) in ROWS.items():
        row = [what, *(f"{figure(figures, plan):{form}}" for figures in all_figures)]
        if what.startswith(RATIOS):
            row += [f"{_ratio(figure(figures, plan), figure(first, plan))}" for figures in peers]
        rows.append(row)
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1)))


def column(figures: Figures) -> str:
    """Return the head of a contestant's column."""
    return f"ours, {figures['scene']}" if figures["contestant"] == "ours" else str(figures["contestant"])


def _ratio(theirs: float, ours: float) -> str:
    return f"{theirs / ours:,.0f}" if ours > 0 else "-"


def targets(all_figures: list[Figures], plan: Plan) -> str:
    """Return what was aimed at, beside what was reached."""
    ours = [figures for figures in all_figures if figures["contestant"] == "ours"]
    peers = [figures for figures in all_figures if figures["contestant"] != "ours"]
    rows = []
    for figures in ours:
        name = column(figures)
        requests = quiet_requests(figures, plan)
        rows.append(_row(f"{name}: requests an interval, nothing new", 1, round(requests, 1)))
        for phase, when in (("probed", "nothing new"), ("busy", "labels being set")):
            lag = 1000 * percentile(figures[phase]["lags"], 0.99)
            rows.append(_row(f"{name}: loop lag p99 ms, {when}", MOST_LAG_MS, lag))
        rows.append(_row(f"{name}: label to event p99 s", plan.interval + 1, _delay(0.99)(figures, plan)))
        lost = figures["busy"]["expected"] - len(figures["busy"]["delays"])
        rows.append(
            _row(f"{name}: labels that ended no wait, or a wrong one", 0, lost + figures["busy"]["wrong"])
        )
        start = figures["start"]["requests"] if figures["start"]["settled"] else float("inf")
        rows.append(_row(f"{name}: requests after a restart", MOST_RESTART_REQUESTS, start))
    for figures in peers:
        for when, cpu in (("nothing new", _quiet_cpu), ("labels being set", busy_cpu)):
            share = CPU_SHARE * cpu(ours[0], plan) / cpu(figures, plan)
            rows.append(_row(f"CPU, {when}: {CPU_SHARE} times ours / {figures['contestant']}", 1, share))
    return tabulate(
        rows, ("target", "at most", "measured", ""), disable_numparse=True, colalign=("left", *["right"] * 3)
    )


def _quiet_cpu(figures: Figures, plan: Plan) -> float:
    return per_interval(figures["quiet"], "cpu", plan)


def _row(what: str, wanted: float, measured: float) -> tuple[str, ...]:
    return what, f"{wanted:g}", f"{measured:.3g}", "reached" if measured <= wanted else "missed"


def remarks(all_figures: list[Figures], plan: Plan) -> list[str]:
    """Return what a reader of the table has to know of this run."""
    said = []
    for figures in all_figures:
        took = own_interval(figures, plan)
        if figures["contestant"] != "ours" and took > 1.1 * plan.interval:
            said.append(
                f"{figures['contestant']} could not keep the interval: each wait was polled every {took:.1f} "
                f"seconds instead of every {plan.interval:g}, so its requests and CPU would be more."
            )
        if figures["busy"]["broken"]:
            said.append(
                f"{column(figures)}: {len(figures['busy']['broken'])} triggers broke, the first with "
                f"{figures['busy']['broken'][0]}."
            )
        if not figures["start"]["settled"]:
            said.append(
                f"{column(figures)}: was still reading after {figures['start']['seconds']:.0f} seconds."
            )
    return said
