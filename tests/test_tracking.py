# ruff: noqa: F401, F811 - fixtures come by import
"""The tasks that write: what they send, what they keep unchanged, and what a retry does."""

from __future__ import annotations

from typing import Any

import pytest
from airflow_db import airflow_db, new_dag, pai, run_dag

from airflow_provider_pai._compat import AirflowFailException
from airflow_provider_pai.api import PaiTransportError, PaiUnavailableError, PaiUsageError
from airflow_provider_pai.operators import (
    PaiCreateRunOperator,
    PaiLogRunMetricsOperator,
    PaiPromoteRunOperator,
    PaiUpdateRunOperator,
)

ROUND = {"labels": {"a": "1", "b": "2"}, "params": {"lr": "0.1", "depth": "3"}}


def stored(pai: Any, run_id: str) -> dict[str, Any]:
    (found,) = [run for run in pai.runs() if run["RunId"] == run_id]
    return dict(found)


def test_a_run_is_created_measured_updated_and_promoted_by_one_dag(pai):
    experiment_id = pai.add_experiment("digits")
    old = pai.add_run(labels={"champion": "true"})
    with new_dag(params={"accuracy": 0.93, "lr": 0.1}) as dag:
        create = PaiCreateRunOperator(
            task_id="create",
            experiment_id=experiment_id,
            name="run-of-{{ ds_nodash }}",
            labels="stage:training",
            run_params={"lr": "{{ params.lr }}", "depth": 3, "shuffle": True},
            source_type="DLC",
            source_id="dlc1",
        )
        run_id = "{{ ti.xcom_pull('create') }}"
        measure = PaiLogRunMetricsOperator(
            task_id="measure",
            run_id=run_id,
            metrics={"accuracy": "{{ params.accuracy }}", "n": 7},
            step="{{ 2 + 3 }}",
        )
        update = PaiUpdateRunOperator(
            task_id="update", run_id=run_id, labels={"stage": "{{ 'evaluated' }}"}, run_params={"depth": 4}
        )
        promote = PaiPromoteRunOperator(task_id="promote", run_id=run_id, labels="champion:true")
        create >> measure >> update >> promote
    ran = run_dag(dag)
    assert set(ran.states.values()) == {"success"}
    created = ran.xcom("create")
    run = stored(pai, created)
    assert (run["Name"], run["ExperimentId"]) == ("run-of-20251020", experiment_id)
    assert run["Labels"] == {"stage": "evaluated", "champion": "true"}
    assert run["Params"] == {"lr": "0.1", "depth": "4", "shuffle": "true"}
    assert run["Metrics"] == {"accuracy": 0.93, "n": 7.0}
    assert stored(pai, old)["Labels"] == {}
    assert ran.xcom("measure") == ran.xcom("update") == created
    assert ran.xcom("promote") == {
        "run_id": created,
        "labels": {"champion": "true"},
        "promoted": True,
        "demoted_run_ids": [old],
    }
    assert "dlc1" in (ran.button("create") or "")
    assert [run["RunId"] for run in pai.runs()] == [old, created]


@pytest.mark.parametrize("quirk", ["merge", "replace"])
@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"name": "new"}, {**ROUND, "name": "new"}),
        ({"labels": {"b": "3", "c": "4"}}, {**ROUND, "labels": {"a": "1", "b": "3", "c": "4"}}),
        ({"labels": "c:4"}, {**ROUND, "labels": {"a": "1", "b": "2", "c": "4"}}),
        ({"run_params": {"depth": 5}}, {**ROUND, "params": {"lr": "0.1", "depth": "5"}}),
        ({"labels": {}}, ROUND),
    ],
)
def test_an_update_keeps_what_it_does_not_name(pai, quirk, change, left):
    pai.quirks.update_labels = quirk
    run_id = pai.add_run("old", **ROUND)
    PaiUpdateRunOperator(task_id="update", run_id=run_id, **change).execute({})
    run = stored(pai, run_id)
    assert run["Name"] == left.get("name", "old")
    assert (run["Labels"], run["Params"]) == (left["labels"], left["params"])


def test_an_update_of_nothing_is_refused_when_the_dag_is_parsed():
    with pytest.raises(PaiUsageError, match="nothing to change"):
        PaiUpdateRunOperator(task_id="update", run_id="run-1")


def test_if_a_retry_logs_a_step_again_the_last_value_counts(pai):
    run_id = pai.add_run()
    for value in (0.5, 0.6):
        PaiLogRunMetricsOperator(task_id="log", run_id=run_id, metrics={"a": value}, step=1).execute({})
    assert stored(pai, run_id)["Metrics"] == {"a": 0.6}


@pytest.mark.parametrize(
    "operator",
    [
        lambda: PaiLogRunMetricsOperator(task_id="t", run_id="run-1", metrics={"a": "high"}),
        lambda: PaiLogRunMetricsOperator(task_id="t", run_id="run-1", metrics={"a": "nan"}),
        lambda: PaiLogRunMetricsOperator(task_id="t", run_id="run-1", metrics={"a": 1}, step="1.5"),
        lambda: PaiLogRunMetricsOperator(task_id="t", run_id="run-1", metrics={}),
        lambda: PaiLogRunMetricsOperator(task_id="t", run_id="run-missing", metrics={"a": 1}),
        lambda: PaiCreateRunOperator(task_id="t", experiment_id="exp-1", name="1 is not a name"),
        lambda: PaiUpdateRunOperator(task_id="t", run_id="run-missing", name="n"),
        lambda: PaiPromoteRunOperator(task_id="t", run_id="run-missing", labels="champion:true"),
        lambda: PaiPromoteRunOperator(task_id="t", run_id="run-1", labels="champion"),
    ],
)
def test_what_no_retry_can_fix_fails_the_task_for_good(pai, operator):
    with pytest.raises(AirflowFailException):
        operator().execute({})


def test_a_run_in_an_experiment_that_is_not_visible_yet_is_left_to_airflows_retries(pai):
    experiment_id = pai.add_experiment("new")
    pai.inject("error", action="CreateRun", status=404, code="NotFoundErrorProblem")
    with new_dag() as dag:
        PaiCreateRunOperator(task_id="create", experiment_id=experiment_id, retries=3)
    ran = run_dag(dag)
    assert (ran.states, ran.tries) == ({"create": "success"}, {"create": 2}), ran.errors
    assert "PaiExperimentNotFoundError" in ran.error("create")
    assert len(pai.runs()) == 1


def test_a_lost_answer_is_left_to_airflows_retries(pai):
    run_id, old = pai.add_run("new"), pai.add_run("old", labels={"champion": "true"})
    promote = PaiPromoteRunOperator(task_id="t", run_id=run_id, labels="champion:true")
    pai.inject("reset_after", action="UpdateRun")
    pai.inject("server_error", action="DeleteRunLabel")
    with pytest.raises(PaiTransportError):
        promote.execute({})
    assert stored(pai, run_id)["Labels"] == stored(pai, old)["Labels"] == {"champion": "true"}
    with pytest.raises(PaiUnavailableError):
        promote.execute({})
    assert promote.execute({})["demoted_run_ids"] == [old]
    assert promote.execute({}) == {
        "run_id": run_id,
        "labels": {"champion": "true"},
        "promoted": False,
        "demoted_run_ids": [],
    }


def test_a_promotion_changes_only_the_runs_that_among_matches(pai):
    digits = {"model": "digits"}
    old = pai.add_run(labels={**digits, "champion": "true"})
    other = pai.add_run(labels={"model": "letters", "champion": "true"})
    new = pai.add_run(labels=digits)
    done = PaiPromoteRunOperator(
        task_id="t", run_id=new, labels="champion:true", among="model:digits"
    ).execute({})
    assert done["demoted_run_ids"] == [old]
    assert stored(pai, other)["Labels"]["champion"] == "true"
