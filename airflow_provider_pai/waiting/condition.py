"""What ends a wait: enough runs that match a query and meet rules. Plain data; imports no Airflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from airflow_provider_pai._xcom import small_enough
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.api.parameters import whole_number
from airflow_provider_pai.api.query import RunQuery
from airflow_provider_pai.gating.rules import MetricRule, MetricRules, parse_rules, wait_rules

__all__ = ["RunCondition", "check_narrow", "interval_seconds"]


class RunCondition(msgspec.Struct, frozen=True, kw_only=True):
    """Wait until ``min_runs`` runs match ``query``; hand on the first ``max_runs`` of them.

    With ``metrics`` only those runs count whose last values meet these rules.

    :raises PaiUsageError: bounds that no listing can meet, or rules that a wait cannot decide.
    """

    query: RunQuery
    min_runs: int = 1
    max_runs: int = 100
    metrics: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.min_runs < 1:
            raise PaiUsageError(
                f"min_runs={self.min_runs} would be met without any run; wait for at least 1."
            )
        if self.max_runs < self.min_runs:
            raise PaiUsageError(
                f"max_runs={self.max_runs} is less than min_runs={self.min_runs}; raise it, or leave it out."
            )
        if self.min_runs > len(self.query.run_ids) > 0:
            raise PaiUsageError(
                f"min_runs={self.min_runs} is more than the {_count(len(self.query.run_ids))} in run_id."
            )
        if self.metrics is not None:
            wait_rules(self.metrics)
            if not self.query.needs_details:
                raise PaiUsageError("metrics are not listed with verbose=False; leave verbose out.")

    @classmethod
    def of(cls, **given: Any) -> RunCondition:
        """Return the condition that the arguments of a task or a trigger mean; a number may be text.

        :raises PaiUsageError: arguments that make no sense, such as ``None``, with what to write instead.
        """
        bounds = {name: given.pop(name) for name in ("min_runs", "max_runs", "metrics") if name in given}
        for name, value in bounds.items():
            if name != "metrics":
                bounds[name] = _number(name, value)
            elif not isinstance(value, Mapping):
                parse_rules(value)  # says what is wrong with it
        query = RunQuery.of(**given)
        bounds.setdefault("min_runs", len(query.run_ids) or 1)
        bounds.setdefault("max_runs", max(100, bounds["min_runs"]))
        return cls(query=query, **bounds)

    @property
    def enough(self) -> int | None:
        """How many runs that match the query a listing needs to bring; ``None`` where metrics choose."""
        return self.max_runs if self.metrics is None else None

    def describe(self) -> str:
        """Return what is awaited, for people: ``2 runs with is_evaluation:true and accuracy >= 0.9``."""
        ids = self.query.run_ids
        parts = [f"run_id={', '.join(ids[:3])}{', …' if len(ids) > 3 else ''}"] if ids else []
        parts += [_labels(self.query)] if self.query.labels else []
        for name in ("experiment_id", "name", "source_type", "source_id"):
            if (value := getattr(self.query, name)) is not None:
                parts.append(f"{name}={value}")
        for name, moment in zip(("created_after", "created_before"), self.query.window, strict=True):
            if moment is not None:
                parts.append(f"{name}={moment:%Y-%m-%dT%H:%M:%SZ}")
        if self.metrics is not None:
            parts.append(_rules(self.metrics))
        return f"{_count(self.min_runs)} with {', '.join(parts)}"

    def progress(self, runs: Sequence[Run]) -> str:
        """Return how far the wait has come: ``2 runs carry is_evaluation:true; waiting for 3``."""
        one, named = len(runs) == 1, len(self.query.run_ids)
        said = f"{len(runs)} of {_count(named)}" if named > 1 else _count(len(runs))
        if self.query.labels or not named:
            said += f" {'carries' if one else 'carry'} {_labels(self.query)}"
        else:
            said += f" {'is' if one else 'are'} there"
        if self.query.parameters().keys() - {"Labels", "OrderBy", "Verbose", "WorkspaceId"} or any(
            self.query.window
        ):
            said += f" and {'matches' if one else 'match'} the other filters"
        if self.metrics is not None:
            enough = len(self.matching(runs))
            said += f"; {enough} {'meets' if enough == 1 else 'meet'} {_rules(self.metrics)}"
            has = {metric.key for run in runs for metric in run.metrics}
            for missing in dict.fromkeys(rule.metric for rule in wait_rules(self.metrics)):
                if runs and missing not in has:
                    said += f"; none has {missing!r}, they have {', '.join(sorted(has)) or 'no metrics'}"
        return f"{said}; waiting for {self.min_runs}"

    def matching(self, runs: Iterable[Run]) -> list[Run]:
        """Return the runs that count, in the order they came."""
        rules = [] if self.metrics is None else wait_rules(self.metrics)
        return [run for run in filter(self.query.check(), runs) if _meets(run, rules)]

    def met_by(self, runs: Iterable[Run]) -> list[dict[str, Any]] | None:
        """Return the compact form of the awaited runs, or ``None`` while there are too few.

        ``runs`` come in the query's order and may hold others, which do not count.

        :raises PaiUsageError: they are too large for XCom.
        """
        awaited = self.matching(runs)
        if len(awaited) < self.min_runs:
            return None
        records = [run.to_dict() for run in awaited[: self.max_runs]]
        return small_enough(records, _count(len(records)), "Lower max_runs, or narrow the filters.")

    def runs_in(self, met: list[dict[str, Any]]) -> list[Run]:
        """Return the runs that were awaited; the task's button opens the first."""
        return [Run.from_dict(record) for record in met]


def check_narrow(labels: Any, run_id: Any) -> None:
    """Refuse a wait that any run would end."""
    if labels is None and run_id is None:
        raise PaiUsageError("give labels, or run_id: without both any run would end the wait.")


def interval_seconds(poke_interval: Any) -> float:
    """Return an interval between polls in seconds, from a number or a timedelta.

    :raises PaiUsageError: an interval with which a wait would poll without a pause, or never.
    """
    seconds = poke_interval.total_seconds() if isinstance(poke_interval, timedelta) else poke_interval
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e9:
        raise PaiUsageError(
            f"poke_interval={poke_interval!r} must be a number of seconds above 0, or a timedelta."
        )
    return seconds


def _meets(run: Run, rules: Iterable[MetricRule]) -> bool:
    return all(rule.judge(rule.value_in(run.metrics)).passed for rule in rules)


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _labels(query: RunQuery) -> str:
    return ", ".join(f"{key}:{value}" for key, value in query.label_items) or "no label in particular"


def _rules(metrics: MetricRules) -> str:
    return " and ".join(f"{rule.metric} {rule}" for rule in wait_rules(metrics))


def _number(name: str, value: Any) -> int:
    given = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
    return int(whole_number(name, given))
