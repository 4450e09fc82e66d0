"""PAI's model registry through both transports: what is sent, what comes back, and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from conftest import drive

from airflow_provider_pai import api
from airflow_provider_pai.api.by_name import says_taken
from airflow_provider_pai.emulator import PaiEmulator

WORKSPACE = "145883"
KEY = api.StaticCredential(api.Credential(access_key_id="emulator", access_key_secret="emulator-secret"))
URI = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/digits/"
METRICS = {"Results": [{"Dataset": {"Uri": "oss://b"}, "Metrics": {"accuracy": 0.93}}]}
NAME_TAKEN = ("conflict", "duplicate", "invalid", "server_error")
LABELS = [{"Key": "a", "Value": "b"}]

Run = Callable[[api.Flow[Any]], Any]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not pause: an emulator in this process does everything at once."""
    monkeypatch.setattr("airflow_provider_pai.api.by_name.VISIBLE_AFTER", (0.0, 0.001, 0.001, 0.001))
    monkeypatch.setattr("airflow_provider_pai.api.flow.BACKOFF_SECONDS", 0.001)


def sync_run(pai: PaiEmulator, flow: api.Flow[Any]) -> Any:
    with api.PaiClient(pai.url, KEY) as client:
        return client.run(flow)


def async_run(pai: PaiEmulator, flow: api.Flow[Any]) -> Any:
    async def run() -> Any:
        async with api.AsyncPaiClient(pai.url, KEY) as client:
            return await client.run(flow)

    return asyncio.run(run())


@pytest.fixture(params=[sync_run, async_run], ids=["sync", "async"])
def run(request: pytest.FixtureRequest, pai_emulator: PaiEmulator) -> Run:
    return lambda flow: request.param(pai_emulator, flow)


@pytest.fixture
def model_id(pai_emulator: PaiEmulator) -> str:
    return pai_emulator.add_model("digits")


# --- what is sent


CALLS = [
    (
        lambda: api.create_model(
            "n", workspace_id="1", labels="a:b", domain="nlp", model_type="LoRA", accessibility="PUBLIC"
        ),
        ("CreateModel", "POST", "models", {}),
        {
            "ModelName": "n",
            "WorkspaceId": "1",
            "Labels": LABELS,
            "Domain": "nlp",
            "ModelType": "LoRA",
            "Accessibility": "PUBLIC",
        },
        {"ModelId": "model-1"},
        "model-1",
    ),
    (
        lambda: api.update_model("model-1", name="m", extra_info={"a": 1}),
        ("UpdateModel", "PUT", "models/model-1", {}),
        {"ModelName": "m", "ExtraInfo": {"a": 1}},
        {},
        None,
    ),
    (lambda: api.delete_model("model-1"), ("DeleteModel", "DELETE", "models/model-1", {}), None, {}, None),
    (
        lambda: api.delete_model_labels("model-1", ["b", "a"]),
        ("DeleteModelLabels", "DELETE", "models/model-1/labels", {"LabelKeys": "a,b"}),
        None,
        {},
        None,
    ),
    (
        lambda: api.list_models(workspace_id="1", name="n", labels={"team": "the-longest"}, page_size=7),
        (
            "ListModels",
            "GET",
            "models",
            {
                "WorkspaceId": "1",
                "ModelName": "n",
                "Label": "the-longest",
                "SortBy": "GmtCreateTime",
                "Order": "ASC",
                "PageSize": "7",
                "PageNumber": "1",
            },
        ),
        None,
        {"Models": [], "TotalCount": 0},
        [],
    ),
    (
        lambda: api.create_model_version(
            "model-1",
            URI,
            version_name="1.0.0",
            approval_status="Pending",
            format_type="ONNX",
            framework_type="Pytorch",
            source_id="run-1",
            metrics=METRICS,
            labels="a:b",
            inference_spec={"processor": "x"},
            training_spec={},
            options="{}",
        ),
        ("CreateModelVersion", "POST", "models/model-1/versions", {}),
        {
            "Uri": URI,
            "VersionName": "1.0.0",
            "ApprovalStatus": "Pending",
            "FormatType": "ONNX",
            "FrameworkType": "Pytorch",
            "SourceId": "run-1",
            "Metrics": METRICS,
            "Labels": LABELS,
            "InferenceSpec": {"processor": "x"},
            "TrainingSpec": {},
            "Options": "{}",
        },
        {"VersionName": "1.0.0"},
        "1.0.0",
    ),
    (
        lambda: api.update_model_version(
            "model-1", "1.0.0_b", approval_status="Approved", version_description="d"
        ),
        ("UpdateModelVersion", "PUT", "models/model-1/versions/1.0.0_b", {}),
        {"ApprovalStatus": "Approved", "VersionDescription": "d"},
        {},
        None,
    ),
    (
        lambda: api.delete_model_version("model-1", "1.0.0"),
        ("DeleteModelVersion", "DELETE", "models/model-1/versions/1.0.0", {}),
        None,
        {},
        None,
    ),
    (
        lambda: api.delete_model_version_labels("model-1", "1.0.0", "a"),
        ("DeleteModelVersionLabels", "DELETE", "models/model-1/versions/1.0.0/labels", {"LabelKeys": "a"}),
        None,
        {},
        None,
    ),
    (
        lambda: api.list_model_versions(
            "model-1", approval_status="Pending", source_id="s", labels="run:r-1"
        ),
        (
            "ListModelVersions",
            "GET",
            "models/model-1/versions",
            {
                "ApprovalStatus": "Pending",
                "SourceId": "s",
                "Label": "run",
                "SortBy": "GmtCreateTime",
                "Order": "ASC",
                "PageSize": "100",
                "PageNumber": "1",
            },
        ),
        None,
        {"Versions": [], "TotalCount": 0},
        [],
    ),
]


@pytest.mark.parametrize(("ask", "expected", "body", "answer", "result"), CALLS)
def test_each_operation_sends_what_the_api_page_says(
    ask: Any, expected: Any, body: Any, answer: Any, result: Any
) -> None:
    sent: list[api.Request] = []
    assert drive(ask(), [ok(**answer)], sent) == result
    (request,) = sent
    path = request.path.removeprefix("/api/v1/")
    assert (request.action, request.method, path, request.query) == expected
    assert (json.loads(request.body) if request.body else None) == body


def ok(**body: Any) -> api.Response:
    return api.Response(status=200, headers={}, body=json.dumps(body).encode())


# --- a life, and what comes back


def test_the_life_of_a_model(run: Run) -> None:
    def life() -> api.Flow[None]:
        model_id = yield from api.create_model(
            "digits", workspace_id=WORKSPACE, labels={"team": "a"}, domain="cv", extra_info={"a": {"b": 1}}
        )
        yield from api.set_model_labels(model_id, "stage:x:y")
        yield from api.update_model(model_id, model_description="reads digits", accessibility="PUBLIC")
        model = yield from api.get_model(model_id)
        assert (model.model_id, model.model_name, model.workspace_id) == (model_id, "digits", WORKSPACE)
        assert model.labels == {"team": "a", "stage": "x:y"}
        assert (model.model_description, model.accessibility, model.domain) == (
            "reads digits",
            "PUBLIC",
            "cv",
        )
        assert (model.extra_info, model.latest_version) == ({"a": {"b": 1}}, None)
        assert model.gmt_create_time is not None and model.gmt_create_time.tzinfo is timezone.utc
        assert (yield from api.list_models(name="digits", labels="stage:x:y", domain="cv")) == [model]
        yield from api.delete_model_labels(model_id, ["team", "stage"])
        assert (yield from api.get_model(model_id)).labels == {}
        yield from api.delete_model(model_id)
        with pytest.raises(api.PaiModelNotFoundError):
            yield from api.get_model(model_id)
        assert (yield from api.list_models(workspace_id=WORKSPACE)) == []

    run(life())


def test_the_life_of_a_version(run: Run, model_id: str) -> None:
    def life() -> api.Flow[None]:
        name = yield from api.create_model_version(
            model_id,
            URI,
            approval_status="Pending",
            metrics=METRICS,
            labels={"pai_run": "run-1"},
            format_type="TorchScript",
            framework_type="Pytorch",
            source_id="dag/task",
        )
        assert name == "0.1.0"
        yield from api.set_model_version_labels(model_id, name, {"stage": "test"})
        yield from api.update_model_version(model_id, name, approval_status="Approved")
        version = yield from api.get_model_version(model_id, name)
        assert (version.version_name, version.uri, version.approval_status) == (name, URI, "Approved")
        assert version.labels == {"pai_run": "run-1", "stage": "test"}
        assert (version.metrics, version.source_id, version.source_type) == (METRICS, "dag/task", "Custom")
        other = yield from api.create_model_version(model_id, URI, version_name="1.0.0_beta")
        assert (yield from api.list_model_versions(model_id, approval_status="Approved")) == [version]
        assert (yield from api.list_model_versions(model_id, labels="stage:test")) == [version]
        assert [each.version_name for each in (yield from api.list_model_versions(model_id))] == [name, other]
        latest = (yield from api.get_model(model_id)).latest_version
        assert latest is not None and latest.version_name in (name, other)
        yield from api.delete_model_version_labels(model_id, name, "stage")
        assert (yield from api.get_model_version(model_id, name)).labels == {"pai_run": "run-1"}
        yield from api.delete_model_version(model_id, name)
        with pytest.raises(api.PaiModelNotFoundError):
            yield from api.get_model_version(model_id, name)

    run(life())


def test_records_are_plain_json_and_are_told_to_be(
    run: Run, pai_emulator: PaiEmulator, model_id: str
) -> None:
    pai_emulator.add_model_version(model_id, metrics=METRICS)
    model = run(api.get_model(model_id))
    plain = model.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["latest_version"]["metrics"] == METRICS
    with pytest.raises(api.PaiUsageError, match="to_dict"):
        model.serialize()


@pytest.mark.parametrize("shown", ["labels", "tags", "both"])
def test_labels_are_read_whatever_pai_calls_them(run: Run, pai_emulator: PaiEmulator, shown: Any) -> None:
    pai_emulator.quirks.model_labels = shown
    model_id = pai_emulator.add_model("digits", labels={"team": "a"})
    assert run(api.get_model(model_id)).labels == {"team": "a"}
    assert len(run(api.list_models(labels="team:a"))) == 1


@pytest.mark.parametrize("kept", ["kept", "replaced"])
def test_setting_labels_keeps_the_others(
    run: Run, pai_emulator: PaiEmulator, model_id: str, kept: Any
) -> None:
    pai_emulator.quirks.registry_labels = kept
    pai_emulator.label_model(model_id, {"keep": "1", "old": "x"})
    name = pai_emulator.add_model_version(model_id, labels={"keep": "1", "old": "x"})
    run(api.set_model_labels(model_id, {"old": "new", "add": "2"}))
    run(api.set_model_version_labels(model_id, name, {"old": "new", "add": "2"}))
    wanted = {"keep": "1", "old": "new", "add": "2"}
    assert pai_emulator.models()[0]["Labels"] == wanted
    assert pai_emulator.model_versions(model_id)[0]["Labels"] == wanted


def test_documents_are_read_also_as_texts(run: Run, pai_emulator: PaiEmulator, model_id: str) -> None:
    pai_emulator.quirks.version_metrics = "text"
    name = pai_emulator.add_model_version(model_id, metrics=METRICS, InferenceSpec={"processor": "x"})
    version = run(api.get_model_version(model_id, name))
    assert (version.metrics, version.inference_spec, version.extra_info) == (
        METRICS,
        {"processor": "x"},
        {},
    )


@pytest.mark.parametrize(
    ("field", "value", "attribute", "read"),
    [
        ("Metrics", "not json", "metrics", {}),
        ("Metrics", "[1]", "metrics", {}),
        ("Metrics", [1], "metrics", {}),
        ("Metrics", "", "metrics", {}),
        ("ExtraInfo", 7, "extra_info", {}),
        ("Uri", 7, "uri", "7"),
        ("SourceType", ["Custom"], "source_type", None),
        ("GmtCreateTime", "yesterday", "gmt_create_time", None),
        (
            "GmtCreateTime",
            "2026-01-02T03:04Z",
            "gmt_create_time",
            datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc),
        ),
        ("Labels", None, "labels", {}),
    ],
)
def test_an_odd_field_by_which_nothing_is_decided_hides_no_version(
    field: str, value: Any, attribute: str, read: Any
) -> None:
    entries = [{"VersionName": "0.1.0", field: value}, {"VersionName": "0.2.0", "ApprovalStatus": "Approved"}]
    versions = drive(api.list_model_versions("model-1"), [ok(Versions=entries, TotalCount=2)])
    found = {version.version_name: version for version in versions}
    assert found.keys() == {"0.1.0", "0.2.0"}
    assert getattr(found["0.1.0"], attribute) == read


@pytest.mark.parametrize(
    ("field", "value"),
    [("VersionName", 7), ("VersionName", None), ("ApprovalStatus", 1), ("ApprovalStatus", ["Approved"])],
)
def test_an_odd_field_that_decides_is_refused(field: str, value: Any) -> None:
    entry = {"VersionName": "0.1.0", field: value}
    with pytest.raises(api.PaiResponseError, match="not what the API page promises"):
        drive(api.list_model_versions("model-1"), [ok(Versions=[entry], TotalCount=1)])


@pytest.mark.parametrize(
    "latest", [{"VersionName": 7}, {}, [], "0.1.0", {"VersionName": "0.1.0", "ApprovalStatus": 3}]
)
def test_an_odd_latest_version_does_not_hide_the_model(latest: Any) -> None:
    body = {"ModelId": "model-1", "ModelName": "n", "LatestVersion": latest}
    assert drive(api.get_model("model-1"), [ok(**body)]).latest_version is None


def test_a_latest_version_is_read_as_leniently_as_others() -> None:
    latest = {"VersionName": "0.1.0", "Metrics": json.dumps(METRICS), "GmtCreateTime": "no time"}
    model = drive(api.get_model("model-1"), [ok(ModelId="model-1", ModelName="n", LatestVersion=latest)])
    assert model.latest_version.metrics == METRICS


# --- what the server lets through is checked again


def test_only_the_very_name_counts(run: Run, pai_emulator: PaiEmulator) -> None:
    pai_emulator.quirks.model_name_match = "fuzzy"
    for name in ("digits-2", "my-digits", "Digits", "digits"):
        pai_emulator.add_model(name)
    assert [model.model_name for model in run(api.list_models(name="digits"))] == ["digits"]


def test_filters_that_pai_ignores_are_checked_here(
    run: Run, pai_emulator: PaiEmulator, model_id: str
) -> None:
    pai_emulator.quirks.version_filters = "ignored"
    pai_emulator.add_model_version(model_id, labels={"run": "1"}, SourceId="s", FormatType="ONNX")
    pai_emulator.add_model_version(model_id, labels={"run": "12"}, approval_status="Approved")
    for filters, names in (
        ({"approval_status": "Approved"}, ["0.2.0"]),
        ({"labels": "run:1"}, ["0.1.0"]),
        ({"source_id": "s"}, ["0.1.0"]),
        ({"format_type": "ONNX"}, ["0.1.0"]),
        ({"version_name": "0.2.0"}, ["0.2.0"]),
        ({"source_type": "Custom"}, ["0.1.0", "0.2.0"]),
        ({"source_type": "PAIFlow"}, []),
    ):
        found = run(api.list_model_versions(model_id, **filters))
        assert [version.version_name for version in found] == names, filters


def test_a_workspace_or_a_source_that_pai_does_not_tell_is_the_one_that_was_asked_for() -> None:
    models = [{"ModelId": "m-1", "ModelName": "n"}, {"ModelId": "m-2", "ModelName": "n", "WorkspaceId": "2"}]
    found = drive(api.list_models(workspace_id="1", name="n"), [ok(Models=models, TotalCount=2)])
    assert [model.model_id for model in found] == ["m-1"]
    versions = [{"VersionName": "0.1.0"}]
    listed = [ok(Versions=versions, TotalCount=1)]
    assert drive(api.list_model_versions("m-1", source_type="Custom"), listed)
    assert not drive(api.list_model_versions("m-1", source_type="PAIFlow"), listed)


# --- what is not there, or not yet


@pytest.mark.parametrize("missing", ["404", "200"])
def test_a_version_that_is_missing(run: Run, pai_emulator: PaiEmulator, model_id: str, missing: Any) -> None:
    pai_emulator.quirks.missing_version = missing
    with pytest.raises(api.PaiModelNotFoundError) as caught:
        run(api.get_model_version(model_id, "9.9.9"))
    assert (caught.value.retryable, caught.value.transient) == (True, False)
    assert "9.9.9" in str(caught.value) and "up to a minute" in str(caught.value)
    assert caught.value.request_id


def test_a_model_that_pai_shows_without_fields_is_missing() -> None:
    for body in ({}, {"RequestId": "R-1"}, {"ModelId": "model-1"}):
        with pytest.raises(api.PaiModelNotFoundError, match="there is no model 'model-1'"):
            drive(api.get_model("model-1"), [ok(**body)])
    with pytest.raises(api.PaiModelNotFoundError, match="ModelNotExist"):
        drive(api.get_model("model-1"), [ok(Code="ModelNotExist", Message="gone")])


@pytest.mark.parametrize(
    "ask",
    [
        lambda: api.get_model("model-none"),
        lambda: api.update_model("model-none", domain="cv"),
        lambda: api.set_model_labels("model-none", "a:b"),
        lambda: api.delete_model_labels("model-none", "a"),
        lambda: api.delete_model("model-none"),
        lambda: api.create_model_version("model-none", URI),
        lambda: api.list_model_versions("model-none"),
        lambda: api.update_model_version("model-none", "1.0.0", approval_status="Approved"),
        lambda: api.set_model_version_labels("model-none", "1.0.0", "a:b"),
        lambda: api.delete_model_version_labels("model-none", "1.0.0", "a"),
        lambda: api.delete_model_version("model-none", "1.0.0"),
    ],
)
def test_what_is_not_there_is_one_typed_error(run: Run, pai_emulator: PaiEmulator, ask: Any) -> None:
    with pytest.raises(api.PaiModelNotFoundError):
        run(ask())


def test_what_is_new_shows_after_a_while(run: Run, pai_emulator: PaiEmulator) -> None:
    pai_emulator.quirks.hidden_model = pai_emulator.quirks.hidden_version = 1
    model_id = run(api.create_model("digits", workspace_id=WORKSPACE))
    with pytest.raises(api.PaiModelNotFoundError):
        run(api.get_model(model_id))
    assert run(api.get_model(model_id)).model_name == "digits"
    name = run(api.create_model_version(model_id, URI))
    assert run(api.list_model_versions(model_id)) == []
    assert run(api.get_model_version(model_id, name)).version_name == name


def test_a_workspace_that_is_missing_is_not_called_a_model(run: Run) -> None:
    with pytest.raises(api.PaiNotFoundError) as caught:
        run(api.create_model("digits", workspace_id="999"))
    assert type(caught.value) is api.PaiNotFoundError


@pytest.mark.parametrize("how", NAME_TAKEN[:2])
def test_a_version_name_that_is_taken(run: Run, pai_emulator: PaiEmulator, model_id: str, how: Any) -> None:
    pai_emulator.quirks.name_taken = how
    run(api.create_model_version(model_id, URI, version_name="1.0.0"))
    with pytest.raises(api.PaiApiError) as caught:
        run(api.create_model_version(model_id, URI, version_name="1.0.0"))
    assert says_taken(caught.value)
    assert len(pai_emulator.model_versions(model_id)) == 1


@pytest.mark.parametrize("kind", ["reset_after", "truncate", "server_error"])
def test_a_creation_whose_answer_is_lost_is_not_sent_again(
    run: Run, pai_emulator: PaiEmulator, model_id: str, kind: str
) -> None:
    pai_emulator.inject(kind, action="CreateModelVersion")
    with pytest.raises(api.PaiError) as caught:
        run(api.create_model_version(model_id, URI))
    assert caught.value.transient
    assert pai_emulator.request_counts["CreateModelVersion"] == 1


def test_a_creation_that_was_throttled_is_sent_again(
    run: Run, pai_emulator: PaiEmulator, model_id: str
) -> None:
    pai_emulator.inject("throttle", action="CreateModelVersion", retry_after_ms=1)
    assert run(api.create_model_version(model_id, URI)) == "0.1.0"
    assert len(pai_emulator.model_versions(model_id)) == 1


# --- a model is found or created


def find_or_create(pai: PaiEmulator, name: str = "digits", **more: Any) -> str:
    return str(sync_run(pai, api.get_or_create_model(name, workspace_id=WORKSPACE, **more)))


def stored(pai: PaiEmulator) -> list[str]:
    return [body["ModelId"] for body in pai.models()]


def test_a_model_is_created_once_and_found_again(run: Run, pai_emulator: PaiEmulator) -> None:
    flow = api.get_or_create_model("digits", workspace_id=WORKSPACE, labels="team:a", domain="cv")
    made = run(flow)
    (body,) = pai_emulator.models()
    assert (body["ModelName"], body["Labels"], body["Domain"]) == ("digits", {"team": "a"}, "cv")
    again = api.get_or_create_model("digits", workspace_id=WORKSPACE, labels="team:b")
    assert run(again) == made
    assert pai_emulator.models() == [body]
    assert pai_emulator.request_counts == {"ListModels": 3, "CreateModel": 1}


@pytest.mark.parametrize("match", ["exact", "fuzzy"])
def test_a_name_in_part_or_in_another_workspace_is_another_model(
    pai_emulator: PaiEmulator, match: Any
) -> None:
    pai_emulator.quirks.model_name_match = match
    others = [pai_emulator.add_model(name) for name in ("digits-2", "my-digits", "Digits")]
    others.append(pai_emulator.add_model("digits", workspace_id="145884"))
    made = find_or_create(pai_emulator)
    assert made not in others
    assert find_or_create(pai_emulator) == made


def test_of_several_models_of_the_name_the_one_with_versions_is_meant(pai_emulator: PaiEmulator) -> None:
    pai_emulator.quirks.model_names = "repeatable"
    models = [pai_emulator.add_model("digits") for _ in range(3)]
    assert find_or_create(pai_emulator) == models[0]
    pai_emulator.add_model_version(models[1], "0.1.0")
    assert find_or_create(pai_emulator) == models[1]
    pai_emulator.add_model_version(models[2], "0.1.0")
    with pytest.raises(
        api.PaiUsageError, match=f"2 models named 'digits' have versions: {models[1]}, {models[2]}"
    ):
        find_or_create(pai_emulator)


# --- the emulator, for those who test their own DAGs


def control(pai: PaiEmulator, method: str, path: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(f"{pai.url}/_emulator/{path}", json.dumps(body).encode(), method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_another_process_adds_and_approves_versions(pai_emulator: PaiEmulator) -> None:
    status, body = control(pai_emulator, "POST", "models", {"name": "digits", "labels": {"a": "b"}})
    model_id = body["ModelId"]
    assert (status, pai_emulator.models()[0]["ModelName"]) == (200, "digits")
    version = {"model_id": model_id, "approval_status": "Pending", "SourceId": "s"}
    assert control(pai_emulator, "POST", "versions", version) == (200, {"VersionName": "0.1.0"})
    decision = {"model_id": model_id, "version_name": "0.1.0", "status": "Rejected", "description": "no"}
    assert control(pai_emulator, "PATCH", "versions", decision) == (200, {})
    (stored_version,) = pai_emulator.model_versions(model_id)
    assert (stored_version["ApprovalStatus"], stored_version["VersionDescription"]) == ("Rejected", "no")
    assert stored_version["SourceId"] == "s"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "models", []),
        ("POST", "models", {"name": 7}),
        ("POST", "versions", {}),
        ("POST", "versions", {"model_id": "model-none"}),
        ("PATCH", "versions", {"model_id": "model-none", "version_name": "1.0.0"}),
        ("PATCH", "versions", {"model_id": "m", "version_name": "1.0.0", "state": "Approved"}),
        ("POST", "faults", [{"kind": "insert_version", "version": {"model_id": 7}}]),
        ("POST", "faults", [{"kind": "approve_version", "version": {"version": "1.0.0"}}]),
    ],
)
def test_a_wrong_control_request_changes_nothing(
    pai_emulator: PaiEmulator, method: str, path: str, body: Any
) -> None:
    status, answer = control(pai_emulator, method, path, body)
    assert (status, list(answer)) == (400, ["error"])
    assert pai_emulator.models() == []


def test_what_happens_to_versions_meanwhile(run: Run, pai_emulator: PaiEmulator, model_id: str) -> None:
    version = {"model_id": model_id, "version_name": "1.0.0"}
    pai_emulator.inject("insert_version", action="ListModelVersions", version=version)
    pai_emulator.inject("approve_version", action="ListModelVersions", after=1, version=version)
    seen = [run(api.list_model_versions(model_id))[0].approval_status for _ in range(2)]
    assert seen == ["Pending", "Approved"]


def test_a_fault_that_changes_a_version_that_is_not_there_says_so(
    run: Run, pai_emulator: PaiEmulator, model_id: str
) -> None:
    version = {"model_id": model_id, "version_name": "1.0.0"}
    pai_emulator.inject("approve_version", action="GetModel", version=version)
    with pytest.raises(api.PaiApiError, match="FaultFailed"):
        run(api.get_model(model_id))


def test_what_a_test_arranges_is_kept_in_a_file(tmp_path: Any) -> None:
    with PaiEmulator(db=tmp_path / "pai.sqlite") as pai:
        model_id = pai.add_model("digits", labels={"a": "b"}, gmt_create_time="2026-01-02T03:04:05Z")
        pai.add_model_version(model_id, "1.0.0")
        pai.approve_model_version(model_id, "1.0.0", status="Rejected", description="worse")
        pai.label_model_version(model_id, "1.0.0", {"c": "d"})
        pai.add_model_version(model_id)
    with PaiEmulator(db=tmp_path / "pai.sqlite") as pai:
        (body,) = pai.models()
        assert (body["Labels"], body["GmtCreateTime"]) == ({"a": "b"}, "2026-01-02T03:04:05.000Z")
        first, second = pai.model_versions(model_id)
        assert (first["ApprovalStatus"], first["VersionDescription"], first["Labels"]) == (
            "Rejected",
            "worse",
            {"c": "d"},
        )
        assert second["VersionName"] == "1.1.0"
        pai.delete_model_version(model_id, "1.0.0")
        pai.delete_model(model_id)
        assert (pai.models(), pai.model_versions(model_id)) == ([], [])


def test_a_model_with_versions_may_be_refused_to_be_deleted(
    run: Run, pai_emulator: PaiEmulator, model_id: str
) -> None:
    pai_emulator.quirks.model_with_versions = "refused"
    pai_emulator.add_model_version(model_id)
    with pytest.raises(api.PaiApiError, match="ModelNotEmpty"):
        run(api.delete_model(model_id))
