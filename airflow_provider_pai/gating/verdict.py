"""The verdict of a gate: which run was judged, against which baseline, and why it passed or not.

:func:`judge` is a flow like those of :mod:`airflow_provider_pai.api`: it does no IO itself. It asks PAI for a
metric's history where a rule needs more than the run's last values.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.api.metrics import metric_history
from airflow_provider_pai.api.models import Metric, Run, json_number, last_values
from airflow_provider_pai.gating.rules import Judgement, MetricRule, format_numbers, unusable

__all__ = ["Check", "Histories", "Selection", "Verdict", "judge"]

Histories = dict[tuple[str, str], list[Metric]]
"""All values that PAI has, by run id and metric, of those that were read."""
MissingBaseline = Literal["fail", "pass"]
NOTHING = "there is no run to judge"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One rule, applied to one run. A number that is not finite is the text ``NaN`` or ``[-]Infinity``."""

    run_id: str
    run_name: str | None
    metric: str
    rule: str
    passed: bool
    value: float | str | None
    read_from: str
    """``run``: from the run itself; ``history``: from all values that ListRunMetrics returns."""
    baseline: float | str | None
    baseline_run_id: str | None
    limit: float | None
    """The number that the value was compared with."""
    reason: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate decided. ``run`` is the run it chose; it passed if ``passed`` is True."""

    passed: bool
    reason: str
    select: str
    run: dict[str, Any] | None
    baseline_run_ids: list[str]
    checks: list[Check]

    @classmethod
    def of(cls, given: Verdict | Mapping[str, Any]) -> Verdict:
        """Return the verdict that a gate pushed, or one that is handed on as it is.

        :raises PaiUsageError: it is something else.
        """
        if isinstance(given, Verdict):
            return given
        try:
            return msgspec.convert(given, cls, strict=False)
        except msgspec.ValidationError as error:
            raise PaiUsageError(
                f"verdict is not the output of a PaiRunGateOperator: {error}. Write verdict=gate.output; "
                "a run, or the id of one, is given as runs."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the plain JSON form that goes to XCom."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def digest(self) -> str:
        """Return a short text that differs for another run, other values or another outcome.

        What does not decide, such as the run's labels, does not change it.
        """
        decides = {**self.to_dict(), "run": self.run and self.run["run_id"]}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]

    def table(self) -> str:
        """Return the checks as an aligned table, for the task's log."""
        from tabulate import tabulate  # type: ignore[import-untyped]

        rows = [
            (
                "ok" if check.passed else "FAIL",
                check.run_name or check.run_id,
                check.metric,
                check.rule,
                *format_numbers(check.value, check.baseline, check.limit),
                check.read_from,
                check.reason,
            )
            for check in self.checks
        ]
        headers = ("", "run", "metric", "rule", "value", "baseline", "limit", "read from", "reason")
        table: str = tabulate(rows, headers=headers, disable_numparse=True)
        return table


class Selection(msgspec.Struct, frozen=True):
    """Which of several runs a gate judges: the ``newest``, ``all``, ``any``, or the one with the ``highest``
    or ``lowest`` value of a metric.
    """

    which: str
    metric: str = ""

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Read ``"newest"``, ``"all"``, ``"any"``, ``"highest <metric>"`` or ``"lowest <metric>"``.

        :raises PaiUsageError: anything else.
        """
        if text in ("newest", "all", "any"):
            return cls(text)
        found = re.fullmatch(r"(highest|lowest) (\S.*)", text) if isinstance(text, str) else None
        if found is None:
            raise PaiUsageError(
                f"select={text!r} must be 'newest', 'all', 'any', or the best by a metric, with its "
                "direction: 'highest accuracy', 'lowest log_loss'."
            )
        return cls(*found.groups())

    def __str__(self) -> str:
        return f"{self.which} {self.metric}".strip()


def judge(
    runs: Sequence[Run],
    rules: Sequence[MetricRule],
    *,
    baselines: Sequence[Run] = (),
    select: str = "newest",
    missing_baseline: MissingBaseline = "fail",
    sought: str = "",
    histories: Histories | None = None,
) -> Flow[Verdict]:
    """Judge runs by rules. A rule with ``baseline`` must hold against each of ``baselines`` except the run.

    ``newest``, ``highest`` and ``lowest`` judge one run. ``all`` and ``any`` judge, newest first, the runs
    that are not a baseline themselves. The verdict does not pass if there is no run to judge, or if the
    run is the only baseline.

    :param missing_baseline: whether a rule with ``baseline`` passes while there is no baseline run.
    :param sought: why there is no run, for the reason of a verdict without one.
    :param histories: is filled with the histories that the rules needed.
    """
    evaluator = _Evaluator(rules, baselines, missing_baseline, sought, {} if histories is None else histories)
    selection = Selection.parse(select)
    newest_first = sorted(runs, key=_created, reverse=True)
    if selection.which in ("all", "any"):
        return (yield from evaluator.several(newest_first, selection))
    if selection.which == "newest":
        chosen = newest_first[0] if runs else None
    else:
        chosen = yield from evaluator.best(newest_first, selection)
    return (yield from evaluator.one(chosen, newest_first, selection))


def _created(run: Run) -> float:
    return run.gmt_create_time.timestamp() if run.gmt_create_time else 0.0


class _Evaluator:
    """Judges runs. Asks for the history of each metric of a run at most once."""

    def __init__(
        self,
        rules: Sequence[MetricRule],
        baselines: Sequence[Run],
        missing_baseline: MissingBaseline,
        sought: str,
        histories: Histories,
    ) -> None:
        self.rules = rules
        self.baselines = baselines
        self.missing_baseline = missing_baseline
        self.nothing = f"{NOTHING}: {sought}" if sought else NOTHING
        self.histories = histories

    def one(self, run: Run | None, among: Sequence[Run], selection: Selection) -> Flow[Verdict]:
        if run is None:
            reason = _no_finite(selection.metric, among) if among else self.nothing
            return self._verdict(selection, None, [], passed=False, reason=reason)
        checks = yield from self._checks(run)
        how = "the newest" if selection.which == "newest" else f"with the {selection}"
        subject = f"{_name(run)}, {how} of {len(among)} runs," if len(among) > 1 else _name(run)
        failed = [check for check in checks if not check.passed]
        reason = f"{subject} {'does not pass' if failed else 'passes'}: {_describe(failed or checks)}"
        return self._verdict(selection, run, checks, passed=not failed, reason=reason)

    def several(self, runs: Sequence[Run], selection: Selection) -> Flow[Verdict]:
        ours = [run for run in runs if not self._is_baseline(run)]
        checks: list[Check] = []
        passing: list[Run] = []
        for run in ours:
            of_run = yield from self._checks(run)
            checks += of_run
            if all(check.passed for check in of_run):
                passing.append(run)
        passed = bool(passing) and (selection.which == "any" or len(passing) == len(ours))
        verb = "meets" if 1 in (len(passing), len(ours)) else "meet"
        reason = f"{len(passing)} of {len(ours)} run{'s' if len(ours) > 1 else ''} {verb} every rule"
        if not ours:
            reason = f"{NOTHING} but the baseline itself" if runs else self.nothing
        elif not passed:
            reason += f"; {_describe([check for check in checks if not check.passed], name_runs=True)}"
        return self._verdict(selection, passing[0] if passed else None, checks, passed=passed, reason=reason)

    def best(self, runs: Sequence[Run], selection: Selection) -> Flow[Run | None]:
        rule = MetricRule(metric=selection.metric, comparison="==")  # it only names the value to read
        found: Run | None = None
        record = 0.0
        for run in runs:
            value, _ = yield from self._read(run, rule)
            if value is None or not math.isfinite(value):
                continue
            if found is None or (value > record if selection.which == "highest" else value < record):
                found, record = run, value
        return found

    def _verdict(
        self, selection: Selection, run: Run | None, checks: list[Check], *, passed: bool, reason: str
    ) -> Verdict:
        return Verdict(
            passed=passed,
            reason=reason,
            select=str(selection),
            run=run.to_dict() if run else None,
            baseline_run_ids=[baseline.run_id for baseline in self.baselines],
            checks=checks,
        )

    def _is_baseline(self, run: Run) -> bool:
        return any(run.run_id == baseline.run_id for baseline in self.baselines)

    def _checks(self, run: Run) -> Flow[list[Check]]:
        checks = []
        for rule in self.rules:
            checks.append((yield from self._check(run, rule)))
        return checks

    def _check(self, run: Run, rule: MetricRule) -> Flow[Check]:
        value, read_from = yield from self._read(run, rule)
        others = [baseline for baseline in self.baselines if baseline.run_id != run.run_id]
        baseline_value: float | None = None
        against: Run | None = None
        if not rule.baseline:
            judgement = rule.judge(value)
        elif not others:
            judgement = self._without_baseline(run, rule, value)
        else:
            judgement, baseline_value, against = yield from self._against(others, rule, value)
        lacking = run if value is None else against if baseline_value is None else None
        has = _other_metrics([lacking] if lacking else [], rule.metric)
        return Check(
            run_id=run.run_id,
            run_name=run.name,
            metric=rule.metric,
            rule=str(rule),
            passed=judgement.passed,
            value=None if value is None else json_number(value),
            read_from=read_from,
            baseline=None if baseline_value is None else json_number(baseline_value),
            baseline_run_id=against.run_id if against else None,
            limit=judgement.limit,
            reason=judgement.reason + (f"; it has {has}" if has else ""),
        )

    def _against(
        self, others: Sequence[Run], rule: MetricRule, value: float | None
    ) -> Flow[tuple[Judgement, float | None, Run]]:
        for other in others:
            baseline_value, _ = yield from self._read(other, rule)
            judgement = rule.judge(value, baseline_value)
            if not judgement.passed:
                break
        return judgement, baseline_value, other

    def _without_baseline(self, run: Run, rule: MetricRule, value: float | None) -> Judgement:
        problem = unusable("the run", rule.subject, value)
        if problem:
            return Judgement(False, None, problem)
        if self._is_baseline(run):
            return Judgement(False, None, "the run is itself the baseline")
        passed = self.missing_baseline == "pass"
        return Judgement(passed, None, f"no run is the baseline (missing_baseline={self.missing_baseline!r})")

    def _read(self, run: Run, rule: MetricRule) -> Flow[tuple[float | None, str]]:
        """Return the value that a rule is about, and where it was read."""
        own = last_values(run.metrics)
        if rule.reading == "last" and rule.metric in own:
            return own[rule.metric], "run"
        key = run.run_id, rule.metric
        if key not in self.histories:
            self.histories[key] = yield from metric_history(*key)
        return rule.value_in(self.histories[key]), "history"


def _name(run: Run) -> str:
    return f"{run.name} ({run.run_id})" if run.name and run.name != run.run_id else run.run_id


def _no_finite(metric: str, runs: Sequence[Run]) -> str:
    reason = f"none of {len(runs)} runs has a finite {metric}"
    if len(runs) == 1:
        reason = f"{_name(runs[0])} has no finite {metric}"
    has = _other_metrics(runs, metric)
    return reason + (f"; metrics there are: {has}" if has else "")


def _other_metrics(runs: Sequence[Run], metric: str) -> str:
    """Return the metrics that came with runs, in words; nothing where ``metric`` is among them."""
    keys = sorted({held.key for run in runs for held in run.metrics})
    if metric in keys:
        return ""
    return ", ".join(keys[:10]) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")


def _describe(checks: Sequence[Check], *, name_runs: bool = False) -> str:
    texts = []
    for check in checks[:5]:
        who = f"{check.run_name or check.run_id}: " if name_runs else ""
        texts.append(f"{who}{check.metric} {check.rule}: {check.reason}")
    return "; ".join(texts) + (f"; and {len(checks) - 5} more" if len(checks) > 5 else "")
