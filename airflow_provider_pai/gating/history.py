"""What a gate keeps for the page "PAI gates": who was judged, and each metric's values step by step.

The verdict says how a gate decided. This is what a person wants to see beside it. No decision depends on it:
its size and its requests to PAI are bounded, and where PAI does not answer the gate keeps less of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from airflow_provider_pai.api.errors import PaiError
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.api.metrics import metric_history
from airflow_provider_pai.api.models import Run, json_number
from airflow_provider_pai.gating.rules import by_step
from airflow_provider_pai.gating.verdict import Histories, Verdict

__all__ = ["HISTORY_KEY", "MOST_BYTES", "MOST_POINTS", "MOST_REQUESTS", "gate_history", "thin"]

HISTORY_KEY = "pai_gate_history"
"""The key in XCom. Each gate pushes it, so that the page finds gates by it."""
MOST_REQUESTS = 20
"""How many requests the histories may cost that no rule needed."""
MOST_SERIES = 40
MOST_POINTS = 200
MOST_BYTES = 64 * 1024
LONGEST_NAME = 200

Point = tuple[int, float]


def gate_history(
    verdict: Verdict, runs: Sequence[Run], histories: Histories, urls: Mapping[str, str]
) -> Flow[dict[str, Any]]:
    """Return ``runs``, each with its name and page, and ``series``, each the points of a metric of a run.

    The judged runs come first, and metrics that failed before others. ``left_out`` counts the series for
    which there was no room, or which PAI was not asked for.

    :param runs: the runs that were judged, and the baselines.
    :param histories: what the rules have read; what is read here is added.
    :param urls: the page of each run in the PAI console, by its id.
    """
    checks = sorted(verdict.checks, key=lambda check: check.passed)
    judged = [*([verdict.run["run_id"]] if verdict.run else []), *(check.run_id for check in checks)]
    shown = dict.fromkeys([*judged, *verdict.baseline_run_ids])
    pairs = dict.fromkeys(
        (run_id, check.metric) for check in checks for run_id in (check.run_id, *verdict.baseline_run_ids)
    )
    with suppress(PaiError):  # what came until then is kept
        yield from _read(list(pairs)[:MOST_SERIES], histories)
    by_id = {run.run_id: run for run in runs}
    named, room = _fitting((_entry(by_id[one], urls) for one in shown if one in by_id), MOST_BYTES - 100)
    series, _ = _fitting((_series(pair, histories) for pair in pairs if histories.get(pair)), room)
    without = sum(histories.get(pair) == [] for pair in pairs)
    return {"runs": named, "series": series, "left_out": len(pairs) - len(series) - without}


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most ``most`` (at least 5) of the points, in their order, so that a chart keeps its shape.

    The first and the last stay. Of each stretch in between stay the lowest, the highest, and one that is not
    a finite number, which would make a rule fail.
    """
    if len(points) <= most:
        return list(points)
    stretches = (most - 2) // (2 if all(math.isfinite(value) for _, value in points) else 3)
    kept = {0, len(points) - 1}
    for number in range(stretches):
        stretch = range(number * len(points) // stretches, (number + 1) * len(points) // stretches)
        finite = [place for place in stretch if math.isfinite(points[place][1])]
        kept |= {pick(finite, key=lambda place: points[place][1]) for pick in (min, max) if finite}
        kept |= set([place for place in stretch if not math.isfinite(points[place][1])][:1])
    return [points[place] for place in sorted(kept)]


def _read(pairs: Iterable[tuple[str, str]], histories: Histories) -> Flow[None]:
    """Read what ``histories`` lacks, with at most :data:`MOST_REQUESTS`, and none a second time."""

    def all_of_them() -> Flow[None]:
        for run_id, metric in pairs:
            if (run_id, metric) not in histories:
                histories[run_id, metric] = yield from metric_history(run_id, metric)

    reading = all_of_them()
    request = next(reading, None)
    for _ in range(MOST_REQUESTS):
        if request is None or request.wait:  # it would wait for another attempt
            return
        outcome = yield request
        try:
            request = reading.send(outcome)
        except StopIteration:
            return


def _entry(run: Run, urls: Mapping[str, str]) -> dict[str, Any]:
    name = run.name[:LONGEST_NAME] if run.name else None
    return {"run_id": run.run_id, "name": name, "url": urls.get(run.run_id)}


def _series(pair: tuple[str, str], histories: Histories) -> dict[str, Any]:
    run_id, metric = pair
    steps = by_step(histories[pair], metric)
    # Lists, since Airflow 3 makes more of a tuple than JSON does.
    points = [[step, json_number(value)] for step, value in thin(list(steps.items()))]
    return {"run_id": run_id, "metric": metric, "steps": len(steps), "points": points}


def _fitting(entries: Iterable[dict[str, Any]], room: int) -> tuple[list[dict[str, Any]], int]:
    """Return those of the entries that fit into so many bytes of JSON, and how many are left."""
    fitting = []
    for entry in entries:
        size = len(json.dumps(entry)) + 2
        if size <= room:
            fitting.append(entry)
            room -= size
    return fitting, room
