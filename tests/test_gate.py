# ruff: noqa: F401, F811 - fixtures come by import
"""The gate in a real Airflow: which tasks run after it, and what it logs and pushes."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from airflow_db import Ran, airflow_db, new_dag, pai, run_dag, serialize, task

from airflow_provider_pai._compat import AirflowFailException
from airflow_provider_pai.api import PaiUnavailableError, PaiUsageError
from airflow_provider_pai.operators import PaiListRunsOperator, PaiPromoteRunOperator, PaiRunGateOperator

EVALUATED = {"is_evaluation": "true"}
CHAMPION = {"champion": "true"}


def gate(**arguments: Any) -> PaiRunGateOperator:
    """A gate that asks for evaluations, unless ``runs`` is given."""
    asks = {} if "runs" in arguments else {"labels": EVALUATED}
    return PaiRunGateOperator(**{"task_id": "gate", "metrics": {"accuracy": ">= 0.9"}, **asks, **arguments})


def step(task_id: str, **arguments: Any) -> Any:
    """A task that only succeeds."""

    @task(task_id=task_id, **arguments)
    def succeed() -> str:
        return task_id

    return succeed()


def evaluated(pai: Any, name: str, labels: dict[str, str] | None = None, **metrics: float) -> str:
    """Add a run, a minute newer than the one before, and return its id."""
    created = f"2025-10-20T08:{len(pai.runs()):02}:00Z"
    labels = {**EVALUATED, **(labels or {})}
    run_id: str = pai.add_run(name, labels=labels, metrics=metrics, gmt_create_time=created)
    return run_id


# --- refused when the DAG is parsed


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"metrics": {"accuracy": ">= 0,9"}},
            "metrics['accuracy']: expected nothing more:\n    >= 0,9\n        ^",
        ),
        ({"metrics": {}}, "holds no rules"),
        ({"metrics": "accuracy >= 0.9"}, "holds no rules"),
        ({"metrics": {"a": ">= {{ params.floor }}", "b": "high"}}, "metrics['b']: expected one of"),
        ({"metrics": {"a": "> baseline"}}, "baseline_labels"),
        ({"select": "best"}, "highest accuracy"),
        ({"on_fail": "ignore"}, "on_fail='ignore' must be 'skip' or 'fail'"),
        ({"missing_baseline": None}, "missing_baseline=None must be 'fail' or 'pass'"),
        ({"labels": None}, "no runs to judge: give runs, or one of experiment_id"),
        ({"labels": None, "workspace_id": "1"}, "no runs to judge"),
        ({"runs": ["run-1"], "labels": EVALUATED}, "runs and labels contradict each other"),
        ({"order_by": "Name ASC"}, "select says"),
        ({"follow_if_failed": "a"}, "goes with follow_if_passed"),
        ({"follow_if_failed": "a", "follow_if_passed": "b", "on_fail": "fail"}, "not with on_fail='fail'"),
    ],
)
def test_contradictions_and_mistakes_are_refused_when_the_dag_is_parsed(arguments, text):
    with pytest.raises(PaiUsageError) as caught:
        gate(**arguments)
    assert text in str(caught.value)


def test_what_only_the_running_task_knows_is_not_refused_when_the_dag_is_parsed():
    with new_dag() as dag:
        rules = step("rules")
        listed = PaiListRunsOperator(task_id="list", labels=EVALUATED)
        gate(task_id="a", metrics=rules)
        gate(task_id="b", metrics="{{ params.rules }}")
        gate(task_id="c", metrics={"a": ["{{ params.a }}", "> 1"]}, runs=listed.output)
        PaiRunGateOperator.partial(task_id="d", metrics={"a": "> 1"}).expand(runs=listed.output)
    assert serialize(dag).task_dict.keys() == {"rules", "list", "a", "b", "c", "d"}
    assert dag.get_task("c").upstream_task_ids == {"list"}


# --- which runs are judged


def test_runs_come_from_filters_or_from_other_tasks_in_any_form(pai):
    worse, better = evaluated(pai, "worse", accuracy=0.8), evaluated(pai, "better", accuracy=0.95)
    pai.add_run("unlabelled", metrics={"accuracy": 0.1})
    records = PaiListRunsOperator(task_id="list", labels=EVALUATED).execute({})
    mapped = iter([[records[0]], [], records[1], None])  # from several tasks, one of which pushed nothing
    for runs in (None, records, records[1], [worse, better], better, mapped):
        arguments = {} if runs is None else {"runs": runs}
        verdict = gate(**arguments).execute({})
        assert (verdict["passed"], verdict["run"]["run_id"]) == (True, better)
        assert verdict["run"] == records[1]


def test_runs_from_other_tasks_are_judged_as_they_were_pushed(pai):
    run_id = evaluated(pai, "drifting", accuracy=0.95)
    records = PaiListRunsOperator(task_id="list", labels=EVALUATED).execute({})
    pai.measure_run(run_id, {"accuracy": 0.5})
    assert gate(runs=records).execute({})["passed"]
    assert not gate(runs=run_id).execute({})["passed"]


def test_metrics_that_were_not_pushed_are_read_from_the_history(pai):
    evaluated(pai, "brief", accuracy=0.95)
    records = PaiListRunsOperator(task_id="list", experiment_id=pai.runs()[0]["ExperimentId"], verbose=False)
    verdict = gate(runs=records.execute({})).execute({})
    assert verdict["passed"]
    assert verdict["checks"][0]["read_from"] == "history"


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ({"path": "file:///runs.jsonl", "count": 3}, "a record with path, count, which is not a run"),
        ([{"run_id": "run-1", "metrics": [0.9]}], "which is not a run"),
        ([{"run_id": "run-1", "gmt_create_time": "yesterday"}], "which is not a run"),
        ("[{'run_id': 'run-1'}]", "runs came as text"),
        ([3], "holds 3, which is neither a run nor the id of one"),
        (["run-missing"], "PaiNotFoundError"),
        ([{"run_id": "run-1"}, {"run_id": "run-2"}, {"run_id": "run-3"}], "there are more than 2 runs"),
    ],
)
def test_what_is_not_a_run_fails_the_task_for_good(pai, runs, text):
    with pytest.raises(AirflowFailException) as caught:
        gate(runs=runs, max_runs=2).execute({})
    assert text in str(caught.value)


def test_the_newest_costs_one_run_and_all_are_bounded(pai):
    pai.add_runs(30, labels=EVALUATED, metrics={"accuracy": 0.95})
    assert gate(max_runs=2).execute({})["passed"]
    with pytest.raises(AirflowFailException, match="there are more than 2 runs"):
        gate(max_runs=2, select="all").execute({})


def test_non_finite_metrics_are_text_in_the_verdict_and_do_not_pass(pai):
    evaluated(pai, "diverged", accuracy=math.nan, loss=math.inf)
    records = PaiListRunsOperator(task_id="list", labels=EVALUATED).execute({})
    for arguments in ({}, {"runs": records}):
        verdict = gate(metrics={"accuracy": "< 1", "loss": "> 0"}, **arguments).execute({})
        assert not verdict["passed"]
        assert [check["value"] for check in verdict["checks"]] == ["NaN", "Infinity"]
        json.dumps(verdict, allow_nan=False)


def test_the_baseline_is_asked_for_only_where_a_rule_needs_it(pai):
    evaluated(pai, "champion", labels=CHAMPION, accuracy=0.91)
    evaluated(pai, "challenger", accuracy=0.92)
    pai.clear_requests()
    assert gate(baseline_labels=CHAMPION).execute({})["baseline_run_ids"] == []
    assert pai.request_counts == {"ListRuns": 1}
    metrics = {"accuracy": [">= 0.9", ">= baseline + 0.01"]}
    verdict = gate(baseline_labels="champion:true", metrics=metrics).execute({})
    assert verdict["passed"]
    assert verdict["checks"][1]["baseline"] == 0.91
    assert pai.request_counts == {"ListRuns": 3}


def test_a_transient_fault_is_left_to_airflows_retries(pai):
    pai.inject("server_error", times=None)
    with pytest.raises(PaiUnavailableError):
        gate().execute({})


# --- which tasks run afterwards


def refused(pai: Any, **arguments: Any) -> Ran:
    evaluated(pai, "weak", accuracy=0.5)
    with new_dag() as dag:
        decide = gate(**arguments)
        after = step("after")
        decide >> after >> step("later")
        after >> step("report", trigger_rule="all_done")
        decide >> step("clean_up").as_teardown(setups=decide.as_setup())
    return run_dag(dag)


def test_a_gate_that_did_not_pass_skips_its_direct_downstream_and_respects_trigger_rules(pai, caplog, capfd):
    caplog.set_level("INFO")
    ran = refused(pai)
    log = caplog.text + "".join(capfd.readouterr())
    assert "The gate did not pass: weak" in log
    assert re.search(r"FAIL +weak +accuracy +>= 0\.9 +0\.5 +- +0\.9 +run +0\.5 is not >= 0\.9", log)
    assert ran.states == {
        "gate": "success",
        "after": "skipped",
        "later": "skipped",
        "report": "success",
        "clean_up": "success",
    }
    verdict = ran.xcom("gate")
    assert not verdict["passed"]
    assert verdict["checks"][0]["reason"] == "0.5 is not >= 0.9"
    assert verdict["run"]["name"] == "weak"


def test_a_gate_that_did_not_pass_can_fail_without_a_retry(pai):
    ran = refused(pai, on_fail="fail", retries=2)
    assert (ran.states["gate"], ran.states["after"], ran.tries["gate"]) == ("failed", "upstream_failed", 1)
    assert "The gate did not pass: weak" in ran.error("gate")
    assert "accuracy >= 0.9: 0.5 is not >= 0.9" in ran.error("gate")
    assert ran.xcom("gate")["passed"] is False


@pytest.mark.parametrize("good", [True, False])
def test_each_outcome_has_its_own_branch(pai, good):
    evaluated(pai, "run", accuracy=0.95 if good else 0.5)
    with new_dag() as dag:
        decide = gate(follow_if_passed=["deploy"], follow_if_failed="keep")
        deploy, keep = step("deploy"), step("keep")
        decide >> [deploy, keep] >> step("join", trigger_rule="none_failed_min_one_success")
    ran = run_dag(dag)
    wanted = {"gate": "success", "join": "success", "deploy": "skipped", "keep": "skipped"}
    assert ran.states == {**wanted, "deploy" if good else "keep": "success"}
    assert ran.xcom("gate")["passed"] is good


def test_a_branch_that_does_not_exist_fails_before_anything_is_asked(pai):
    with new_dag() as dag:
        gate(follow_if_passed="deploy", follow_if_failed="kepe", retries=1) >> [step("deploy"), step("keep")]
    ran = run_dag(dag)
    assert (ran.states["gate"], ran.tries["gate"]) == ("failed", 1)
    assert "cannot follow 'kepe'" in ran.error("gate")
    assert pai.request_counts == {}


def test_the_winner_is_promoted_by_what_the_gate_pushed(pai):
    old = evaluated(pai, "old", labels=CHAMPION, accuracy=0.9)
    new = evaluated(pai, "new", accuracy=0.93)
    with new_dag(params={"margin": "0.02"}) as dag:
        listed = PaiListRunsOperator(task_id="list", labels=EVALUATED)
        decide = gate(
            runs=listed.output,
            select="highest accuracy",
            baseline_labels=CHAMPION,
            metrics={"accuracy": ">= baseline + {{ params.margin }}"},
        )
        promote = PaiPromoteRunOperator(
            task_id="promote", run_id="{{ ti.xcom_pull('gate').run.run_id }}", labels=CHAMPION
        )
        decide >> promote
    ran = run_dag(dag)
    assert set(ran.states.values()) == {"success"}
    assert ran.xcom("promote")["demoted_run_ids"] == [old]
    champions = [run["RunId"] for run in pai.runs() if run["Labels"].get("champion") == "true"]
    assert champions == [new]
    assert ran.xcom("gate")["checks"][0]["limit"] == 0.92


def test_each_of_several_runs_may_have_its_own_gate(pai):
    good, bad = evaluated(pai, "good", accuracy=0.95), evaluated(pai, "bad", accuracy=0.5)
    with new_dag() as dag:
        PaiRunGateOperator.partial(task_id="gate", metrics={"accuracy": ">= 0.9"}, on_fail="fail").expand(
            runs=[good, bad]
        )
    ran = run_dag(dag)
    assert ran.states == {("gate", 0): "success", ("gate", 1): "failed"}
    assert ran.xcom("gate", map_index=1)["run"]["name"] == "bad"
