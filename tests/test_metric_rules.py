"""The grammar of metric rules: every accepted text can be evaluated, others are refused with the place."""

from __future__ import annotations

import json
import math
import pickle
import struct
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_pai.api import Metric, PaiUsageError, Run, RunQuery
from airflow_provider_pai.api.models import last_values
from airflow_provider_pai.gating.rules import COMPARISONS, OPERATORS, MetricRule, parse_rules, wait_rules
from airflow_provider_pai.waiting.condition import RunCondition

numbers = st.from_regex(
    r"(?:[0-9]{1,6}(?:\.[0-9]{0,8})?|\.[0-9]{1,8})(?:[eE][+-]?[0-9]{1,2})?", fullmatch=True
)
spaces = st.sampled_from(["", " ", "  ", "\t", " \n "])
finite = st.floats(allow_nan=False, allow_infinity=False)
unfit = st.sampled_from([None, math.nan, math.inf, -math.inf])


@st.composite
def rule_texts(draw: st.DrawFn) -> str:
    reading = draw(st.sampled_from(["", "last ", "max ", "min ", f"step {draw(st.integers(0, 10**6))} "]))
    comparison = draw(st.sampled_from(list(COMPARISONS)))
    if draw(st.booleans()):
        operand = draw(st.sampled_from(["", "+", "-"])) + draw(numbers)
    else:
        operator = draw(st.sampled_from(["", *OPERATORS]))
        operand = "baseline" + (draw(spaces) + operator + draw(spaces) + draw(numbers) if operator else "")
    return draw(spaces) + reading + draw(spaces) + comparison + draw(spaces) + operand + draw(spaces)


def rule(text: Any, metric: str = "auc") -> MetricRule:
    (parsed,) = parse_rules({metric: text})
    return parsed


def error(metrics: Any) -> str:
    with pytest.raises(PaiUsageError) as caught:
        parse_rules(metrics)
    return str(caught.value)


# --- the grammar


@given(rule_texts())
def test_every_rule_of_the_grammar_is_read_and_round_trips(text):
    parsed = rule(text)
    assert rule(str(parsed)) == parsed
    assert " ".join(str(parsed).split()) == str(parsed)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (">= 0.90", ">= 0.90"),
        ("<0.35", "< 0.35"),
        (">=baseline+0.01", ">= baseline + 0.01"),
        ("<= baseline * 0.95", "<= baseline * 0.95"),
        ("last > -3.5e-2", "> -3.5e-2"),
        ("max >= baseline", "max >= baseline"),
        ("step 10 == +.5", "step 10 == +.5"),
        ("min\t<\n7.", "min < 7."),
    ],
)
def test_a_rule_may_have_any_spaces(text, canonical):
    assert str(rule(text)) == canonical


TOKENS = st.sampled_from(
    [
        *(*">=<!~+-*/%()_,.e \t", *COMPARISONS, *"0123456789", "10 ", "0.9", "1e5", "1e999", "0x1"),
        *("baseline", "Baseline", "last", "max", "step", "nan", "inf", "true", "and", "None"),
        *("≥", "٣", "\N{NO-BREAK SPACE}", "__import__('os')"),
    ]
)


@given(st.lists(TOKENS, max_size=9).map("".join) | st.text(max_size=30), finite, finite)
@example("> 1e-999", 0.0, 0.0)
@example("> 1e308", 1.7e308, 0.0)
@example(">= baseline * 1e300", 1e300, 1e300)
@example("== baseline * 1e300", -1e300, -1e300)
@example("< 1" + "0" * 150, 1.0, 1.0)
def test_whatever_is_accepted_can_be_evaluated(text, value, baseline):
    try:
        parsed = rule(text)
    except PaiUsageError as refused:
        assert "auc" in str(refused)
        return
    judged = parsed.judge(value, baseline)
    assert isinstance(judged.passed, bool)
    assert judged.reason
    assert judged.limit is None or math.isfinite(judged.limit)


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("", 0, ">=, >, <=, <, =="),
        ("0.9", 0, ">=, >, <=, <, =="),
        ("≥ 0.9", 0, ">=, >, <=, <, =="),
        ("!= 0.9", 0, ">=, >, <=, <, =="),
        ("= 0.9", 0, ">=, >, <=, <, =="),
        ("maximum > 3", 0, ">=, >, <=, <, =="),
        ("avg > 3", 0, ">=, >, <=, <, =="),
        ("max 0.9", 4, ">=, >, <=, <, =="),
        ("step > 3", 5, "the number of a step"),
        ("step 1.5 > 3", 6, ">=, >, <=, <, =="),
        ("step -1 > 3", 5, "the number of a step"),
        (">=", 2, "a number or 'baseline'"),
        ("> = 0.9", 2, "a number or 'baseline'"),
        (">= basline + 0.01", 3, "a number or 'baseline'"),
        (">= nan", 3, "a number or 'baseline'"),
        (">= inf", 3, "a number or 'baseline'"),
        (">= 1_000", 3, "a number or 'baseline'"),
        (">= 0.9.1", 3, "a number or 'baseline'"),
        (">= ٣", 3, "a number or 'baseline'"),
        (">= 1e400", 3, "not too large"),
        (">= 1e9999", 3, "a number or 'baseline'"),
        (">= 90%", 5, "nothing more"),
        (">= 0.9 and < 1", 7, "nothing more"),
        (">= 0.9 + baseline", 7, "nothing more"),
        (">= baseline 0.01", 12, "one of + - *"),
        (">= baseline / 2", 12, "one of + - *"),
        (">= baseline +", 13, "a number without a sign"),
        (">= baseline + -0.01", 14, "a number without a sign"),
        (">= baseline + baseline", 14, "a number without a sign"),
        (">= baseline + 0.01 + 0.01", 19, "nothing more"),
        (">= baselines", 3, "a number or 'baseline'"),
    ],
)
def test_a_mistake_is_refused_with_its_place(text, place, expected):
    message = error({"loss": "< 1", "auc": text})
    lines = message.splitlines()
    assert lines[0].startswith("metrics['auc']: expected ")
    assert expected in lines[0]
    assert lines[1] == "    " + text
    assert lines[2] == "    " + " " * place + "^"


@pytest.mark.parametrize(
    "metrics",
    [
        *(None, {}, [], "accuracy >= 0.9", {"": "> 1"}, {1: "> 1"}),
        *(
            {"auc": rules}
            for rules in (None, 0.9, [], [0.9], {}, [[">= 1"]], lambda _: True, "> 1" + " " * 200)
        ),
    ],
)
def test_what_is_not_a_mapping_of_rules_is_refused(metrics):
    assert "metrics" in error(metrics)


def test_several_rules_for_one_metric_come_in_a_list():
    rules = parse_rules({"auc": [">= 0.9", ">= baseline"], "loss": "< 1"})
    assert [(rule.metric, str(rule)) for rule in rules] == [
        ("auc", ">= 0.9"),
        ("auc", ">= baseline"),
        ("loss", "< 1"),
    ]
    assert error({"auc": [">= 0.9", ">= baselin"]}).splitlines()[2] == "       ^"


# --- what is compared


@given(rule_texts(), finite, finite)
def test_numbers_are_compared_as_written_decimals(text, value, baseline):
    parsed = rule(text)
    limit = Fraction(parsed.number or 0)
    if parsed.baseline:
        standard = Fraction(repr(baseline))
        limit = OPERATORS[parsed.operator](standard, limit) if parsed.operator else standard
    judged = parsed.judge(value, baseline)
    if judged.limit is None:
        assert not judged.passed
        assert abs(limit) > Fraction(1e308)
    else:
        assert judged.passed == COMPARISONS[parsed.comparison](Fraction(repr(value)), limit)


@pytest.mark.parametrize(
    ("text", "value", "baseline", "passed"),
    [
        (">= 0.90", 0.9, None, True),
        ("> 0.90", 0.9, None, False),
        (">= baseline + 0.01", 0.94, 0.93, True),  # 0.93 + 0.01 is 0.9400000000000001 in binary
        (">= baseline * 1.1", 0.11, 0.1, True),  # 0.1 * 1.1 is 0.11000000000000001
        ("== baseline + 0.2", 0.3, 0.1, True),  # and 0.1 + 0.2 is 0.30000000000000004
        (">= baseline + 0.2", 0.3, 0.1, True),
        ("< baseline + 0.2", 0.3, 0.1, False),
        ("== 0", -0.0, None, True),
        ("> 1e-999", 5e-324, None, True),
        ("> 1e-999", 0.0, None, False),
        (">= baseline - 0.5", -1.5, -1.0, True),
    ],
)
def test_numbers_are_compared_as_people_read_them(text, value, baseline, passed):
    assert rule(text).judge(value, baseline).passed is passed


@given(rule_texts(), unfit, finite | unfit)
def test_a_missing_or_non_finite_value_never_passes_and_is_named(text, value, baseline):
    judged = rule(text, "ACC").judge(value, baseline)
    assert not judged.passed
    assert "ACC" in judged.reason
    assert "the run" in judged.reason


@given(rule_texts().filter(lambda text: "baseline" in text), finite, unfit)
def test_a_missing_or_non_finite_baseline_never_passes_and_is_named(text, value, baseline):
    judged = rule(text, "ACC").judge(value, baseline)
    assert not judged.passed
    assert "the baseline" in judged.reason


# --- which value of a metric

HISTORY = [
    Metric("auc", 0.5, step=0, timestamp=1),
    Metric("auc", 0.99, step=1, timestamp=2),
    Metric("loss", 7.0, step=9, timestamp=3),
    Metric("auc", 0.8, step=2, timestamp=4),
    Metric("auc", 0.7, step=1, timestamp=5),  # logged again
]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("> 0", 0.8),
        ("last > 0", 0.8),
        ("max > 0", 0.8),
        ("min > 0", 0.5),
        ("step 1 > 0", 0.7),
        ("step 3 > 0", None),
    ],
)
def test_the_reading_chooses_among_the_steps(text, value):
    assert rule(text).value_in(HISTORY) == value
    assert rule(text).value_in(reversed(HISTORY)) == value
    assert rule(text, "other").value_in(HISTORY) is None


def test_with_one_nan_in_the_history_the_maximum_is_nan():
    history = [*HISTORY, Metric("auc", math.nan, step=1, timestamp=6)]
    assert math.isnan(rule("max > 0").value_in(history) or 0)
    assert math.isnan(rule("min > 0").value_in(history) or 0)
    assert rule("> 0").value_in(history) == 0.8


metrics = st.lists(
    st.builds(
        Metric, st.sampled_from("ab"), finite, st.integers(0, 3) | st.none(), st.integers(0, 3) | st.none()
    )
)


@given(metrics)
def test_the_last_value_is_the_one_in_xcom(history):
    for key in "ab":
        assert rule("> 0", key).value_in(history) == last_values(history).get(key)


# --- waits


def run(number: int, **values: float) -> Run:
    held = [Metric(key, value) for key, value in values.items()]
    return Run(run_id=f"run-{number}", labels={"e": "1"}, metrics=held)


def test_only_runs_that_meet_the_rules_end_a_wait():
    condition = RunCondition(query=RunQuery(labels="e:1"), min_runs=2, metrics={"auc": [">= 0.9", "< 1"]})
    runs = [run(1, auc=0.5), run(2, auc=0.9), run(3), run(4, auc=math.nan), run(5, auc=math.inf)]
    assert condition.met_by(runs) is None
    found = condition.met_by([*runs, run(6, auc=0.95)])
    assert [record["run_id"] for record in found or []] == ["run-2", "run-6"]


def test_a_listing_for_a_wait_with_rules_may_not_stop_at_the_first_runs():
    assert RunCondition(query=RunQuery(labels="e:1"), max_runs=7).enough == 7
    assert RunCondition(query=RunQuery(labels="e:1"), metrics={"auc": "> 1"}).enough is None


def test_a_condition_with_rules_is_plain_data():
    condition = RunCondition(query=RunQuery(labels="e:1"), metrics={"auc": [">= 0.9"], "loss": "< 1"})
    plain = json.loads(json.dumps(msgspec.to_builtins(condition)))
    assert RunCondition(**{**plain, "query": RunQuery(**plain["query"])}) == condition
    assert pickle.loads(pickle.dumps(condition)) == condition


@pytest.mark.parametrize("text", [">= baseline", "< baseline * 0.9", "max > 1", "min > 1", "step 3 > 1"])
def test_a_wait_refuses_what_it_cannot_see(text):
    with pytest.raises(PaiUsageError, match="a wait cannot decide"):
        wait_rules({"auc": text})
    with pytest.raises(PaiUsageError, match="a wait cannot decide"):
        RunCondition(query=RunQuery(labels="e:1"), metrics={"auc": text})


def test_a_wait_refuses_rules_over_runs_without_metrics():
    with pytest.raises(PaiUsageError, match="verbose"):
        RunCondition(query=RunQuery(verbose=False), metrics={"auc": "> 1"})


def of_32_bits(value: float) -> float:
    """What 32 bits leave of a value."""
    kept: float = struct.unpack("f", struct.pack("f", value))[0]
    return kept


@pytest.mark.parametrize("value", [0.94, of_32_bits(0.94)])
@pytest.mark.parametrize("baseline", [0.93, of_32_bits(0.93)])
def test_a_rule_decides_the_same_whether_pai_keeps_32_bits_or_64(value, baseline):
    (better,) = parse_rules({"auc": ">= baseline + 0.01"})
    (worse,) = parse_rules({"auc": "> baseline + 0.01"})
    assert better.judge(value, baseline).passed
    assert not worse.judge(value, baseline).passed
    (exactly,) = parse_rules({"auc": "== 0.94"})
    assert exactly.judge(value).passed
    assert not parse_rules({"auc": ">= 0.94"})[0].judge(baseline).passed


@given(st.decimals(-1000, 1000, places=4), st.decimals(-1000, 1000, places=4))
def test_numbers_of_six_digits_compare_the_same_in_32_bits(one, other):
    for text, compare in COMPARISONS.items():
        for decimals in (one, other), (one.normalize(), one.normalize()):
            value, limit = (Decimal(f"{decimal:.6g}") for decimal in decimals)
            (rule,) = parse_rules({"auc": f"{text} {limit:f}"})
            assert rule.judge(of_32_bits(float(value))).passed == compare(value, limit)
