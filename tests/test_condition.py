"""A condition is data that decides the same wherever it is asked."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest

from airflow_provider_pai.api import Metric, PaiUsageError, Run, RunQuery
from airflow_provider_pai.waiting.condition import RunCondition

WANTED = {"is_evaluation": "true"}


def run(number: int, labels: dict[str, str] | None = None, **fields: Any) -> Run:
    created = datetime(2025, 10, 20, 8, 30, number, tzinfo=timezone.utc)
    labels = WANTED if labels is None else labels
    return Run(**{"run_id": f"run-{number}", "gmt_create_time": created, "labels": labels, **fields})


def condition(**fields: Any) -> RunCondition:
    return RunCondition(**{"query": RunQuery(labels=WANTED), **fields})


def ids(found: list[dict[str, Any]] | None) -> list[str] | None:
    return None if found is None else [record["run_id"] for record in found]


@pytest.mark.parametrize(
    ("runs", "bounds", "found"),
    [
        ([], {}, None),
        ([run(1)], {}, ["run-1"]),
        ([run(1)], {"min_runs": 2}, None),
        ([run(1), run(2)], {"min_runs": 2}, ["run-1", "run-2"]),
        ([run(1), run(2), run(3)], {"max_runs": 2}, ["run-1", "run-2"]),
        ([run(3), run(1), run(2)], {"max_runs": 2}, ["run-3", "run-1"]),
        ([run(1), run(2)], {"min_runs": 1, "max_runs": 1}, ["run-1"]),
        ([run(1, {}), run(2, {"is_evaluation": "false"})], {}, None),
        ([run(1, {}), run(2)], {"min_runs": 2}, None),
        ([run(1, {}), run(2)], {"max_runs": 1}, ["run-2"]),
        ([run(1, {**WANTED, "more": "labels"})], {}, ["run-1"]),
    ],
)
def test_a_wait_ends_with_the_first_runs_once_enough_match(
    runs: list[Run], bounds: dict[str, int], found: list[str] | None
) -> None:
    assert ids(condition(**bounds).met_by(runs)) == found
    assert ids(condition(**bounds).met_by(iter(runs))) == found


def test_every_filter_of_the_query_counts_and_not_the_label_alone() -> None:
    query = RunQuery(labels=WANTED, name="b", created_after="2025-10-20T08:30:02Z", experiment_id="exp-1")
    runs = [run(1, name="b", experiment_id="exp-1"), run(2, name="a", experiment_id="exp-1")]
    runs += [run(3, name="b", experiment_id="exp-2"), run(4, name="b", experiment_id="exp-1")]
    assert ids(condition(query=query).met_by(runs)) == ["run-4"]


def test_what_is_handed_on_is_plain_json() -> None:
    found = condition().met_by([run(1)])
    assert found is not None
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found[0]["labels"] == WANTED
    assert found[0]["gmt_create_time"] == "2025-10-20T08:30:01+00:00"


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"min_runs": 0}, "min_runs=0.*at least 1"),
        ({"min_runs": -3}, "min_runs=-3.*at least 1"),
        ({"min_runs": 3, "max_runs": 2}, "max_runs=2.*min_runs=3"),
        ({"max_runs": 0}, "max_runs=0.*min_runs=1"),
    ],
)
def test_bounds_that_nothing_or_everything_would_meet_are_refused(bounds: dict[str, int], words: str) -> None:
    with pytest.raises(PaiUsageError, match=words):
        condition(**bounds)


def test_a_condition_survives_the_way_to_another_process() -> None:
    asked = RunQuery(labels=WANTED, created_after="2025-10-20T10:30:00+02:00", workspace_id="145883")
    there = condition(query=asked, min_runs=2, max_runs=3)
    sent = json.loads(msgspec.json.encode(there))
    back = RunCondition(**{**sent, "query": RunQuery(**sent["query"])})
    assert back == there
    assert ids(back.met_by([run(1), run(2)])) == ids(there.met_by([run(1), run(2)]))


def test_progress_names_the_metrics_that_runs_have_where_none_has_the_awaited_one() -> None:
    measured = [Metric(key="accuracy", value=0.93), Metric(key="loss", value=0.1)]
    wanted = condition(metrics={"acuracy": ">= 0.9", "loss": "< 1"})
    said = wanted.progress([run(1, metrics=measured), run(2)])
    assert "0 meet acuracy >= 0.9 and loss < 1; none has 'acuracy', they have accuracy, loss;" in said
    assert "they have no metrics" in wanted.progress([run(1)])
    assert "none has" not in wanted.progress([])


def test_a_wait_for_named_runs_says_which_and_how_many_of_them() -> None:
    ids = tuple(f"run-{number}" for number in range(4))
    wanted = RunCondition.of(run_id=ids, labels=WANTED)
    assert wanted.min_runs == 4
    assert wanted.describe() == "4 runs with run_id=run-0, run-1, run-2, …, is_evaluation:true"
    assert wanted.progress([run(1)]) == "1 of 4 runs carries is_evaluation:true; waiting for 4"
    assert RunCondition.of(run_id="run-1").progress([run(1)]) == "1 run is there; waiting for 1"
