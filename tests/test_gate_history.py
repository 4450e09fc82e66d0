"""What a gate keeps for the page of gates: bounded in size and in requests, and with its peaks."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from conftest import drive
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_pai.api import Metric, Request, Response, Run
from airflow_provider_pai.gating.history import (
    MOST_BYTES,
    MOST_POINTS,
    MOST_REQUESTS,
    gate_history,
    thin,
)
from airflow_provider_pai.gating.rules import parse_rules
from airflow_provider_pai.gating.verdict import Histories, judge

values = st.floats() | st.sampled_from([math.nan, math.inf, -math.inf])
points = st.lists(values, max_size=900).map(lambda all_of_them: list(enumerate(all_of_them)))


def run(run_id: str, name: str | None = None, **metrics: float) -> Run:
    held = [Metric(key=key, value=value) for key, value in metrics.items()]
    return Run(run_id=run_id, name=name, metrics=held)


def answer(*logged: dict[str, Any], token: str = "") -> Response:
    body = {"Metrics": list(logged), "TotalCount": len(logged), "NextPageToken": token}
    return Response(status=200, headers={}, body=json.dumps(body).encode())


def keep(
    runs: list[Run],
    rules: dict[str, Any],
    *,
    baselines: tuple[Run, ...] = (),
    select: str = "newest",
    histories: Histories | None = None,
    answers: Any = (),
    urls: dict[str, str] | None = None,
    sent: list[Request] | None = None,
) -> dict[str, Any]:
    """What the gate keeps of a verdict over these runs, whose rules need no request."""
    histories = {} if histories is None else histories
    verdict = drive(judge(runs, parse_rules(rules), baselines=baselines, select=select), [])
    kept: dict[str, Any] = drive(
        gate_history(verdict, [*runs, *baselines], histories, urls or {}), answers, sent
    )
    return kept


# --- thinning


@given(points, st.integers(5, 250))
@example([(step, math.nan) for step in range(300)], MOST_POINTS)
@example([(0, 1.0)] * 6, 5)
def test_a_thinned_series_keeps_its_ends_its_peaks_and_its_order(series, most):
    thinned = thin(series, most)
    assert len(thinned) <= most
    places = [point[0] for point in thinned]
    if [point[0] for point in series] == sorted({point[0] for point in series}):
        assert places == sorted(set(places))
        assert all(point is series[point[0]] for point in thinned)
    if series:
        assert (thinned[0], thinned[-1]) == (series[0], series[-1])
    finite = [value for _, value in series if math.isfinite(value)]
    if finite:
        kept = [value for _, value in thinned if math.isfinite(value)]
        assert (min(kept), max(kept)) == (min(finite), max(finite))
    assert any(not math.isfinite(value) for _, value in thinned) == (len(finite) < len(series))


@given(points)
def test_a_short_series_stays_as_it_is(series):
    assert thin(series[:MOST_POINTS]) == series[:MOST_POINTS]


# --- what is kept


def test_the_judged_run_and_its_baseline_are_named_and_each_metric_has_its_history():
    judged, champion = run("run-1", "weak", accuracy=0.8, loss=0.1), run("run-0", "champion", accuracy=0.9)
    logged = {("run-1", "accuracy"): [0.7, 0.8], ("run-0", "accuracy"): [0.9], ("run-1", "loss"): [0.1]}

    def answers(request: Request) -> Response:
        metric = request.query["Key"]
        found = logged.get((request.path.split("/")[-2], metric), [])
        return answer(*({"Key": metric, "Value": value, "Step": step} for step, value in enumerate(found)))

    kept = keep(
        [judged],
        {"loss": "< 0.5", "accuracy": ">= baseline"},
        baselines=(champion,),
        answers=answers,
        urls={"run-1": "https://pai/1"},
    )
    assert kept == {
        "runs": [
            {"run_id": "run-1", "name": "weak", "url": "https://pai/1"},
            {"run_id": "run-0", "name": "champion", "url": None},
        ],
        "series": [  # what failed comes first, and a run without values of a metric has no series
            {"run_id": "run-1", "metric": "accuracy", "steps": 2, "points": [[0, 0.7], [1, 0.8]]},
            {"run_id": "run-0", "metric": "accuracy", "steps": 1, "points": [[0, 0.9]]},
            {"run_id": "run-1", "metric": "loss", "steps": 1, "points": [[0, 0.1]]},
        ],
        "left_out": 0,
    }


def test_what_the_rules_have_read_is_not_read_again():
    known = {("run-1", "accuracy"): [Metric(key="accuracy", value=0.5, step=3)]}
    kept = keep([run("run-1", accuracy=0.8)], {"accuracy": ">= 0.9"}, histories=known)
    assert [series["points"] for series in kept["series"]] == [[[3, 0.5]]]


def test_without_a_run_there_is_nothing_to_keep():
    assert keep([], {"accuracy": ">= 0.9"}) == {"runs": [], "series": [], "left_out": 0}


def test_a_value_that_is_not_finite_is_text():
    known = {("run-1", "loss"): [Metric(key="loss", value=math.nan, step=1)]}
    kept = keep([run("run-1", loss=1.0)], {"loss": "< 2"}, histories=known)
    assert kept["series"][0]["points"] == [[1, "NaN"]]


@pytest.mark.parametrize("status", [403, 404, 429, 500])
def test_a_pai_that_refuses_is_asked_once_and_the_runs_are_kept(status):
    sent: list[Request] = []
    refused = Response(status=status, headers={}, body=b'{"Code": "No", "Message": "no"}')
    runs = [run("run-1", "one", accuracy=0.8, loss=0.5)]
    kept = keep(runs, {"accuracy": ">= 0.9", "loss": "< 1"}, answers=lambda _: refused, sent=sent)
    assert len(sent) == 1
    assert ([entry["name"] for entry in kept["runs"]], kept["series"]) == (["one"], [])
    assert kept["left_out"] == 2


def test_however_long_the_histories_are_the_requests_are_few():
    sent: list[Request] = []

    def endless(request: Request) -> Response:
        step = len(sent)
        logged = {"Key": request.query["Key"], "Value": 1.0, "Step": step}
        return answer(logged, token=f"page-{step}")

    kept = keep([run("run-1", accuracy=0.8)], {"accuracy": ">= 0.9"}, answers=endless, sent=sent)
    assert len(sent) == MOST_REQUESTS
    assert (kept["series"], kept["left_out"]) == ([], 1)


@given(
    st.integers(0, 60),
    st.integers(0, 300),
    st.text(max_size=300),
    st.text(max_size=30) | st.just("\U0001f600" * 2000),
    st.floats() | st.just(-1.2345678901234567e-300),
)
def test_whatever_comes_fits_and_is_plain_json(number, steps, name, url, value):
    runs = [run(f"run-{index}", name, accuracy=0.5, loss=1.0) for index in range(number)]
    history = [Metric(key="accuracy", value=value, step=step) for step in range(steps)]
    known = {(one.run_id, metric): history for one in runs for metric in ("accuracy", "loss")}
    urls = {one.run_id: url for one in runs}
    kept = keep(runs, {"accuracy": ">= 0.9", "loss": "< 2"}, select="all", histories=known, urls=urls)
    text = json.dumps(kept, allow_nan=False)
    assert len(text) <= MOST_BYTES
    assert json.loads(text) == kept
    assert all(len(series["points"]) <= MOST_POINTS for series in kept["series"])
