# ruff: noqa: F401, F811 - fixtures come by import
"""The tasks that write: what they send, what they keep unchanged, and what a retry does."""

from __future__ import annotations

from typing import Any

import pytest
from airflow_db import airflow_db, new_dag, pai, run_dag, task

from airflow_provider_pai._compat import AirflowFailException
from airflow_provider_pai.api import PaiTransportError, PaiUnavailableError, PaiUsageError
from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.operators import (
    PaiCreateExperimentOperator,
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
        lambda: PaiLogRunMetricsOperator(task_id="t", run_id="run-1", metrics="accuracy"),
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


# --- what a task creates it finds again


def fails_at_first(context: Any, result: Any = None) -> None:
    """Fail a task after it has done its work, in its first try."""
    if context["ti"].try_number == 1:
        raise RuntimeError("the first try fails")


def test_an_experiment_is_created_once_and_its_id_is_handed_on(pai):
    with new_dag(params={"team": "vision"}) as dag:
        new = PaiCreateExperimentOperator(
            task_id="new",
            name="{{ params.team }}",
            labels={"team": "{{ params.team }}"},
            accessibility="PUBLIC",
            retries=1,
            post_execute=fails_at_first,
        )
        found = PaiCreateExperimentOperator(task_id="found", name="vision", accessibility="PRIVATE")
        run = PaiCreateRunOperator(task_id="run", experiment_id=found.output)
        new >> found >> run
    ran = run_dag(dag)
    assert (ran.state, ran.tries["new"]) == ("success", 2), ran.errors
    (experiment,) = pai.state.experiments(pai.workspace_id)
    assert experiment["ExperimentId"] == ran.xcom("new") == ran.xcom("found")
    assert (experiment["Name"], experiment["Accessibility"]) == ("vision", "PUBLIC")
    assert [label["Value"] for label in experiment["Labels"]] == ["vision"]
    assert stored(pai, ran.xcom("run"))["ExperimentId"] == experiment["ExperimentId"]
    assert "#/workspace/overview" in str(ran.button("new"))


def test_an_experiment_goes_to_the_workspace_that_is_named(pai):
    other = pai.add_workspace("other")
    made = PaiCreateExperimentOperator(task_id="t", name="e", workspace_id=other).execute({})
    assert [each["ExperimentId"] for each in pai.state.experiments(other)] == [made]


@pytest.mark.parametrize("quirk", ["merge", "replace"])
def test_a_run_that_is_used_again_is_one_run(pai, quirk):
    pai.quirks.update_labels = quirk
    experiment_id = pai.add_experiment("digits")
    given = {"labels": {"stage": "{{ ti.try_number }}"}, "run_params": {"try": "{{ ti.try_number }}"}}

    def somebody_labels_it_meanwhile(_: Any) -> None:
        for run in pai.runs(labels={"stage": "1"}):
            pai.label_run(run["RunId"], {"kept": "yes"})

    with new_dag() as dag:
        PaiCreateRunOperator(
            task_id="create",
            experiment_id=experiment_id,
            name="night",
            reuse=True,
            retries=1,
            pre_execute=somebody_labels_it_meanwhile,
            post_execute=fails_at_first,
            source_type="DLC",
            source_id="dlc1",
            **given,
        )
        PaiCreateRunOperator.partial(task_id="each", experiment_id=experiment_id, reuse=True).expand(
            name=["a", "b"]
        )
    ran = run_dag(dag)
    assert (ran.state, ran.tries["create"]) == ("success", 2), ran.errors
    assert sorted(run["Name"] for run in pai.runs()) == ["a", "b", "night"]
    run = stored(pai, ran.xcom("create"))
    assert run["SourceId"] == "dlc1"
    assert run["Labels"].items() >= {"stage": "2", "kept": "yes"}.items()
    assert "airflow_state" not in run["Labels"]
    assert (
        run["Params"].items() >= {"try": "2", "airflow_task_id": "create", "airflow_try_number": "2"}.items()
    )
    found = {found.run_id for found in PaiHook().find_runs((dag.dag_id, ran.run_id))}
    assert found == {run["RunId"] for run in pai.runs()}
    assert {ran.xcom("each", map_index=index) for index in (0, 1)} == found - {run["RunId"]}
    assert pai.request_counts["ListRuns"] == 5  # one after each creation, one in the retry, and ours


def test_a_run_is_used_again_where_its_task_tracks_it_too(pai):
    with new_dag() as dag:

        @task.pai_run(experiment="digits", retries=1)
        def train(pai_run: Any = None, ti: Any = None) -> str:
            if ti.try_number == 1:
                raise RuntimeError("the first try fails")
            create = PaiCreateRunOperator(task_id="within", experiment_id=pai_run.experiment_id, reuse=True)
            return create.execute({"ti": ti})

        train()
    ran = run_dag(dag)
    assert ran.state == "success", ran.errors
    assert ran.xcom("train") == ran.xcom("train", "pai_run_id")
    assert len(pai.runs()) == 1


def test_a_run_in_another_workspace_is_found_again(pai, monkeypatch):
    other = pai.add_workspace("other")
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", pai.connection_uri.replace(pai.workspace_id, other))
    experiment_id = pai.add_experiment("digits", workspace_id=other)
    with new_dag() as dag:
        PaiCreateRunOperator(
            task_id="create",
            experiment_id=experiment_id,
            pai_conn_id="other",
            reuse=True,
            retries=1,
            post_execute=fails_at_first,
        )
    assert run_dag(dag).tries == {"create": 2}
    for _ in range(2):
        with PaiHook("other").track("digits", key="k"):
            pass
    assert {run["WorkspaceId"] for run in pai.runs()} == {other}
    assert len(pai.runs()) == 2


def test_a_lost_answer_makes_no_second_run_where_it_is_used_again(pai):
    experiment_id = pai.add_experiment("digits")
    pai.inject("reset_after", action="CreateRun")
    with new_dag() as dag:
        PaiCreateRunOperator(task_id="create", experiment_id=experiment_id, reuse=True)
    ran = run_dag(dag)
    assert [run["RunId"] for run in pai.runs()] == [ran.xcom("create")]


def test_a_retry_in_an_experiment_that_is_not_visible_yet_is_left_to_airflows_retries_too(pai):
    experiment_id = pai.add_experiment("new")
    for action in ("CreateRun", "ListRuns"):
        pai.inject("error", action=action, status=404, code="NotFoundErrorProblem", times=2)
    with new_dag() as dag:
        PaiCreateRunOperator(task_id="create", experiment_id=experiment_id, reuse=True, retries=3)
    ran = run_dag(dag)
    assert (ran.states, ran.tries) == ({"create": "success"}, {"create": 3}), ran.errors
    assert len(pai.runs()) == 1


def test_what_cannot_be_used_again_is_refused_when_the_dag_is_parsed():
    with pytest.raises(PaiUsageError, match="reuse='yes' must be True or False"):
        PaiCreateRunOperator(task_id="t", experiment_id="exp-1", reuse="yes")
    for labels in ({"airflow_task": "mine"}, {"a": "{{ b }}", "airflow_state": "good"}, "airflow_dag_run:1"):
        with pytest.raises(PaiUsageError, match="is set by the provider itself"):
            PaiCreateRunOperator(task_id="t", experiment_id="exp-1", labels=labels, reuse=True)


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
