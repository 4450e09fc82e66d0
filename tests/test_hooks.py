# ruff: noqa: F401, F811 - fixtures come by import
"""PaiHook: every public method, from the connection to PAI and back."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from airflow_db import SECRET, airflow_db, first, new_dag, pai, run_dag, task

from airflow_provider_pai import api
from airflow_provider_pai.hooks import PaiHook

NEXT_YEAR = "2999-01-01T00:00:00Z"


@pytest.fixture
def hook(pai: Any) -> PaiHook:
    return PaiHook()


def names(runs: Any) -> list[str | None]:
    return [run.name for run in runs]


def connection(emulator: Any, **fields: Any) -> str:
    """A connection to the emulator as JSON, with other fields."""
    own = {"conn_type": "pai", "login": emulator.access_key_id, "password": SECRET, "host": emulator.url}
    return json.dumps({**own, **fields})


# --- what is read, and when -------------------------------------------------------------------------------


def test_making_a_hook_reads_nothing() -> None:
    hook = PaiHook("nobody_made_this", region="no-such-region", workspace_id=1)
    assert hook.pai_conn_id == "nobody_made_this"


def test_what_cannot_be_asked_is_refused_before_the_connection_is_read() -> None:
    hook = PaiHook("nobody_made_this")
    with pytest.raises(api.PaiUsageError, match="labels"):
        hook.list_runs(labels="is_evaluation=true")
    with pytest.raises(api.PaiUsageError, match="page_nubmer"):
        hook.list_runs_page(page_nubmer=1)


def test_a_missing_connection_is_airflows_own_error() -> None:
    not_found = first("AirflowNotFoundException", "airflow.sdk.exceptions", "airflow.exceptions")
    with pytest.raises(not_found, match="nobody_made_this"):
        PaiHook("nobody_made_this").list_runs()


def test_a_hook_keeps_one_client_until_it_is_closed(hook: PaiHook) -> None:
    client = hook.client()
    assert client is hook.client() is hook.get_conn()
    hook.close()
    hook.close()
    assert hook.client() is not client
    assert hook.list_runs() == []


def test_a_client_runs_any_flow(hook: PaiHook, pai: Any) -> None:
    run_id = pai.add_run("one")
    assert hook.client().run(api.get_run(run_id)).name == "one"


def test_the_async_client_runs_the_same_flows(hook: PaiHook, pai: Any) -> None:
    run_id = pai.add_run("one")

    async def ask() -> list[str | None]:
        async with hook.async_client() as client:
            found, run = await asyncio.gather(
                client.run(api.list_runs(api.RunQuery())), client.run(api.get_run(run_id))
            )
            return [*names(found), run.name]

    assert asyncio.run(ask()) == ["one", "one"]


def test_the_async_client_says_too_that_a_connection_is_missing() -> None:
    async def ask() -> None:
        async with PaiHook("nobody_made_this").async_client():
            raise AssertionError("there is no such connection")

    not_found = first("AirflowNotFoundException", "airflow.sdk.exceptions", "airflow.exceptions")
    with pytest.raises(not_found, match="nobody_made_this"):
        asyncio.run(ask())


# --- listing ----------------------------------------------------------------------------------------------


@pytest.fixture
def stocked(pai: Any) -> Any:
    """Five runs that differ in every field that has a filter."""
    experiment = pai.add_experiment("first")
    other = pai.add_experiment("second")
    elsewhere = pai.add_experiment("third", workspace_id="145884")
    for number, fields in enumerate(
        [
            {
                "name": "a",
                "experiment_id": experiment,
                "labels": {"e": "true", "x": "1"},
                "metrics": {"accuracy": 0.9},
            },
            {
                "name": "b",
                "experiment_id": experiment,
                "labels": {"e": "true"},
                "source_type": "DLC",
                "source_id": "d1",
            },
            {
                "name": "c",
                "experiment_id": other,
                "labels": {"e": "false"},
                "source_type": "DLC",
                "source_id": "d2",
            },
            {"name": "d", "experiment_id": other, "params": {"lr": "0.1"}, "source_type": "TrainingService"},
            {"name": "e", "experiment_id": elsewhere, "labels": {"e": "true"}},
        ]
    ):
        pai.add_run(**{**fields, "gmt_create_time": f"2025-10-2{number}T08:00:00Z"})
    pai.first, pai.second = experiment, other
    return pai


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, "abcd"),
        ({"labels": "e:true"}, "ab"),
        ({"labels": {"e": "true", "x": "1"}}, "a"),
        ({"labels": "e:true,x:1"}, "a"),
        ({"workspace_id": "145884"}, "e"),
        ({"workspace_id": 145884}, "e"),
        ({"name": "b"}, "b"),
        ({"name": "B"}, ""),
        ({"source_type": "DLC"}, "bc"),
        ({"source_id": "d2"}, "c"),
        ({"source_type": "DLC", "source_id": "d1", "labels": "e:false"}, ""),
        ({"created_after": "2025-10-22T08:00:00Z"}, "cd"),
        ({"created_after": "2025-10-22T10:00:00+02:00"}, "cd"),
        ({"created_before": "2025-10-22T08:00:00Z"}, "ab"),
        ({"created_after": "2025-10-21T00:00:00Z", "created_before": "2025-10-22T09:00:00Z"}, "bc"),
        ({"order_by": "Name DESC"}, "dcba"),
        ({"order_by": "GmtCreateTime DESC"}, "dcba"),
        ({"order_by": "GmtCreateTime DESC", "max_runs": 3, "page_size": 2}, "dcb"),
        ({"max_runs": 2}, "ab"),
        ({"max_runs": 2, "created_after": "2025-10-21T00:00:00Z", "page_size": 1}, "bc"),
        ({"page_size": 1}, "abcd"),
        ({"labels": "e:true", "verbose": False}, "ab"),
    ],
)
def test_list_runs_returns_what_matches_every_filter_in_order(
    hook: PaiHook, stocked: Any, asked: dict[str, Any], found: str
) -> None:
    assert "".join(names(hook.list_runs(**asked))) == found  # type: ignore[arg-type]
    assert sorted(names(hook.iter_runs(**asked))) == sorted(found)  # type: ignore[type-var]


def test_list_runs_by_experiment(hook: PaiHook, stocked: Any) -> None:
    assert names(hook.list_runs(experiment_id=stocked.second)) == ["c", "d"]


def test_without_verbose_there_are_no_details_unless_labels_need_them(hook: PaiHook, stocked: Any) -> None:
    assert [run.labels for run in hook.list_runs(name="a", verbose=False)] == [{}]
    assert [run.labels for run in hook.list_runs(name="a")] == [{"e": "true", "x": "1"}]
    assert [run.metrics[0].value for run in hook.list_runs(name="a")] == [0.9]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"nmae": "a"}, "'nmae'.*'name'"),
        ({"nmae": None}, "'nmae'.*'name'"),
        ({"labels": "a,b:c"}, "'a'"),
        ({"labels": {"a": "b=c"}}, "'b=c'"),
        ({"labels": {"a": True}}, "'true'"),
        ({"created_after": "2025-10-20T08:00:00"}, "time zone"),
        ({"created_after": "yesterday"}, "yesterday"),
        ({"created_after": NEXT_YEAR, "created_before": "2025-01-01T00:00:00Z"}, "no run could match"),
        ({"order_by": "Created"}, "GmtCreateTime"),
        ({"page_size": 0}, "page_size=0"),
        ({"page_size": "10"}, "page_size='10'"),
        ({"max_runs": 0}, "max_runs=0"),
        ({"max_runs": -1}, "max_runs=-1"),
        ({"workspace_id": ""}, "workspace_id is empty"),
        ({"experiment_id": ""}, "experiment_id is empty"),
        ({"verbose": "false"}, "verbose"),
        ({"workspace_id": None}, "workspace_id is None. Leave it out"),
        ({"experiment_id": None}, "experiment_id is None. Leave it out"),
        ({"labels": None}, "labels is None. Leave it out"),
        ({"labels": {}}, "labels is {}. Leave it out"),
        ({"labels": "{'a': 'b'}"}, "hand the task's output on|Hand the task's output on"),
        ({"created_after": None, "name": "a"}, "created_after is None. Leave it out"),
    ],
)
@pytest.mark.parametrize("method", ["list_runs", "iter_runs"])
def test_bad_filters_are_refused_without_a_request(
    hook: PaiHook,
    pai: Any,
    method: str,
    asked: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(api.PaiUsageError, match=words):
        list(getattr(hook, method)(**asked))
    assert pai.requests == []


def test_iter_runs_asks_only_for_the_pages_that_are_read(hook: PaiHook, pai: Any) -> None:
    pai.add_runs(25)
    runs = hook.iter_runs(page_size=10)
    assert pai.request_counts.get("ListRuns", 0) == 0
    for read, requests in [(1, 1), (9, 1), (1, 2), (9, 2), (1, 3)]:
        for _ in range(read):
            next(runs)
        assert pai.request_counts["ListRuns"] == requests
    assert len(list(runs)) == 4
    assert pai.request_counts["ListRuns"] == 3


def test_iter_runs_stops_asking_at_max_runs(hook: PaiHook, pai: Any) -> None:
    pai.add_runs(25)
    assert len(list(hook.iter_runs(page_size=10, max_runs=12))) == 12
    assert pai.request_counts["ListRuns"] == 2


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, "dcba"),
        ({"name": "a"}, "a"),
        ({"workspace_id": "145884"}, "e"),
        ({"workspace_id": 145884}, "e"),
        ({"source_type": "DLC"}, "cb"),
        ({"source_id": "d1"}, "b"),
        ({"labels": "e:true"}, "ba"),
        ({"labels": {"e": "true", "x": "1"}}, "a"),
        ({"verbose": True}, "dcba"),
        ({"gmt_create_time": "2025-10-21T08:00:00Z"}, "b"),
        ({"order_by": "GmtCreateTime ASC,Name DESC"}, "abcd"),
        ({"max_results": 2, "page_token": 0}, "dc"),
        ({"max_results": 2, "page_token": 2}, "ba"),
        ({"page_number": 2, "page_size": 3}, "a"),
        ({"sort_by": "Name", "order": "ASC"}, "abcd"),
    ],
)
def test_list_runs_page_takes_every_documented_parameter(
    hook: PaiHook, stocked: Any, asked: dict[str, Any], found: str
) -> None:
    page = hook.list_runs_page(**asked)
    assert "".join(names(page.runs)) == found  # type: ignore[arg-type]
    assert page.request_id


def test_list_runs_page_by_experiment_has_a_token_for_the_next_page(hook: PaiHook, stocked: Any) -> None:
    page = hook.list_runs_page(experiment_id=stocked.first, max_results=1)
    assert (names(page.runs), page.total_count) == (["b"], 2)
    page = hook.list_runs_page(experiment_id=stocked.first, max_results=1, page_token=page.next_page_token)
    assert (names(page.runs), page.next_page_token) == (["a"], 0)


@pytest.mark.parametrize(
    "asked",
    [
        {"page_token": 0, "page_number": 1},
        {"max_results": 10, "page_size": 10},
        {"order_by": "Name ASC", "order": "DESC"},
        {"order_by": "Name ASC", "sort_by": "Name"},
    ],
)
def test_list_runs_page_refuses_what_contradicts_itself(
    hook: PaiHook, pai: Any, asked: dict[str, Any]
) -> None:
    with pytest.raises(api.PaiUsageError, match="contradict"):
        hook.list_runs_page(**asked)
    assert pai.requests == []


# --- the workspace ----------------------------------------------------------------------------------------


def test_the_nearest_workspace_counts(pai: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    third = pai.add_workspace("third")
    for name, workspace_id in [("default", "145883"), ("connection", "145884"), ("hook", third)]:
        pai.add_run(name, workspace_id=workspace_id)
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", connection(pai, extra={"workspace_id": 145884}))
    assert names(PaiHook("elsewhere").list_runs()) == ["connection"]
    assert names(PaiHook("elsewhere").list_runs_page().runs) == ["connection"]
    assert names(PaiHook("elsewhere", workspace_id=int(third)).list_runs()) == ["hook"]
    assert names(PaiHook("elsewhere", workspace_id=third).list_runs(workspace_id="145883")) == ["default"]


@pytest.mark.parametrize("method", ["list_runs", "iter_runs", "list_runs_page", "list_experiments"])
def test_the_log_says_that_the_default_workspace_answers(
    pai: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ANYWHERE", connection(pai))
    assert "default workspace" in logged(PaiHook("anywhere"), method, capsys)
    assert "default workspace" not in logged(PaiHook(), method, capsys)


def logged(hook: PaiHook, method: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a hook logs while a method runs. Outside a task Airflow 3.3's logger writes to stdout."""
    capsys.readouterr()
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("airflow.task.hooks.airflow_provider_pai.hooks.PaiHook")
    level, logger.level = logger.level, logging.INFO
    logger.addHandler(handler)
    try:
        getattr(hook, method)()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return capsys.readouterr().out + "".join(record.getMessage() for record in records)


# --- one run, its metrics, and experiments ----------------------------------------------------------------


def test_a_run_from_its_creation_to_its_end(hook: PaiHook, pai: Any) -> None:
    experiment = pai.add_experiment("first")
    run_id = hook.create_run(
        experiment, name="one", labels="stage:training", params={"lr": 0.1}, source_type="DLC", source_id="d1"
    )
    hook.update_run(run_id, name="two")
    hook.set_run_labels(run_id, {"is_evaluation": "true"})
    hook.log_run_metrics(run_id, {"accuracy": 0.5}, step=1)
    hook.log_run_metrics(run_id, {"accuracy": 0.93, "loss": 1e-3}, step=2)
    run = hook.get_run(run_id)
    assert (run.name, run.source_id, run.params) == ("two", "d1", {"lr": "0.1"})
    assert run.labels == {"stage": "training", "is_evaluation": "true"}
    assert run.to_dict()["metrics"] == {"accuracy": 0.93, "loss": 1e-3}
    assert [metric.value for metric in hook.list_run_metrics(run_id, "accuracy")] == [0.5, 0.93]
    every = [(metric.key, metric.value) for metric in hook.list_run_metrics(run_id)]
    assert every == [("accuracy", 0.5), ("accuracy", 0.93), ("loss", 1e-3)]
    with pytest.raises(api.PaiNotFoundError, match="no metric 'acuracy'; it has 'accuracy', 'loss'"):
        hook.list_run_metrics(run_id, "acuracy")
    hook.delete_run_label(run_id, "stage")
    assert hook.get_run(run_id).labels == {"is_evaluation": "true"}
    hook.delete_run(run_id)
    with pytest.raises(api.PaiNotFoundError, match=run_id):
        hook.get_run(run_id)


def test_an_experiment_from_its_creation_to_its_end(hook: PaiHook) -> None:
    made = hook.create_experiment(
        "first", labels={"team": "a"}, artifact_uri="oss://b/c", accessibility="PUBLIC"
    )
    found = hook.get_experiment(made)
    assert (found.name, found.workspace_id, found.accessibility) == ("first", "145883", "PUBLIC")
    hook.update_experiment(made, name="second")
    hook.set_experiment_labels(made, "state:done")
    (listed,) = hook.list_experiments(name="second", labels={"state": "done"})
    assert listed.labels == {"team": "a", "state": "done"}
    hook.delete_experiment_label(made, "team")
    assert hook.get_experiment(made).labels == {"state": "done"}
    hook.delete_experiment(made)
    assert hook.list_experiments() == []
    for filters in ({"name": None}, {"labels": None}, {"labels": {}}, {"name": ""}, {"workspace_id": None}):
        with pytest.raises(api.PaiUsageError, match="Leave it out to ask for any"):
            hook.list_experiments(**filters)
    with pytest.raises(api.PaiUsageError, match="Did you mean 'name'"):
        hook.list_experiments(names="second")


def test_an_experiment_without_a_named_workspace_goes_to_the_default_one(
    pai: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ANYWHERE", connection(pai))
    made = PaiHook("anywhere").create_experiment("first")
    assert PaiHook().get_experiment(made).workspace_id == "145883"
    made = PaiHook("anywhere", workspace_id=145884).create_experiment("other")
    assert PaiHook().get_experiment(made).workspace_id == "145884"


def test_an_experiment_is_found_or_created(pai: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ANYWHERE", connection(pai))
    made = PaiHook("anywhere").get_or_create_experiment("first", labels={"team": "a"})
    assert PaiHook().get_or_create_experiment("first", labels={"team": "b"}) == made
    found = PaiHook().get_experiment(made)
    assert (found.workspace_id, found.labels) == ("145883", {"team": "a"})
    other = PaiHook(workspace_id=145884).get_or_create_experiment("first")
    assert PaiHook().get_or_create_experiment("first", workspace_id="145884") == other != made
    with pytest.raises(api.PaiUsageError, match="name is empty"):
        PaiHook("nobody_made_this").get_or_create_experiment("")
    with pytest.raises(api.PaiUsageError, match="name is empty"):
        PaiHook("nobody_made_this").create_experiment("")


def test_workspaces_are_listed(hook: PaiHook) -> None:
    assert {found.workspace_id for found in hook.list_workspaces()} == {"145883", "145884"}
    assert hook.get_default_workspace().workspace_id == "145883"


@pytest.mark.parametrize(
    ("method", "arguments", "error"),
    [
        ("get_run", ["run-none"], api.PaiNotFoundError),
        ("update_run", ["run-none"], api.PaiUsageError),
        ("get_run", [""], api.PaiUsageError),
        ("delete_run", ["run-none"], api.PaiNotFoundError),
        ("create_run", ["exp-none"], api.PaiNotFoundError),
        ("get_experiment", ["exp-none"], api.PaiNotFoundError),
        ("set_run_labels", ["run-none", {"a": "b"}], api.PaiNotFoundError),
        ("log_run_metrics", ["run-none", {"accuracy": float("nan")}], api.PaiUsageError),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_a_typed_error(
    hook: PaiHook, method: str, arguments: list[Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        getattr(hook, method)(*arguments)


def test_methods_made_from_flows_have_the_flows_own_signature_and_description() -> None:
    import inspect

    assert list(inspect.signature(PaiHook.get_run).parameters) == ["self", "run_id"]
    assert PaiHook.get_run.__doc__ == api.get_run.__doc__
    with pytest.raises(TypeError, match="run_di"):
        PaiHook().get_run(run_di="run-1")  # type: ignore[call-arg]


# --- test_connection --------------------------------------------------------------------------------------


def test_a_good_connection_names_the_workspace_and_the_time(hook: PaiHook, pai: Any) -> None:
    succeeded, message = hook.test_connection()
    assert succeeded
    assert "'evaluation'" in message
    assert "145883" in message
    assert pai.url in message
    assert message.rstrip(".").endswith(" ms")


def test_a_good_connection_without_a_workspace_names_the_default_one(
    pai: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ANYWHERE", connection(pai))
    succeeded, message = PaiHook("anywhere").test_connection()
    assert succeeded
    assert "default workspace 'evaluation' (145883)" in message


def test_the_connections_page_can_test_a_connection(pai: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = first("Connection", "airflow.models.connection")
    fields = json.loads(connection(pai, port=0, schema="", extra={"workspace_id": "145884"}))
    fields["extra"] = json.dumps(fields["extra"])
    edited = model(conn_id="tested_by_airflow", **fields)
    monkeypatch.setenv("AIRFLOW_CONN_TESTED_BY_AIRFLOW", edited.get_uri())  # as the web server does
    succeeded, message = edited.test_connection()
    assert succeeded, message
    assert "'research' (145884)" in message


def test_a_wrong_clock_of_this_machine_is_corrected(hook: PaiHook, pai: Any) -> None:
    pai.clock_offset = 7200.0
    succeeded, message = hook.test_connection()
    assert succeeded, message


def test_a_key_that_may_only_list_runs_is_good_enough(hook: PaiHook, pai: Any) -> None:
    for action in ("ListWorkspaces", "GetDefaultWorkspace"):
        pai.inject("error", action=action, times=None)
    succeeded, message = hook.test_connection()
    assert succeeded
    assert "145883" in message


@pytest.mark.parametrize(
    ("fields", "fault", "words"),
    [
        ({"login": "nobody"}, {}, ["InvalidAccessKeyId", "AccessKey id"]),
        ({"password": "wrong"}, {}, ["SignatureDoesNotMatch", "secret"]),
        ({"login": ""}, {}, ["AccessKey id", "login"]),
        ({"extra": {"workspace_id": "999"}}, {}, ["999"]),
        ({"host": "http://127.0.0.1:1"}, {}, ["127.0.0.1:1"]),
        ({"host": None}, {}, ["region"]),
        ({"host": None, "extra": {"region": "cn-hangzou"}}, {}, ["cn-hangzhou"]),
        ({"host": "http://pai.example.com"}, {}, ["allow_http"]),
        ({"conn_type": "http"}, {}, ["'pai'"]),
        ({"extra": {"security_token": "stale"}}, {}, ["SecurityToken", "token"]),
        ({}, {"kind": "error"}, ["NoPermission", "RAM"]),
        ({}, {"kind": "throttle"}, ["Throttling", "quota"]),
        ({}, {"kind": "html"}, ["502"]),
        ({}, {"kind": "html", "status": 200}, ["is not JSON", "proxy"]),
        ({}, {"kind": "body", "body": "[]"}, ["not what the API page promises"]),
        ({}, {"kind": "reset"}, ["no answer"]),
    ],
)
def test_a_connection_that_does_not_work_says_what_to_correct(
    pai: Any,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    fault: dict[str, Any],
    words: list[str],
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BROKEN", connection(pai, **fields))
    if fault:
        pai.inject(fault.pop("kind"), times=None, **fault)
    succeeded, message = PaiHook("broken").test_connection()
    assert not succeeded
    for word in words:
        assert word in message
    assert SECRET not in message


# --- what a task returns goes to XCom ---------------------------------------------------------------------

RESULTS = {
    "list_runs": lambda hook, _: hook.list_runs(),
    "get_run": lambda hook, run_id: hook.get_run(run_id),
    "list_runs_page": lambda hook, _: hook.list_runs_page(verbose=True),
    "list_run_metrics": lambda hook, run_id: hook.list_run_metrics(run_id, "loss"),
    "list_experiments": lambda hook, _: hook.list_experiments(),
    "list_workspaces": lambda hook, _: hook.list_workspaces(),
    "get_default_workspace": lambda hook, _: hook.get_default_workspace(),
    "nested": lambda hook, run_id: {"champion": hook.get_run(run_id)},
}


def plain(result: Any) -> Any:
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    return [plain(record) for record in result] if isinstance(result, list) else result.to_dict()


@pytest.mark.parametrize("name", RESULTS)
def test_a_task_returns_what_to_dict_gives_and_the_next_task_gets_it(pai: Any, name: str) -> None:
    run_id = pai.add_run("one", labels={"a": "b"}, metrics={"accuracy": 0.9, "loss": float("nan")})

    returned = []

    @task
    def ask() -> Any:
        returned.append(plain(RESULTS[name](PaiHook(), run_id)))
        return returned[0]

    @task
    def take(found: Any) -> Any:
        return {"found": found}

    with new_dag() as dag:
        take(ask())
    ran = run_dag(dag)
    assert ran.xcom("ask") == returned[0]
    assert ran.xcom("take") == {"found": returned[0]}


@pytest.mark.parametrize("name", RESULTS)
def test_a_task_that_returns_a_record_is_told_to_dict(pai: Any, name: str) -> None:
    run_id = pai.add_run("one", metrics={"loss": 0.5})

    @task
    def ask() -> Any:
        return RESULTS[name](PaiHook(), run_id)

    with new_dag() as dag:
        ask()
    ran = run_dag(dag)
    assert ran.states == {"ask": "failed"}
    assert "PaiUsageError: XCom holds plain JSON" in ran.error("ask")
    assert "return its .to_dict()" in ran.error("ask")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda hook: hook.get_run(""),
        lambda hook: hook.create_run("exp-1", name="not a name"),
        lambda hook: hook.update_run("run-1"),
        lambda hook: hook.set_run_labels("run-1", "no label"),
        lambda hook: hook.log_run_metrics("run-1", {"loss": float("nan")}),
        lambda hook: hook.list_run_metrics("run-1", ""),
        lambda hook: hook.list_runs(labels="no label"),
        lambda hook: hook.list_runs(page_size=0),
        lambda hook: hook.iter_runs(max_runs=0),
        lambda hook: hook.list_runs_page(max_results=0),
        lambda hook: hook.create_experiment("", workspace_id="1"),
        lambda hook: hook.create_experiment("name", labels="no label"),
        lambda hook: hook.list_experiments(labels="no label"),
        lambda hook: hook.delete_experiment(""),
    ],
)
def test_wrong_arguments_are_refused_before_the_connection_is_read(wrong):
    with pytest.raises(api.PaiUsageError):
        wrong(PaiHook("there_is_no_such_connection"))
