"""Flows for the values of a run's metrics: log them, and read their history.

Source: the vendor's API pages of AIWorkSpace 2021-02-04. Each flow names its page.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import msgspec

from airflow_provider_pai.api.errors import PaiNotFoundError, PaiUsageError
from airflow_provider_pai.api.flow import Acknowledgement, Flow, Request, call
from airflow_provider_pai.api.models import Metric, MetricPage
from airflow_provider_pai.api.operations import get_run
from airflow_provider_pai.api.paging import PAGE_SIZE, Paginator
from airflow_provider_pai.api.parameters import finite, path, required, whole_number, write

__all__ = [
    "MetricEntry",
    "list_run_metrics",
    "log_metric_entries",
    "log_run_metrics",
    "metric_entry",
    "metric_history",
]

MOST_NAMED = 20
"""How many of a run's metrics an error names."""


def log_run_metrics(
    run_id: str, metrics: Mapping[str, float], *, step: int | None = None, timestamp: int | None = None
) -> Flow[None]:
    """Log one value for each metric, all at one ``step`` (LogRunMetrics).

    :raises PaiUsageError: a value that is not a finite number, which JSON cannot carry.
    """
    if not metrics:
        raise PaiUsageError("log_run_metrics was given no metrics; give a dict such as {'accuracy': 0.93}.")
    yield from log_metric_entries(
        run_id, [metric_entry(key, value, step, timestamp) for key, value in metrics.items()]
    )


def log_metric_entries(run_id: str, entries: Sequence[MetricEntry]) -> Flow[None]:
    """Log values of any metrics and steps in one request (LogRunMetrics)."""
    target = f"{path('runs', run_id)}/metrics/action/log"
    yield from call(write("POST", "LogRunMetrics", target, {"Metrics": entries}), Acknowledgement)


class MetricEntry(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal", gc=False):
    """One value as LogRunMetrics takes it. It checks nothing: :func:`metric_entry` does."""

    key: str
    value: float
    step: int | None = None
    timestamp: int | None = None


def metric_entry(
    key: str, value: float, step: int | None = None, timestamp: int | None = None
) -> MetricEntry:
    """Return one value as LogRunMetrics takes it.

    :raises PaiUsageError: a value that is not a finite number, or a step that is no whole number.
    """
    for name, number in (("step", step), ("timestamp", timestamp)):
        if number is not None:
            whole_number(name, number, least=0)
    return MetricEntry(required("metric", key), finite(key, value), step, timestamp)


def list_run_metrics(
    run_id: str, key: str | None = None, *, page_size: int = PAGE_SIZE
) -> Flow[list[Metric]]:
    """Return every logged value of one metric, or of all, each in PAI's order (ListRunMetrics).

    PAI wants a key: without one, the run is asked for its keys (GetRun), and each is read. A run that has no
    metrics yet has an empty list.

    :raises PaiNotFoundError: the run has metrics, but none of this key. The text names those that it has, the
        nearest first.
    """
    if key is not None:
        found = yield from metric_history(run_id, key, page_size=page_size)
        if found:
            return found
    else:
        whole_number("page_size", page_size)
    run = yield from get_run(run_id)
    keys = list(dict.fromkeys(metric.key for metric in run.metrics))
    if key is None:
        histories = []
        for each in keys:
            histories += yield from metric_history(run_id, each, page_size=page_size)
        return histories
    if not keys:
        return []
    if key in keys:  # its first value was logged between the two requests
        return (yield from metric_history(run_id, key, page_size=page_size))
    raise PaiNotFoundError(
        f"the run {run_id!r} has no metric {key!r}; it has {_named(keys, key)}",
        action="ListRunMetrics",
        status=200,
        code="MetricNotFound",
        request_id=None,
    )


def _named(keys: Sequence[str], wanted: str) -> str:
    """Return keys in words, those first that look like the wanted one."""

    def likeness(key: str) -> float:
        return difflib.SequenceMatcher(None, wanted.lower(), key.lower()).ratio()

    shown = sorted(keys, key=likeness, reverse=True)
    more = f" and {len(shown) - MOST_NAMED} more" if len(shown) > MOST_NAMED else ""
    return ", ".join(map(repr, shown[:MOST_NAMED])) + more


def metric_history(run_id: str, key: str, *, page_size: int = PAGE_SIZE) -> Flow[list[Metric]]:
    """Return every logged value of one metric, in PAI's order; none where there is no such metric.

    A value that was logged twice is there twice. Only where a page begins with the very values with which
    the one before it ended, each with a step or a timestamp, they are taken for the same: values that are
    logged meanwhile may move others onto the next page.
    """
    parameters = {"Key": required("key", key), "MaxResults": whole_number("page_size", page_size)}
    listing = Paginator[Metric](
        Request(action="ListRunMetrics", path=f"{path('runs', run_id)}/metrics", query=parameters),
        MetricPage,
        identity=None,
        created=lambda _: None,
        direction=0,
        wanted=lambda metric: metric.key == key,
    )
    values: list[Metric] = []
    while not listing.done:
        page = yield from listing.next_page()
        values += page[_repeated(values, page) :]
    return values


def _repeated(before: list[Metric], page: list[Metric]) -> int:
    """Return how many values at the start of a page are those at the end of what came before."""
    named = [(metric.step, metric.timestamp, str(metric.value)) for metric in page]
    ended = [(metric.step, metric.timestamp, str(metric.value)) for metric in before[-len(page) :]]
    most = next((place for place, one in enumerate(named) if one[:2] == (None, None)), len(named))
    return next((n for n in range(min(most, len(ended)), 0, -1) if ended[-n:] == named[:n]), 0)
