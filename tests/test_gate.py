# ruff: noqa: F401, F811 - fixtures come by import
"""The gate in a real Airflow: which tasks run after it, and what it logs and pushes."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from airflow_db import Ran, airflow_db, first, new_dag, pai, run_dag, serialize, task

from airflow_provider_pai._compat import AirflowFailException
from airflow_provider_pai.api import PaiUnavailableError, PaiUsageError
from airflow_provider_pai.operators import PaiListRunsOperator, PaiPromoteRunOperator, PaiRunGateOperator

task_group = first("task_group", "airflow.sdk", "airflow.decorators")
EVALUATED = {"is_evaluation": "true"}
CHAMPION = {"champion": "true"}

SETTINGS = ("select", "on_fail", "missing_baseline", "max_runs", "follow_if_passed")


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
        ({"max_runs": 0}, "max_runs=0 must be a whole number, at least 1"),
        ({"max_runs": "many"}, "max_runs='many' must be a whole number"),
        ({"max_runs": None}, "max_runs=None must be a whole number"),
        ({"follow_if_passed": 7}, "follow_if_passed=7 must be the id of a task or task group, or a list"),
        ({"follow_if_passed": iter(["a"])}, "must be the id of a task or task group, or a list"),
        ({"follow_if_passed": ["a", None]}, "follow_if_passed=['a', None] must be the id"),
        ({"labels": None}, "no runs to judge: give runs, or one of run_id"),
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
        gate(task_id="e", **{name: "{{ params.x }}" for name in SETTINGS})
        gate(task_id="f", **dict.fromkeys(SETTINGS, rules))
        PaiRunGateOperator.partial(task_id="d", metrics={"a": "> 1"}).expand(runs=listed.output)
    assert serialize(dag).task_dict.keys() == {"rules", "list", *"abcdef"}
    assert dag.get_task("c").upstream_task_ids == {"list"}


# --- settings that come from params and other tasks


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("passes", [False, True])
def test_every_setting_may_come_from_params(pai, native, passes):
    evaluated(pai, "good", accuracy=0.95)
    evaluated(pai, "weak", accuracy=0.5)
    params = {"select": "highest accuracy" if passes else "all", "policy": "pass", "most": 2}
    params |= {"way": "deploy", "other": "keep"}
    with new_dag(params=params, render_template_as_native_obj=native) as dag:
        decide = gate(
            metrics={"accuracy": [">= 0.9", ">= baseline"]},
            baseline_labels=CHAMPION,
            select="{{ params.select }}",
            missing_baseline="{{ params.policy }}",
            on_fail="{{ 'skip' if params.most else 'fail' }}",
            max_runs="{{ params.most }}",
            follow_if_passed=["{{ params.way }}"],
            follow_if_failed="{{ params.other }}",
        )
        decide >> [step("deploy"), step("keep")]
    states = run_dag(dag).states
    assert (states["gate"], states["deploy"]) == ("success", "success" if passes else "skipped")
    assert states["keep"] == ("skipped" if passes else "success")


@pytest.mark.parametrize("source", ["text", "native", "task"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_turns_out_to_be_nothing_fails_the_task_before_it_asks(pai, name, source):
    evaluated(pai, "good", accuracy=0.95)
    with new_dag(render_template_as_native_obj=source == "native") as dag:

        @task
        def nothing() -> None:
            return None

        decide = gate(**{name: nothing() if source == "task" else "{{ None }}", "retries": 1})
        decide >> step("deploy")
    ran = run_dag(dag)
    assert (ran.states["gate"], ran.states["deploy"], ran.tries["gate"]) == ("failed", "upstream_failed", 1)
    assert "None" in ran.error("gate")
    assert pai.request_counts == {}


def test_on_fail_from_params_fails_the_task_and_does_not_skip_where_it_cannot(pai):
    runs = good_and_bad(pai)
    for policy, states in (("fail", ["success", "failed"]), ("skip", ["failed", "failed"])):
        with new_dag(params={"policy": policy}) as dag:

            @task_group
            def each(run: str) -> None:
                gate(runs=run, on_fail="{{ params.policy }}") >> step("deploy")

            each.expand(run=runs)
        ran = run_dag(dag)
        assert [ran.states["each.gate", index] for index in (0, 1)] == states
        expected = ["success" if state == "success" else "upstream_failed" for state in states]
        assert [ran.states["each.deploy", index] for index in (0, 1)] == expected


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
        ([3], "holds 3, which is neither a run nor a run id"),
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


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"labels": "a:b, c:d"}, "no run matches labels='a:b, c:d'"),
        (
            {"labels": {"a": "b"}, "name": "mine", "created_after": "2025-10-20T00:00:00Z"},
            "no run matches name='mine', labels='a:b', created_after='2025-10-20T00:00:00Z'",
        ),
        ({"runs": []}, "runs is empty"),
    ],
)
@pytest.mark.parametrize("select", ["newest", "all"])
def test_a_gate_without_a_run_says_what_found_none(pai, arguments, reason, select):
    evaluated(pai, "other", accuracy=0.95)
    verdict = gate(select=select, **arguments).execute({})
    assert not verdict["passed"]
    assert verdict["reason"] == f"there is no run to judge: {reason}"


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


@pytest.mark.parametrize("values", ["float64", "float32"])
def test_a_gate_decides_the_same_whether_pai_keeps_32_bits_or_64(pai, values):
    pai.quirks.metric_values = values
    evaluated(pai, "champion", labels=CHAMPION, accuracy=0.93)
    evaluated(pai, "challenger", accuracy=0.94)
    for rule, passed in {
        ">= baseline + 0.01": True,
        ">= 0.95": False,
        "max >= 0.94": True,
        "> 0.94": False,
    }.items():
        verdict = gate(baseline_labels=CHAMPION, metrics={"accuracy": rule}).execute({})
        assert verdict["passed"] is passed, rule


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


def test_a_followed_task_group_must_be_directly_downstream(pai):
    with new_dag() as dag:

        @task_group
        def far() -> None:
            step("deploy")

        decide, near = gate(follow_if_passed="far"), step("near")
        decide >> [near, step("other")]
        near >> far()
    ran = run_dag(dag)
    assert set(ran.states.values()) == {"failed", "upstream_failed"}
    assert "cannot follow 'far', which is not directly downstream. Downstream are: near, other." in ran.error(
        "gate"
    )
    assert pai.request_counts == {}


@pytest.mark.parametrize("good", [True, False])
def test_a_task_group_directly_downstream_can_be_followed(pai, good):
    evaluated(pai, "run", accuracy=0.95 if good else 0.5)
    with new_dag() as dag:

        @task_group
        def release() -> None:
            @task_group
            def inner() -> None:
                step("deploy")

            inner() >> step("announce")

        gate(follow_if_passed="release", follow_if_failed="keep") >> [release(), step("keep")]
    way, other = ("success", "skipped") if good else ("skipped", "success")
    assert run_dag(dag).states == {
        "gate": "success",
        "release.inner.deploy": way,
        "release.announce": way,
        "keep": other,
    }


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


# --- mapped


def good_and_bad(pai: Any) -> list[str]:
    return [evaluated(pai, "good", accuracy=0.95), evaluated(pai, "bad", accuracy=0.5)]


def test_each_of_several_runs_may_have_its_own_gate(pai):
    with new_dag() as dag:
        mapped = PaiRunGateOperator.partial(
            task_id="gate", metrics={"accuracy": ">= 0.9"}, on_fail="fail"
        ).expand(runs=good_and_bad(pai))
        mapped >> step("deploy")
        mapped >> step("collect", trigger_rule="all_done")
    ran = run_dag(dag)
    assert ran.states == {
        ("gate", 0): "success",
        ("gate", 1): "failed",
        "deploy": "upstream_failed",
        "collect": "success",
    }
    assert ran.xcom("gate", map_index=1)["run"]["name"] == "bad"


def test_a_gate_in_a_mapped_task_group_lets_only_the_good_instances_continue(pai):
    with new_dag() as dag:

        @task_group
        def each(run: str) -> None:
            gate(runs=run, on_fail="fail") >> step("deploy") >> step("announce")

        each.expand(run=good_and_bad(pai))
    states = run_dag(dag).states
    assert [states["each.gate", index] for index in (0, 1)] == ["success", "failed"]
    for task_id in ("each.deploy", "each.announce"):
        assert [states[task_id, index] for index in (0, 1)] == ["success", "upstream_failed"]


@pytest.mark.parametrize(
    "arguments",
    [{}, {"follow_if_passed": "each.deploy"}, {"on_fail": "fail", "follow_if_passed": "each.deploy"}],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_gate_that_could_not_skip_is_refused_when_the_dag_is_parsed(airflow_db, arguments, nested):
    with new_dag():

        @task_group
        def inner(run: str) -> None:
            gate(runs=run, **arguments) >> step("deploy")

        @task_group
        def each(run: str) -> None:
            inner(run)

        with pytest.raises(PaiUsageError, match=r"the gate is mapped, .* Write on_fail='fail'"):
            (each if nested else inner).expand(run=["run-1", "run-2"])


@pytest.mark.parametrize(
    "arguments", [{}, {"follow_if_passed": "deploy"}, {"on_fail": "fail", "follow_if_passed": "deploy"}]
)
@pytest.mark.parametrize("mapped_too", [False, True])
def test_a_mapped_gate_that_could_not_skip_fails_although_its_runs_are_good(pai, arguments, mapped_too):
    good = [evaluated(pai, "good", accuracy=0.95), evaluated(pai, "better", accuracy=0.96)]
    with new_dag() as dag:

        @task
        def deploy(number: int = 0) -> None:
            pass

        decide = PaiRunGateOperator.partial(
            task_id="gate", metrics={"accuracy": ">= 0.9"}, retries=1, **arguments
        ).expand(runs=good)
        decide >> (deploy.expand(number=[1, 2]) if mapped_too else deploy())
    ran = run_dag(dag)
    assert {ran.states.pop(("gate", index)) for index in (0, 1)} == {"failed"}
    assert set(ran.states.values()) == {"upstream_failed"}
    assert {ran.tries["gate", index] for index in (0, 1)} == {1}
    assert all("docs/gating.md shows it" in str(error) for error in ran.errors["gate"])
    assert pai.request_counts == {}


def test_a_mapped_gate_with_nothing_to_skip_needs_no_other_policy(pai):
    with new_dag() as dag:
        decide = PaiRunGateOperator.partial(task_id="gate", metrics={"accuracy": ">= 0.9"}).expand(
            runs=good_and_bad(pai)
        )
        decide >> step("clean_up").as_teardown(setups=step("set_up"))
    ran = run_dag(dag)
    assert set(ran.states.values()) == {"success"}
    assert [ran.xcom("gate", map_index=index)["passed"] for index in (0, 1)] == [True, False]


@pytest.mark.parametrize("known", [True, False])
def test_a_gate_that_did_not_pass_skips_mapped_tasks_whose_number_is_known_or_not(pai, known):
    evaluated(pai, "weak", accuracy=0.5)
    with new_dag() as dag:

        @task
        def numbers() -> list[int]:
            return [1, 2]

        @task
        def deploy(number: int) -> None:
            pass

        @task_group
        def each(number: int) -> None:
            deploy.override(task_id="in_group")(number) >> step("announce")

        number: Any = [1, 2] if known else numbers()
        gate() >> [deploy.expand(number=number), each.expand(number=number)]
    states = run_dag(dag).states
    del states["gate"]
    states.pop("numbers", None)
    assert len(states) == (6 if known else 3)
    assert set(states.values()) == {"skipped"}
