"""Rules for metrics: parse a rule, and decide whether a value meets it.

A rule is plain data. It decides about runs that somebody else fetched, so it means the same everywhere: in a
worker that pokes, in one that was rescheduled, and in a triggerer.

A rule is a text::

    rule       = [ reading ] comparison ( number | "baseline" [ ( "+" | "-" | "*" ) number ] )
    reading    = "last" | "max" | "min" | "step" whole-number
    comparison = ">=" | ">" | "<=" | "<" | "=="

such as ``">= 0.90"``, ``">= baseline + 0.01"`` or ``"max >= 0.9"``. Numbers are compared exactly, as
decimals: 0.94 is ``>= 0.93 + 0.01``, although it is not in binary fractions, even if PAI keeps only 32 bits
of each.
"""

from __future__ import annotations

import math
import operator
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, NoReturn

import msgspec

from airflow_provider_pai.api.arguments import check_no_dict_as_text
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.models import Metric, json_number

__all__ = [
    "Judgement",
    "MetricRule",
    "MetricRules",
    "by_step",
    "format_numbers",
    "parse_rules",
    "unusable",
    "wait_rules",
]

MetricRules = Mapping[str, str | Sequence[str]]
"""What a user writes: for each metric a rule, or a list of rules that must all be met."""

COMPARISONS = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
    "==": operator.eq,
}
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
LONGEST_RULE = 200
NUMBER = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?(?![\w.])"


class Judgement(NamedTuple):
    """Whether one value meets one rule. ``limit`` is the number it was compared with."""

    passed: bool
    limit: float | None
    reason: str


class MetricRule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule for one metric. ``str()`` returns its text, which parses to an equal rule."""

    metric: str
    comparison: str
    number: str = ""
    """As it was written: the number to compare with, or the offset or factor of the baseline."""
    baseline: bool = False
    operator: str = ""
    reading: str = "last"
    step: int | None = None

    def __str__(self) -> str:
        reading = {"last": "", "step": f"step {self.step}"}.get(self.reading, self.reading)
        baseline = "baseline" if self.baseline else ""
        parts = (reading, self.comparison, baseline, self.operator, self.number)
        return " ".join(part for part in parts if part)

    @property
    def subject(self) -> str:
        """The value that this rule is about, in words: ``max of accuracy``."""
        return {
            "last": self.metric,
            "step": f"{self.metric} at step {self.step}",
        }.get(self.reading, f"{self.reading} of {self.metric}")

    def value_in(self, metrics: Iterable[Metric]) -> float | None:
        """Return the value that this rule is about, or ``None`` if it is missing.

        One NaN makes ``max`` and ``min`` NaN, since the value in its place is unknown.
        """
        steps = by_step(metrics, self.metric)
        values = list(steps.values())
        if self.reading == "step":
            return steps.get(self.step or 0)
        if not values or self.reading == "last":
            return values[-1] if values else None
        if any(math.isnan(value) for value in values):
            return math.nan
        return max(values) if self.reading == "max" else min(values)

    def judge(self, value: float | None, baseline: float | None = None) -> Judgement:
        """Compare a value, and say why it passes or not. A missing value, or one not finite, never passes."""
        problem = unusable("the run", self.subject, value)
        if problem is None and self.baseline:
            problem = unusable("the baseline", self.subject, baseline)
        if problem is not None or value is None:
            return Judgement(False, None, str(problem))
        exact_limit = self._limit(baseline)
        try:
            limit = float(exact_limit)
        except OverflowError:
            return Judgement(False, None, f"{self} is too large a number, with baseline {baseline}")
        passed = COMPARISONS[self.comparison](_exact(value), exact_limit)
        value_text, baseline_text, limit_text = format_numbers(value, baseline, limit)
        reason = f"{value_text} is{'' if passed else ' not'} {self.comparison} {limit_text}"
        if self.operator:
            reason += f" (baseline {baseline_text} {self.operator} {self.number})"
        return Judgement(passed, limit, reason)

    def _limit(self, baseline: float | None) -> Fraction:
        if not self.baseline or baseline is None:
            return Fraction(self.number)
        if not self.operator:
            return _exact(baseline)
        limit: Fraction = OPERATORS[self.operator](_exact(baseline), Fraction(self.number))
        return limit


def by_step(metrics: Iterable[Metric], key: str) -> dict[int, float]:
    """Return the value of a metric at each step, in order.

    Where a step was logged twice, its last value counts. A metric without a step is at step 0.
    """
    ours = [metric for metric in metrics if metric.key == key]
    ours.sort(key=lambda metric: (metric.step or 0, metric.timestamp or 0))
    return {metric.step or 0: metric.value for metric in ours}


def unusable(whose: str, subject: str, value: float | None) -> str | None:
    """Return why a value cannot be compared, or ``None`` if it can."""
    if value is None:
        return f"{whose} has no {subject}"
    return None if math.isfinite(value) else f"{subject} of {whose} is {json_number(value)}"


def format_numbers(*numbers: float | str | None) -> list[str]:
    """Return numbers in six digits, or in all their digits if six would make different ones look equal."""
    short: dict[Any, str] = {number: f"{number:.6g}" for number in numbers if isinstance(number, float)}
    if len(set(short.values())) < len(short):
        short = {}
    return ["-" if number is None else short.get(number, str(number)) for number in numbers]


def _exact(value: float) -> Fraction:
    """Return the shortest decimal that a number stands for, which people logged and compare.

    PAI may keep 32 bits of it: 0.9300000071525574 is what they leave of 0.93.
    """
    return Fraction(_of_32_bits(value) or repr(float(value)))


def _of_32_bits(value: float) -> str | None:
    """Return the shortest decimal for a number of 32 bits, or ``None`` if it has more."""
    try:
        if _rounded(value) != value:
            return None
    except OverflowError:
        return None
    return next(text for digits in range(1, 18) if _rounded(float(text := f"{value:.{digits}g}")) == value)


def _rounded(value: float) -> float:
    rounded: float = struct.unpack("f", struct.pack("f", value))[0]
    return rounded


def parse_rules(metrics: MetricRules) -> list[MetricRule]:
    """Return the rules of ``{metric: text}``. Several texts for one metric come in a list.

    :raises PaiUsageError: a text that is not a rule. The error marks the place of the mistake.
    """
    check_no_dict_as_text("metrics", metrics)
    if not isinstance(metrics, Mapping) or not metrics:
        raise PaiUsageError(
            f"metrics={metrics!r} holds no rules; write a dict such as {{'accuracy': '>= 0.9'}}."
        )
    rules = []
    for metric, texts in metrics.items():
        if not isinstance(metric, str) or not metric:
            raise PaiUsageError(f"metrics has the key {metric!r}; write the name of a metric as text.")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, Sequence) or not texts:
            raise PaiUsageError(
                f"metrics[{metric!r}]={texts!r} is not a rule; write a text such as '>= 0.9', or a list."
            )
        rules += [_Scanner(metric, text).rule() for text in texts]
    return rules


class _Scanner:
    """Reads one rule from left to right."""

    def __init__(self, metric: str, text: str) -> None:
        if not isinstance(text, str) or len(text) > LONGEST_RULE:
            raise PaiUsageError(
                f"metrics[{metric!r}]: {text!r} is not a rule; write a text such as '>= 0.9'."
            )
        self.metric = metric
        self.text = text
        self.at = 0

    def rule(self) -> MetricRule:
        found: dict[str, Any] = {"metric": self.metric}
        found["reading"] = self._take(r"(?:last|max|min|step)\b") or "last"
        if found["reading"] == "step":
            found["step"] = int(self._need(r"[0-9]{1,18}\b", "the number of a step"))
        found["comparison"] = self._need(r">=|<=|==|>|<", f"one of {', '.join(COMPARISONS)}")
        if self._take(r"baseline\b"):
            found["baseline"] = True
            found["operator"] = self._take(r"[+*-]") or ""
            if found["operator"]:
                found["number"] = self._number("", "a number without a sign")
        else:
            found["number"] = self._number("[+-]?", "a number or 'baseline'")
        self._need(r"\Z", "nothing more" if found.get("number") else "the end, or one of + - *")
        return MetricRule(**found)

    def _take(self, pattern: str) -> str | None:
        while self.text[self.at : self.at + 1].isspace():
            self.at += 1
        found = re.compile(pattern).match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def _need(self, pattern: str, wanted: str) -> str:
        found = self._take(pattern)
        if found is None:
            self._refuse(wanted)
        return found

    def _number(self, sign: str, wanted: str) -> str:
        number = self._need(sign + NUMBER, wanted)
        if not math.isfinite(float(number)):
            self.at -= len(number)
            self._refuse("a number that is not too large")
        return number

    def _refuse(self, wanted: str) -> NoReturn:
        one_line = re.sub(r"\s", " ", self.text)
        raise PaiUsageError(
            f"metrics[{self.metric!r}]: expected {wanted}:\n    {one_line}\n    {' ' * self.at}^\n"
            "Rules are such as '>= 0.9', '< baseline', '>= baseline + 0.01', '<= baseline * 0.95', "
            "'max >= 0.9' or 'step 10 >= 0.9'."
        )


def wait_rules(metrics: MetricRules) -> list[MetricRule]:
    """Return the rules of a wait. A poll shows it the last value of each metric and no baseline.

    :raises PaiUsageError: as :func:`parse_rules`, and for a rule that a wait cannot decide.
    """
    rules = parse_rules(metrics)
    for rule in rules:
        if rule.baseline or rule.reading != "last":
            raise PaiUsageError(
                f"metrics[{rule.metric!r}]: a wait cannot decide {str(rule)!r}: a poll shows it the last "
                "values of runs, and no baseline. Wait for a number, then let PaiRunGateOperator decide."
            )
    return rules
