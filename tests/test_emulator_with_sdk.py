"""The emulator with the official SDK, sync and async: every operation, every parameter of ListRuns."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sdk_client import QUIET, SdkClient, models  # skips this module where the official SDK is not installed

from airflow_provider_pai.emulator import PaiEmulator

pytestmark = QUIET


@pytest.fixture(params=["sync", "async", "older signature"])
def sdk(request: pytest.FixtureRequest, pai_emulator: PaiEmulator) -> Any:
    return SdkClient.of(pai_emulator, request.param)


def names(page: Any) -> list[str]:
    return [run.name for run in page.runs]


def test_a_run_from_its_creation_to_its_end(sdk: Any, pai_emulator: PaiEmulator) -> None:
    experiment_id = pai_emulator.add_experiment("mine")
    created = sdk(
        "create_run",
        models.CreateRunRequest(
            experiment_id=experiment_id,
            name="testrun",
            source_type="TrainingService",
            source_id="train-1",
            labels=[
                models.Label(key="is_evaluation", value="true"),
                models.Label(key="阶段", value="评估 1/2"),
            ],
            params=[models.RunParam(key="lr", value="0.1"), models.RunParam(key="empty", value="")],
        ),
    )
    run_id = created.run_id
    assert run_id.startswith("run-")
    assert created.request_id

    brief = sdk("get_run", run_id, models.GetRunRequest())
    assert (brief.run_id, brief.name, brief.labels, brief.params, brief.metrics) == (
        run_id,
        "testrun",
        [],
        [],
        [],
    )

    log = models.LogRunMetricsRequest(
        metrics=[
            models.RunMetric(key="eval/accuracy@1", value=0.5, step=1, timestamp=1000),
            models.RunMetric(key="eval/accuracy@1", value=0.9, step=2, timestamp=2000),
            models.RunMetric(key="loss", value=0.0),
        ]
    )
    assert sdk("log_run_metrics", run_id, log).request_id

    run = sdk("get_run", run_id, models.GetRunRequest(verbose=True))
    assert run.experiment_id == experiment_id
    assert run.workspace_id == pai_emulator.workspace_id
    assert (run.source_type, run.source_id, run.accessibility) == ("TrainingService", "train-1", "PRIVATE")
    assert {label.key: label.value for label in run.labels} == {"is_evaluation": "true", "阶段": "评估 1/2"}
    assert {label.run_id for label in run.labels} == {run_id}
    assert all(label.gmt_create_time and label.gmt_modified_time for label in run.labels)
    assert {param.key: param.value for param in run.params} == {"lr": "0.1", "empty": ""}
    assert {metric.key: (metric.value, metric.step) for metric in run.metrics} == {
        "eval/accuracy@1": (0.9, 2),
        "loss": (0.0, 0),
    }
    assert run.owner_id and run.request_id

    history = []
    for token in (0, 1):
        page = sdk(
            "list_run_metrics",
            run_id,
            models.ListRunMetricsRequest(key="eval/accuracy@1", page_token=token, max_results=1),
        )
        history += [(metric.value, metric.step, metric.timestamp) for metric in page.metrics]
        assert page.request_id
    assert history == [(0.5, 1, 1000), (0.9, 2, 2000)]
    assert page.next_page_token == 0

    update = models.UpdateRunRequest(
        name="renamed",
        labels=[models.Label(key="LLM eval/x", value="yes")],
        params=[models.RunParam(key="lr", value="0.2")],
    )
    assert sdk("update_run", run_id, update).request_id
    (stored,) = pai_emulator.runs()
    assert (stored["Name"], stored["Labels"], stored["Params"]) == (
        "renamed",
        {"LLM eval/x": "yes"},
        {"lr": "0.2"},
    )

    assert sdk("delete_run_label", run_id, "LLM eval/x", models.DeleteRunLabelRequest()).request_id
    assert pai_emulator.runs()[0]["Labels"] == {}
    assert sdk("delete_run", run_id, models.DeleteRunRequest()).request_id
    assert pai_emulator.runs() == []


def test_a_run_without_a_name_is_called_by_its_id(sdk: Any, pai_emulator: PaiEmulator) -> None:
    experiment_id = pai_emulator.add_experiment()
    run_id = sdk("create_run", models.CreateRunRequest(experiment_id=experiment_id, name="")).run_id
    assert sdk("get_run", run_id, models.GetRunRequest()).name == run_id


@pytest.fixture
def population(pai_emulator: PaiEmulator) -> str:
    """Five runs, a day apart, in two experiments and two workspaces. Returns the id of one experiment."""
    experiment_id = pai_emulator.add_experiment("mine")
    for day, name in enumerate(["delta", "alpha", "charlie", "bravo"], start=1):
        pai_emulator.add_run(
            name,
            experiment_id=experiment_id if day < 3 else None,
            labels={"is_evaluation": "true", "day": f"{day % 2}", "note": "a b+c*d~e/f:g"},
            params={"lr": "0.1"},
            metrics={"accuracy": day / 10},
            source_type="DLC" if day == 1 else "TrainingService",
            source_id=f"job-{day}",
            gmt_create_time=f"2021-01-3{min(day, 2) - 1}T12:51:33.028Z",
        )
    pai_emulator.add_run("elsewhere", workspace_id="145884")
    return experiment_id


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["bravo", "charlie", "alpha", "delta"]),
        ({"name": "alpha"}, ["alpha"]),
        ({"workspace_id": "145884"}, ["elsewhere"]),
        ({"workspace_id": "145883"}, ["bravo", "charlie", "alpha", "delta"]),
        ({"experiment_id": "mine"}, ["alpha", "delta"]),
        ({"source_type": "DLC"}, ["delta"]),
        ({"source_id": "job-3"}, ["charlie"]),
        ({"labels": "is_evaluation:true"}, ["bravo", "charlie", "alpha", "delta"]),
        ({"labels": "is_evaluation:true,day:1"}, ["charlie", "delta"]),
        ({"labels": "note:a b+c*d~e/f:g,day:0"}, ["bravo", "alpha"]),
        ({"labels": "is_evaluation:false"}, []),
        ({"gmt_create_time": "2021-01-30T12:51:33.028Z"}, ["delta"]),
        ({"order_by": "GmtCreateTime DESC,Name ASC"}, ["alpha", "bravo", "charlie", "delta"]),
        ({"order_by": "Name"}, ["alpha", "bravo", "charlie", "delta"]),
        ({"page_token": 2}, ["alpha", "delta"]),
        ({"max_results": 1}, ["bravo"]),
        ({"page_token": 1, "max_results": 2}, ["charlie", "alpha"]),
        ({"page_number": 2, "page_size": 3}, ["delta"]),
        ({"page_size": 1}, ["bravo"]),
        ({"sort_by": "Name"}, ["delta", "charlie", "bravo", "alpha"]),
        ({"sort_by": "Name", "order": "ASC"}, ["alpha", "bravo", "charlie", "delta"]),
        ({"sort_by": "GmtCreateTime", "order": "ASC"}, ["delta", "alpha", "charlie", "bravo"]),
    ],
    ids=str,
)
def test_list_runs(sdk: Any, population: str, parameters: dict[str, Any], expected: list[str]) -> None:
    if "experiment_id" in parameters:
        parameters = {"experiment_id": population}
    page = sdk("list_runs", models.ListRunsRequest(**parameters))
    assert names(page) == expected
    assert page.request_id
    assert all((run.labels, run.params, run.metrics) == ([], [], []) for run in page.runs)


@pytest.mark.parametrize("verbose", [True, False])
def test_list_runs_verbose(sdk: Any, population: str, verbose: bool) -> None:
    (run,) = sdk("list_runs", models.ListRunsRequest(name="delta", verbose=verbose)).runs
    details = (len(run.labels), len(run.params), len(run.metrics))
    assert details == ((3, 1, 1) if verbose else (0, 0, 0))
    assert run.gmt_create_time == "2021-01-30T12:51:33.028Z"
    if verbose:
        assert run.metrics[0].value == 0.1
        assert {label.key: label.value for label in run.labels}["note"] == "a b+c*d~e/f:g"


def test_tokens_read_all_runs(sdk: Any, population: str) -> None:
    seen, token = [], 0
    for _ in range(10):
        page = sdk("list_runs", models.ListRunsRequest(page_token=token, max_results=3))
        assert page.total_count == 4
        seen += names(page)
        token = page.next_page_token
        if token == 0:
            break
    assert seen == ["bravo", "charlie", "alpha", "delta"]


def test_an_experiment_from_its_creation_to_its_end(sdk: Any, pai_emulator: PaiEmulator) -> None:
    created = sdk(
        "create_experiment",
        models.CreateExperimentRequest(
            name="mine",
            workspace_id="145884",
            artifact_uri="oss://bucket/path/",
            accessibility="PUBLIC",
            labels=[models.LabelInfo(key="team", value="a")],
        ),
    )
    experiment_id = created.experiment_id
    assert experiment_id.startswith("exp-")
    assert created.request_id

    experiment = sdk("get_experiment", experiment_id, models.GetExperimentRequest())
    assert (experiment.name, experiment.workspace_id) == ("mine", "145884")
    assert (experiment.artifact_uri, experiment.accessibility) == ("oss://bucket/path/", "PUBLIC")
    assert [(label.key, label.value, label.experiment_id) for label in experiment.labels] == [
        ("team", "a", experiment_id)
    ]
    assert experiment.latest_run is None

    run_id = pai_emulator.add_run("newest", experiment_id=experiment_id, metrics={"accuracy": 0.5})
    experiment = sdk("get_experiment", experiment_id, models.GetExperimentRequest(verbose=True))
    assert experiment.latest_run.run_id == run_id
    assert experiment.latest_run.metrics[0].value == 0.5

    update = models.UpdateExperimentRequest(name="ours", accessibility="PRIVATE")
    assert sdk("update_experiment", experiment_id, update).request_id
    labels = models.SetExperimentLabelsRequest(labels=[models.LabelInfo(key="stage", value="x:y")])
    assert sdk("set_experiment_labels", experiment_id, labels).request_id
    assert sdk(
        "delete_experiment_label", experiment_id, "team", models.DeleteExperimentLabelRequest()
    ).request_id
    experiment = sdk("get_experiment", experiment_id, models.GetExperimentRequest())
    assert (experiment.name, experiment.accessibility) == ("ours", "PRIVATE")
    assert [(label.key, label.value) for label in experiment.labels] == [("stage", "x:y")]

    assert sdk("delete_experiment", experiment_id, models.DeleteExperimentRequest()).request_id
    page = sdk("list_experiment", models.ListExperimentRequest(workspace_id="145884"))
    assert (page.experiments, page.total_count) == ([], 0)
    assert pai_emulator.runs() == []


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["charlie", "bravo", "alpha"]),
        ({"name": "br"}, ["bravo"]),
        ({"name": "br", "options": True}, []),
        ({"labels": "team=a"}, ["charlie", "alpha"]),
        ({"labels": "team=a,stage=1"}, ["alpha"]),
        ({"workspace_id": "145884"}, ["elsewhere"]),
        ({"order_by": "Name ASC"}, ["alpha", "bravo", "charlie"]),
        ({"order": "ASC", "sort_by": "GmtCreateTime"}, ["alpha", "bravo", "charlie"]),
        ({"page_token": 2, "max_results": 2}, ["alpha"]),
        ({"page_number": 2, "page_size": 2}, ["alpha"]),
    ],
    ids=str,
)
def test_list_experiment(
    sdk: Any, pai_emulator: PaiEmulator, parameters: dict[str, Any], expected: list[str]
) -> None:
    pai_emulator.add_experiment("alpha", labels={"team": "a", "stage": "1"})
    pai_emulator.add_experiment("bravo", labels={"team": "b"})
    pai_emulator.add_experiment("charlie", labels={"team": "a"})
    pai_emulator.add_experiment("elsewhere", workspace_id="145884")
    if parameters.get("options"):
        exactly = models.ListExperimentRequestOptions(match_name_exactly="true")
        parameters = {**parameters, "options": exactly}
    page = sdk("list_experiment", models.ListExperimentRequest(verbose=True, **parameters))
    assert [experiment.name for experiment in page.experiments] == expected
    assert page.request_id


def test_workspaces(sdk: Any, pai_emulator: PaiEmulator) -> None:
    page = sdk("list_workspaces", models.ListWorkspacesRequest())
    assert [(body.workspace_id, body.is_default) for body in page.workspaces] == [
        ("145883", True),
        ("145884", False),
    ]
    assert (page.total_count, bool(page.request_id)) == (2, True)
    page = sdk("list_workspaces", models.ListWorkspacesRequest(page_number=2, page_size=1))
    assert [body.workspace_id for body in page.workspaces] == ["145884"]
    page = sdk("list_workspaces", models.ListWorkspacesRequest(workspace_ids="145884", order="DESC"))
    assert [body.workspace_name for body in page.workspaces] == ["research"]
    default = sdk("get_default_workspace", models.GetDefaultWorkspaceRequest(verbose=True))
    assert (default.workspace_id, default.status) == (pai_emulator.workspace_id, "ENABLED")
    assert default.request_id


def test_one_workspace_and_its_settings(sdk: Any) -> None:
    found = sdk("get_workspace", "145884", models.GetWorkspaceRequest(verbose=True))
    assert (found.workspace_id, found.workspace_name, found.status) == ("145884", "research", "ENABLED")
    assert (found.is_default, bool(found.owner.user_id), bool(found.request_id)) == (False, True, True)
    page = sdk("list_configs", "145884", models.ListConfigsRequest())
    assert [config.config_key for config in page.configs] == ["modelExportPath", "tempTableLifecycle"]
    page = sdk("list_configs", "145884", models.ListConfigsRequest(config_keys="modelExportPath"))
    assert (page.total_count, page.configs[0].config_value[:6]) == (1, "oss://")
    for operation, request in (
        ("get_workspace", models.GetWorkspaceRequest()),
        ("list_configs", models.ListConfigsRequest()),
    ):
        with pytest.raises(Exception, match="WorkspaceNotFound"):
            sdk(operation, "1", request)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_other_credentials(pai_emulator: PaiEmulator, is_async: bool) -> None:
    pai_emulator.accept("STS.x", "secret", security_token="CAIS+tok/en==", expires_at=time.time() + 600)
    pai_emulator.accept("bearer", bearer_token="bearer-token")
    for credentials in (
        {"access_key_id": "STS.x", "access_key_secret": "secret", "security_token": "CAIS+tok/en=="},
        {"bearer_token": "bearer-token"},
    ):
        client = SdkClient(pai_emulator.host_port, is_async=is_async, **credentials)
        assert client("list_runs", models.ListRunsRequest(labels="a b:c")).total_count == 0


def test_refusals_reach_the_sdk(sdk: Any, pai_emulator: PaiEmulator) -> None:
    for arguments, code in [
        (("get_run", "run-none", models.GetRunRequest()), "RunNotFound"),
        (("list_runs", models.ListRunsRequest(max_results=-1)), "InvalidParameter"),
    ]:
        with pytest.raises(Exception, match="request id") as caught:
            sdk(*arguments)
        assert getattr(caught.value, "code", None) == code
    pai_emulator.inject("throttle", retry_after_ms=1)
    with pytest.raises(Exception, match="flow control"):
        sdk("list_runs", models.ListRunsRequest())
    assert pai_emulator.request_counts == {"GetRun": 1, "ListRuns": 2}
