"""The verdict: which run is judged, against which baseline, and that a missing value never passes."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_pai.api import Metric, PaiUsageError, Request, Response, Run
from airflow_provider_pai.gating.rules import parse_rules
from airflow_provider_pai.gating.verdict import Selection, Verdict, judge

START = datetime(2025, 10, 20, tzinfo=timezone.utc)
History = dict[tuple[str, str], list[tuple[int, float]]]


def run(number: int, **values: float) -> Run:
    held = [Metric(key, value, step=0) for key, value in values.items()]
    created = START + timedelta(minutes=number)
    return Run(run_id=f"run-{number}", name=f"n{number}", gmt_create_time=created, metrics=held)


class Pai:
    """Answers ListRunMetrics from a table, and counts how often it is asked."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.asked: list[tuple[str, str]] = []

    def __call__(self, request: Request) -> Response:
        assert request.action == "ListRunMetrics"
        key = request.path.split("/")[4], request.query["Key"]
        self.asked.append(key)
        entries = [{"Key": key[1], "Value": value, "Step": step} for step, value in self.history.get(key, [])]
        body = json.dumps({"Metrics": entries, "NextPageToken": 0})  # NaN is a bare word
        return Response(status=200, headers={}, body=body.encode())


@pytest.fixture
def verdict(play):
    def decide(runs: list[Run], metrics: Any, history: History | None = None, **options: Any) -> Verdict:
        found: Verdict = play(judge(runs, parse_rules(metrics), **options), Pai(history or {}))
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()
        assert found.reason
        assert len(found.table().splitlines()) == 2 + len(found.checks)
        return found

    return decide


OLD, MIDDLE, NEW = run(1, acc=0.95, loss=0.3), run(2, acc=0.80, loss=0.1), run(3, acc=0.90, loss=0.2)
RUNS = [MIDDLE, NEW, OLD]


@pytest.mark.parametrize(
    ("select", "rule", "passed", "chosen"),
    [
        ("newest", ">= 0.9", True, "run-3"),
        ("newest", "> 0.9", False, "run-3"),
        ("highest acc", ">= 0.95", True, "run-1"),
        ("lowest loss", ">= 0.9", False, "run-2"),
        ("any", ">= 0.95", True, "run-1"),
        ("any", ">= 0.9", True, "run-3"),
        ("any", ">= 0.99", False, None),
        ("all", ">= 0.8", True, "run-3"),
        ("all", ">= 0.9", False, None),
    ],
)
def test_select_says_which_runs_are_judged(verdict, select, rule, passed, chosen):
    found = verdict(RUNS, {"acc": rule}, select=select)
    assert found.passed is passed
    assert (found.run or {}).get("run_id") == chosen
    assert len(found.checks) == (3 if select in ("all", "any") else 1)


@pytest.mark.parametrize(
    "text", ["", "best", "highest", "highest ", "oldest", "max acc", None, 1, "newest acc"]
)
def test_any_other_selection_is_refused(text):
    with pytest.raises(PaiUsageError, match="highest accuracy"):
        Selection.parse(text)


@pytest.mark.parametrize("select", ["newest", "all", "any", "highest acc", "lowest acc"])
def test_no_runs_do_not_pass(verdict, select):
    found = verdict([], {"acc": ">= 0"}, select=select, missing_baseline="pass")
    assert (found.passed, found.run, found.checks) == (False, None, [])
    assert "no run to judge" in found.reason


def test_a_run_without_the_metric_is_never_the_best(verdict):
    runs = [run(1, acc=0.5), run(2), run(3, acc=math.nan), run(4, acc=math.inf)]
    assert verdict(runs, {"acc": "> 0"}, select="highest acc").run["run_id"] == "run-1"
    found = verdict(runs[1:], {"acc": "> 0"}, select="highest acc")
    assert not found.passed
    assert found.reason == "none of 3 runs has a finite acc"


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        ({}, "the run has no acc"),
        ({"acc": math.nan}, "acc of the run is NaN"),
        ({"acc": math.inf}, "acc of the run is Infinity"),
        ({"acc": -math.inf}, "acc of the run is -Infinity"),
    ],
)
@pytest.mark.parametrize("rule", ["> 0", "< 0", "== baseline"])
def test_what_is_missing_or_not_finite_is_named(verdict, held, reason, rule):
    found = verdict([run(1, **held)], {"acc": rule}, missing_baseline="pass")
    assert not found.passed
    assert found.checks[0].reason == reason
    assert reason in found.reason


def test_a_verdict_without_a_run_says_where_none_was_found(verdict):
    for select in ("newest", "all", "highest acc"):
        found = verdict([], {"acc": "> 0"}, select=select, sought="no run matches labels='a:b'")
        assert found.reason == "there is no run to judge: no run matches labels='a:b'"
    found = verdict([NEW], {"acc": "> baseline"}, baselines=[NEW], select="all", sought="no run matches")
    assert found.reason == "there is no run to judge but the baseline itself"


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        (RUNS, "none of 3 runs has a finite accuracy; metrics there are: acc, loss"),
        ([NEW], "n3 (run-3) has no finite accuracy; metrics there are: acc, loss"),
        ([run(1), run(2)], "none of 2 runs has a finite accuracy"),
        (
            [run(1, **{f"m{number:02}": 0.0 for number in range(12)})],
            "n1 (run-1) has no finite accuracy; "
            "metrics there are: m00, m01, m02, m03, m04, m05, m06, m07, m08, m09 and 2 more",
        ),
    ],
)
def test_where_no_run_has_the_metric_the_verdict_names_those_there_are(verdict, runs, reason):
    assert verdict(runs, {"acc": "> 0"}, select="highest accuracy").reason == reason


def test_a_check_of_a_metric_that_is_missing_names_those_there_are(verdict):
    (check,) = verdict([NEW], {"accuracy": "> 0"}).checks
    assert check.reason == "the run has no accuracy; it has acc, loss"
    (check,) = verdict([NEW], {"acc": "> baseline"}, baselines=[run(9, loss=0.1)]).checks
    assert check.reason == "the baseline has no acc; it has loss"


@pytest.mark.parametrize(
    ("count", "rule", "reason"),
    [
        (1, "> 0.9", "0 of 1 run meets every rule; n3: "),
        (3, "> 0.9", "1 of 3 runs meets every rule; "),
        (3, ">= 0.9", "2 of 3 runs meet every rule; n2: "),
    ],
)
def test_runs_are_counted_in_plain_english(verdict, count, rule, reason):
    assert verdict([NEW, OLD, MIDDLE][:count], {"acc": rule}, select="all").reason.startswith(reason)


# --- baselines


def test_a_run_must_beat_every_baseline_and_the_verdict_names_the_one_it_does_not(verdict):
    baselines = [run(8, acc=0.80), run(9, acc=0.92)]
    found = verdict([NEW], {"acc": ">= baseline"}, baselines=baselines)
    assert not found.passed
    assert (found.checks[0].baseline_run_id, found.checks[0].limit) == ("run-9", 0.92)
    assert verdict([NEW], {"acc": ">= baseline"}, baselines=baselines[:1]).passed
    assert found.baseline_run_ids == ["run-8", "run-9"]


@pytest.mark.parametrize(("policy", "passed"), [("fail", False), ("pass", True)])
def test_a_missing_baseline_is_a_policy(verdict, policy, passed):
    found = verdict([NEW], {"acc": ">= baseline"}, missing_baseline=policy)
    assert found.passed is passed
    assert found.checks[0].reason == f"no run is the baseline (missing_baseline='{policy}')"


@pytest.mark.parametrize("held", [{}, {"acc": math.nan}, {"acc": math.inf}])
def test_a_baseline_without_the_metric_is_not_a_missing_baseline(verdict, held):
    found = verdict([NEW], {"acc": "> baseline"}, baselines=[run(9, **held)], missing_baseline="pass")
    assert not found.passed
    assert "the baseline" in found.checks[0].reason


@pytest.mark.parametrize("select", ["newest", "highest acc", "all", "any"])
def test_a_run_does_not_pass_against_itself(verdict, select):
    found = verdict([NEW], {"acc": ">= baseline"}, baselines=[NEW], select=select, missing_baseline="pass")
    assert not found.passed
    assert "itself" in found.reason


def test_a_half_promoted_run_is_judged_by_the_other_baseline(verdict):
    assert verdict([NEW], {"acc": ">= baseline"}, baselines=[NEW, MIDDLE]).passed
    assert not verdict([NEW], {"acc": ">= baseline"}, baselines=[NEW, OLD]).passed


def test_all_judges_only_the_runs_that_are_not_baselines(verdict):
    found = verdict(RUNS, {"acc": "< baseline"}, baselines=[OLD], select="all")
    assert found.passed
    assert {check.run_id for check in found.checks} == {"run-2", "run-3"}


# --- histories


def test_a_history_is_read_where_the_run_does_not_suffice_and_once(play):
    history: History = {
        ("run-1", "acc"): [(0, 0.1), (1, 0.97), (2, 0.95)],
        ("run-9", "acc"): [(0, 0.2), (1, 0.9)],
        ("run-1", "late"): [(0, 3.0)],
    }
    rules = {
        "acc": ["> 0.9", "max >= baseline + 0.05", "min == 0.1", "step 1 > 0.96", "step 5 > 0"],
        "loss": "< 1",
        "late": "== 3",
        "never": "> 0",
    }
    pai = Pai(history)
    found = play(judge([OLD], parse_rules(rules), baselines=[run(9, acc=0.9)]), pai)
    assert [(check.value, check.read_from, check.passed) for check in found.checks] == [
        (0.95, "run", True),
        (0.97, "history", True),
        (0.1, "history", True),
        (0.97, "history", True),
        (None, "history", False),
        (0.3, "run", True),
        (3.0, "history", True),
        (None, "history", False),
    ]
    assert found.checks[4].reason == "the run has no acc at step 5"
    assert sorted(pai.asked) == [("run-1", "acc"), ("run-1", "late"), ("run-1", "never"), ("run-9", "acc")]


def test_runs_with_their_last_values_cost_no_request(play):
    pai = Pai({})
    play(judge(RUNS, parse_rules({"acc": "> baseline"}), baselines=[OLD], select="all"), pai)
    assert pai.asked == []


# --- the property that matters

values = st.floats(0, 1) | st.sampled_from([math.nan, math.inf, -math.inf])
held = st.fixed_dictionaries({}, optional={"acc": values, "loss": values})
texts = st.sampled_from(
    [
        ">= 0.5",
        "< 0.5",
        ">= baseline",
        "< baseline + 0.1",
        "max > 0.2",
        "step 0 >= baseline",
        "min <= baseline * 2",
    ]
)


@given(
    st.lists(held, max_size=4),
    st.lists(held, max_size=2),
    st.fixed_dictionaries({"acc": st.lists(texts, min_size=1, max_size=2)}, optional={"loss": texts}),
    st.sampled_from(["newest", "all", "any", "highest acc", "lowest loss"]),
    st.sampled_from(["pass", "fail"]),
    st.integers(0, 1),
)
def test_a_verdict_passes_only_if_every_rule_is_met_by_finite_values(
    play, held, standards, metrics, select, policy, own
):
    runs = [run(number, **values) for number, values in enumerate(held)]
    baselines = [run(10 + number, **values) for number, values in enumerate(standards)] + runs[: own * 1]
    history: History = {
        (one.run_id, metric.key): [(0, metric.value)] for one in [*runs, *baselines] for metric in one.metrics
    }
    rules = parse_rules(metrics)
    found = play(
        judge(runs, rules, baselines=baselines, select=select, missing_baseline=policy), Pai(history)
    )
    assert json.dumps(found.to_dict(), allow_nan=False)
    assert found.passed == (bool(found.checks) and all_pass(found, select))
    for one in [
        one for one in runs if found.passed and (select == "all" or one.run_id == found.run["run_id"])
    ]:
        others = [baseline for baseline in baselines if baseline.run_id != one.run_id]
        if select == "all" and one in baselines:
            continue
        for rule in rules:
            value = rule.value_in(one.metrics)
            assert value is not None and math.isfinite(value)
            assert others or policy == "pass" or not rule.baseline
            assert all(
                rule.judge(value, rule.value_in(other.metrics)).passed for other in others or [one][:0]
            )
            assert rule.baseline or rule.judge(value).passed


def all_pass(found: Verdict, select: str) -> bool:
    by_run: dict[str, bool] = {}
    for check in found.checks:
        by_run[check.run_id] = by_run.get(check.run_id, True) and check.passed
    return any(by_run.values()) if select == "any" else all(by_run.values())


# --- the table


def test_the_table_shows_more_digits_where_six_would_look_equal(verdict):
    table = verdict([run(1, acc=0.90000001)], {"acc": "> 0.9"}).table()
    assert "0.90000001" in table
    table = verdict([run(1, acc=0.123456789)], {"acc": "> 0.9"}).table()
    assert "0.123457 " in table
