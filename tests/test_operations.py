"""Each operation's requests, answers and refusals, compared with the vendor's API page of the operation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_pai.api import (
    Flow,
    Metric,
    PaiExperimentNotFoundError,
    PaiNotFoundError,
    PaiUsageError,
    Request,
    Response,
    RunQuery,
    create_experiment,
    create_run,
    delete_experiment,
    delete_experiment_label,
    delete_run,
    delete_run_label,
    get_default_workspace,
    get_experiment,
    get_run,
    list_experiments,
    list_run_metrics,
    list_runs,
    list_workspaces,
    log_run_metrics,
    set_experiment_labels,
    set_run_labels,
    update_experiment,
    update_run,
)


def ok(**body: Any) -> Response:
    return Response(status=200, headers={}, body=json.dumps({"requestId": "R-1", **body}).encode())


LABELS = [{"Key": "a", "Value": "b"}]
# The call; its action, method, path, query and JSON body; PAI's answer, and the result of the call.
CALLS: list[
    tuple[Callable[[], Flow[Any]], tuple[str, str, str, dict[str, str], Any], dict[str, Any], Any]
] = [
    (
        lambda: create_run("exp-1"),
        ("CreateRun", "POST", "runs", {}, {"ExperimentId": "exp-1"}),
        {"RunId": "run-1"},
        "run-1",
    ),
    (
        lambda: create_run(
            "exp-1",
            name="n",
            labels="a:b",
            params={"lr": 0.1, "on": True},
            source_type="DLC",
            source_id="job-1",
        ),
        (
            "CreateRun",
            "POST",
            "runs",
            {},
            {
                "ExperimentId": "exp-1",
                "Name": "n",
                "SourceType": "DLC",
                "SourceId": "job-1",
                "Labels": LABELS,
                "Params": [{"Key": "lr", "Value": "0.1"}, {"Key": "on", "Value": "true"}],
            },
        ),
        {"RunId": "run-1"},
        "run-1",
    ),
    (
        lambda: update_run("run-1", name="n"),
        ("UpdateRun", "PUT", "runs/run-1", {}, {"Name": "n"}),
        {},
        None,
    ),
    (
        lambda: update_run("run-1", labels={}, params={}),
        ("UpdateRun", "PUT", "runs/run-1", {}, {"Labels": [], "Params": []}),
        {},
        None,
    ),
    (lambda: delete_run("run-1"), ("DeleteRun", "DELETE", "runs/run-1", {}, None), {}, None),
    (
        lambda: delete_run_label("run-1", "LLM eval/x:y"),
        ("DeleteRunLabel", "DELETE", "runs/run-1/labels/LLM%20eval%2Fx%3Ay", {}, None),
        {},
        None,
    ),
    (
        lambda: log_run_metrics("run-1", {"accuracy": 0.93, "n": 0}),
        (
            "LogRunMetrics",
            "POST",
            "runs/run-1/metrics/action/log",
            {},
            {"Metrics": [{"Key": "accuracy", "Value": 0.93}, {"Key": "n", "Value": 0.0}]},
        ),
        {},
        None,
    ),
    (
        lambda: log_run_metrics("run-1", {"k": 1}, step=0, timestamp=0),
        (
            "LogRunMetrics",
            "POST",
            "runs/run-1/metrics/action/log",
            {},
            {"Metrics": [{"Key": "k", "Value": 1.0, "Step": 0, "Timestamp": 0}]},
        ),
        {},
        None,
    ),
    (
        lambda: list_run_metrics("run-1", "eval/acc@1", page_size=7),
        ("ListRunMetrics", "GET", "runs/run-1/metrics", {"Key": "eval/acc@1", "MaxResults": "7"}, None),
        {"Metrics": [{"Key": "eval/acc@1", "Value": 0.5}]},
        [Metric("eval/acc@1", 0.5)],
    ),
    (
        lambda: create_experiment("e", workspace_id="1"),
        ("CreateExperiment", "POST", "experiments", {}, {"Name": "e", "WorkspaceId": "1"}),
        {"ExperimentId": "exp-1"},
        "exp-1",
    ),
    (
        lambda: create_experiment(
            "e", workspace_id="1", artifact_uri="oss://b/p", accessibility="PUBLIC", labels={"a": "b"}
        ),
        (
            "CreateExperiment",
            "POST",
            "experiments",
            {},
            {
                "Name": "e",
                "WorkspaceId": "1",
                "ArtifactUri": "oss://b/p",
                "Accessibility": "PUBLIC",
                "Labels": LABELS,
            },
        ),
        {"ExperimentId": "exp-1"},
        "exp-1",
    ),
    (
        lambda: update_experiment("exp-1", accessibility="PRIVATE"),
        ("UpdateExperiment", "PUT", "experiments/exp-1", {}, {"Accessibility": "PRIVATE"}),
        {},
        None,
    ),
    (
        lambda: delete_experiment("exp-1"),
        ("DeleteExperiment", "DELETE", "experiments/exp-1", {}, None),
        {},
        None,
    ),
    (
        lambda: set_experiment_labels("exp-1", {"a": "b"}),
        ("SetExperimentLabels", "POST", "experiments/exp-1/labels", {}, {"Labels": LABELS}),
        {},
        None,
    ),
    (
        lambda: delete_experiment_label("exp-1", "a"),
        ("DeleteExperimentLabel", "DELETE", "experiments/exp-1/labels/a", {}, None),
        {},
        None,
    ),
    (
        lambda: list_experiments(workspace_id="1", name="n", labels={"a": "b", "c": "d:e"}, page_size=7),
        (
            "ListExperiment",
            "GET",
            "experiments",
            {
                "WorkspaceId": "1",
                "Name": "n",
                "Labels": "a=b,c=d:e",
                "Verbose": "true",
                "OrderBy": "GmtCreateTime ASC",
                "MaxResults": "7",
            },
            None,
        ),
        {"Experiments": []},
        [],
    ),
    (
        lambda: list_workspaces(page_size=7),
        ("ListWorkspaces", "GET", "workspaces", {"PageNumber": "1", "PageSize": "7"}, None),
        {"Workspaces": [], "TotalCount": 0},
        [],
    ),
]


@pytest.mark.parametrize(
    ("ask", "expected", "answer", "result"), CALLS, ids=lambda value: getattr(value, "0", None)
)
def test_each_operation_sends_what_the_api_page_says(play, ask, expected, answer, result):
    sent: list[Request] = []
    assert play(ask(), [ok(**answer)], sent) == result
    (request,) = sent
    body = json.loads(request.body) if request.body else None
    assert (
        request.action,
        request.method,
        request.path.removeprefix("/api/v1/"),
        request.query,
        body,
    ) == expected


@pytest.mark.parametrize(
    ("ask", "path", "body"),
    [
        (lambda: get_experiment("exp-1"), "experiments/exp-1", {"ExperimentId": "exp-1"}),
        (lambda: get_default_workspace(), "defaultWorkspaces", {"WorkspaceId": "1"}),
        (lambda: get_run("run-1"), "runs/run-1", {"RunId": "run-1", "Name": "n"}),
    ],
)
def test_one_record_is_read_from_its_own_path(play, ask, path, body):
    sent: list[Request] = []
    record = play(ask(), [ok(**body)], sent)
    assert sent[0].path == f"/api/v1/{path}"
    assert next(iter(body.values())) in (getattr(record, name) for name in record.__struct_fields__)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: create_run(""),
        lambda: create_run(None),
        lambda: create_run("exp-1", name="1st"),
        lambda: create_run("exp-1", labels="no colon"),
        lambda: create_run("exp-1", params={"a": [1]}),
        lambda: create_run("exp-1", source_id=""),
        lambda: update_run("run-1"),
        lambda: update_run("", name="n"),
        lambda: update_run("run-1", labels={"a": 1}),
        lambda: set_run_labels("run-1", "bad"),
        lambda: set_run_labels(None, "a:b"),
        lambda: delete_run(""),
        lambda: delete_run(".."),
        lambda: delete_run_label("run-1", ""),
        lambda: log_run_metrics("run-1", {}),
        lambda: log_run_metrics("run-1", {"k": float("nan")}),
        lambda: log_run_metrics("run-1", {"": 1}),
        lambda: log_run_metrics("run-1", {None: 1}),
        lambda: log_run_metrics("run-1", {"k": 1}, step=-1),
        lambda: log_run_metrics("run-1", {"k": 1}, step=True),
        lambda: log_run_metrics("run-1", {"k": 1}, timestamp=1.5),
        lambda: list_run_metrics("run-1", ""),
        lambda: list_run_metrics(""),
        lambda: list_run_metrics("run-1", page_size=0),
        lambda: list_run_metrics("run-1", "k", page_size=0),
        lambda: get_run(""),
        lambda: get_run(None),
        lambda: get_experiment(""),
        lambda: create_experiment("", workspace_id="1"),
        lambda: create_experiment("e", workspace_id=None),
        lambda: create_experiment("e", workspace_id=""),
        lambda: create_experiment("e", workspace_id="1", labels="a=b"),
        lambda: update_experiment("exp-1"),
        lambda: set_experiment_labels("exp-1", "bad"),
        lambda: delete_experiment_label("exp-1", ""),
        lambda: list_experiments(labels="a=b"),
        lambda: list_experiments(name=""),
        lambda: list_experiments(page_size=0),
        lambda: list_workspaces(page_size=0),
    ],
)
def test_arguments_are_checked_before_the_first_request(ask):
    with pytest.raises(PaiUsageError):
        next(ask())


def test_without_a_key_every_metric_of_the_run_is_read(play):
    sent: list[Request] = []
    run = {"RunId": "run-1", "Name": "n", "Metrics": [{"Key": key, "Value": 2.0} for key in ("b", "a", "b")]}
    histories = {key: [{"Key": key, "Value": value, "Step": value} for value in (0, 1, 2)] for key in "ab"}

    def answer(request: Request) -> Response:
        return ok(**run) if request.action == "GetRun" else ok(Metrics=histories[request.query["Key"]])

    found = play(list_run_metrics("run-1"), answer, sent)
    assert [(metric.key, metric.step) for metric in found] == [
        (key, step) for key in "ba" for step in (0, 1, 2)
    ]
    assert [request.action for request in sent] == ["GetRun", "ListRunMetrics", "ListRunMetrics"]
    assert play(list_run_metrics("run-1"), [ok(**{**run, "Metrics": []})]) == []


def test_a_key_that_is_misspelt_is_told_which_there_are_the_nearest_first(play):
    keys = ["loss", "log_loss", "Accuracy"]
    run = {"RunId": "run-1", "Name": "n", "Metrics": [{"Key": key, "Value": 1} for key in keys]}
    with pytest.raises(PaiNotFoundError, match="no metric 'acuracy'; it has 'Accuracy', ") as caught:
        play(list_run_metrics("run-1", "acuracy"), [ok(Metrics=[]), ok(**run)])
    assert all(repr(key) in str(caught.value) for key in keys)
    assert not caught.value.retryable
    run["Metrics"] = [{"Key": f"k{number}", "Value": 1} for number in range(25)]
    with pytest.raises(PaiNotFoundError, match=r"it has 'k7', .* and 5 more"):
        play(list_run_metrics("run-1", "K7."), [ok(Metrics=[]), ok(**run)])


def test_a_metric_that_is_first_logged_meanwhile_is_read_again_and_none_at_all_is_no_error(play):
    entry = {"Key": "k", "Value": 1.0, "Step": 0}
    run = {"RunId": "run-1", "Name": "n", "Metrics": [entry]}
    found = play(list_run_metrics("run-1", "k"), [ok(Metrics=[]), ok(**run), ok(Metrics=[entry])])
    assert found == [Metric("k", 1.0, step=0)]
    assert play(list_run_metrics("run-1", "k"), [ok(Metrics=[]), ok(**{**run, "Metrics": []})]) == []


def test_set_run_labels_keeps_the_others_and_sends_the_whole_set(play):
    sent: list[Request] = []
    run = {
        "RunId": "run-1",
        "Name": "n",
        "Labels": [{"Key": "keep", "Value": "1"}, {"Key": "old", "Value": "x"}],
    }
    play(set_run_labels("run-1", {"old": "new", "add": "2"}), [ok(**run), ok()], sent)
    assert [request.action for request in sent] == ["GetRun", "UpdateRun"]
    assert {pair["Key"]: pair["Value"] for pair in json.loads(sent[1].body)["Labels"]} == {
        "keep": "1",
        "old": "new",
        "add": "2",
    }


def test_set_run_labels_on_a_missing_run_changes_nothing(play):
    sent: list[Request] = []
    with pytest.raises(PaiNotFoundError):
        play(set_run_labels("run-1", "a:b"), [ok()], sent)
    assert len(sent) == 1


@pytest.mark.parametrize(
    "ask",
    [
        lambda: create_run("exp-1"),
        lambda: get_experiment("exp-1"),
        lambda: update_experiment("exp-1", name="n"),
        lambda: set_experiment_labels("exp-1", "a:b"),
        lambda: delete_experiment("exp-1"),
    ],
)
@pytest.mark.parametrize("code", ["NotFoundErrorProblem", "ExperimentNotFound"])
def test_an_experiment_that_is_not_found_may_be_too_new_to_be_visible(play, ask, code):
    sent: list[Request] = []
    body = json.dumps({"Code": code, "Message": "no such experiment", "RequestId": "R-1"}).encode()
    with pytest.raises(PaiNotFoundError) as caught:
        play(ask(), [Response(status=404, headers={}, body=body)], sent)
    error = caught.value
    assert len(sent) == 1
    assert (type(error), error.retryable, error.transient) == (PaiExperimentNotFoundError, True, False)
    assert (error.code, error.status, error.request_id) == (code, 404, "R-1")
    assert error.action == sent[0].action
    for part in ("no such experiment", "up to a minute", "retry may succeed"):
        assert part in str(error)


def test_what_the_server_lets_through_is_checked_again(play):
    def run(run_id: str, **fields: Any) -> dict[str, Any]:
        return {"RunId": run_id, "Name": "nightly", "WorkspaceId": "1", "Labels": LABELS, **fields}

    runs = [
        run("good"),
        run("fuzzy", Name="nightly-2"),
        run("elsewhere", WorkspaceId="2"),
        run("other value", Labels=[{"Key": "a", "Value": "B"}]),
        run("no labels", Labels=None),
    ]
    query = RunQuery(name="nightly", workspace_id="1", labels="a:b")
    assert [found.run_id for found in play(list_runs(query), [ok(Runs=runs)])] == ["good"]


def test_experiments_that_the_server_lets_through_are_checked_again(play):
    entries = [
        {"ExperimentId": "exp-1", "Name": "e", "Labels": LABELS},
        {"ExperimentId": "exp-2", "Name": "e2", "Labels": LABELS},
        {"ExperimentId": "exp-3", "Name": "e", "Labels": []},
    ]
    found = play(list_experiments(name="e", labels="a:b"), [ok(Experiments=entries)])
    assert [experiment.experiment_id for experiment in found] == ["exp-1"]
