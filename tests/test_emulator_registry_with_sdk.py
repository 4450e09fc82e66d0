"""The emulator's model registry with the official SDK, sync and async: every operation, every filter."""

from __future__ import annotations

from typing import Any

import pytest
from sdk_client import QUIET, SdkClient, models  # skips this module where the official SDK is not installed

from airflow_provider_pai.emulator import PaiEmulator

pytestmark = QUIET
URI = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/digits/"
METRICS = {"Results": [{"Dataset": {"Uri": "oss://b"}, "Metrics": {"accuracy": 0.93}}]}


@pytest.fixture(params=["sync", "async"])
def sdk(request: pytest.FixtureRequest, pai_emulator: PaiEmulator) -> Any:
    return SdkClient.of(pai_emulator, request.param)


def labels(record: Any) -> dict[str, str]:
    return {label.key: label.value for label in record.labels}


def test_a_model_from_its_creation_to_its_end(sdk: Any, pai_emulator: PaiEmulator) -> None:
    created = sdk(
        "create_model",
        models.CreateModelRequest(
            model_name="数字 classifier",
            workspace_id="145884",
            model_description="reads digits",
            model_doc="# Digits",
            domain="cv",
            task="image-classification",
            model_type="Checkpoint",
            origin="HuggingFace",
            accessibility="PUBLIC",
            order_number=3,
            parameter_size=7,
            extra_info={"license": {"name": "MIT"}},
            labels=[models.Label(key="team", value="a b+c")],
            tag=[models.Label(key="stage", value="x:y")],
        ),
    )
    model_id = created.model_id
    assert model_id.startswith("model-") and created.request_id

    model = sdk("get_model", model_id, models.GetModelRequest())
    assert (model.model_name, model.workspace_id, model.accessibility) == (
        "数字 classifier",
        "145884",
        "PUBLIC",
    )
    assert (model.domain, model.task, model.model_type) == ("cv", "image-classification", "Checkpoint")
    assert (model.model_description, model.model_doc, model.origin) == (
        "reads digits",
        "# Digits",
        "HuggingFace",
    )
    assert (model.order_number, model.parameter_size) == (3, 7)
    assert model.extra_info == {"license": {"name": "MIT"}}
    assert labels(model) == {"team": "a b+c", "stage": "x:y"}
    assert model.latest_version is None and model.request_id and model.gmt_create_time

    update = models.UpdateModelRequest(model_name="digits", accessibility="PRIVATE", extra_info={"a": 1})
    assert sdk("update_model", model_id, update).request_id
    more = models.CreateModelLabelsRequest(labels=[models.Label(key="more", value="1")])
    assert sdk("create_model_labels", model_id, more).request_id
    fewer = models.DeleteModelLabelsRequest(label_keys="team,stage")
    assert sdk("delete_model_labels", model_id, fewer).request_id
    sdk("create_model_version", model_id, models.CreateModelVersionRequest(uri=URI))
    model = sdk("get_model", model_id, models.GetModelRequest())
    assert (model.model_name, model.accessibility, model.domain) == ("digits", "PRIVATE", "cv")
    assert (labels(model), model.latest_version.version_name) == ({"more": "1"}, "0.1.0")

    assert sdk("delete_model", model_id, models.DeleteModelRequest()).request_id
    page = sdk("list_models", models.ListModelsRequest())
    assert (page.models, page.total_count) == ([], 0)


def test_a_version_from_its_creation_to_its_end(sdk: Any, pai_emulator: PaiEmulator) -> None:
    model_id = pai_emulator.add_model("digits")
    request = models.CreateModelVersionRequest(
        uri=URI,
        version_name="1.0.0_beta",
        version_description="the first",
        approval_status="Pending",
        format_type="Keras H5",
        framework_type="TensorFlow",
        source_type="TrainingService",
        source_id="region=cn-hangzhou,workspaceId=1,kind=TrainingJob,id=train-1",
        metrics=METRICS,
        labels=[models.Label(key="pai_run", value="run-1")],
        inference_spec={"processor": "tensorflow_gpu_1.12"},
        training_spec={"epochs": 3},
        extra_info={"a": [1]},
        options='{"b": 2}',
    )
    created = sdk("create_model_version", model_id, request)
    assert (created.version_name, bool(created.request_id)) == ("1.0.0_beta", True)
    version = sdk("get_model_version", model_id, "1.0.0_beta", models.GetModelVersionRequest())
    assert version.request_id and version.owner_id and version.gmt_modified_time
    for name in request.to_map():
        field = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]
        if field != "labels":
            assert getattr(version, field) == getattr(request, field)
    assert labels(version) == {"pai_run": "run-1"}

    update = models.UpdateModelVersionRequest(approval_status="Approved", version_description="good")
    assert sdk("update_model_version", model_id, "1.0.0_beta", update).request_id
    more = models.CreateModelVersionLabelsRequest(labels=[models.Label(key="more", value="1")])
    assert sdk("create_model_version_labels", model_id, "1.0.0_beta", more).request_id
    fewer = models.DeleteModelVersionLabelsRequest(label_keys="pai_run")
    assert sdk("delete_model_version_labels", model_id, "1.0.0_beta", fewer).request_id
    version = sdk("get_model_version", model_id, "1.0.0_beta", models.GetModelVersionRequest())
    assert (version.approval_status, version.version_description) == ("Approved", "good")
    assert (labels(version), version.uri, version.metrics) == ({"more": "1"}, URI, METRICS)

    assert sdk("delete_model_version", model_id, "1.0.0_beta", models.DeleteModelVersionRequest()).request_id
    page = sdk("list_model_versions", model_id, models.ListModelVersionsRequest())
    assert (page.versions, page.total_count) == ([], 0)


def test_versions_count_up_from_the_first(sdk: Any, pai_emulator: PaiEmulator) -> None:
    model_id = pai_emulator.add_model()
    request = models.CreateModelVersionRequest(uri=URI)
    names = [sdk("create_model_version", model_id, request).version_name for _ in range(3)]
    assert names == ["0.1.0", "0.2.0", "0.3.0"]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["alpha", "beta", "gamma", "other"]),
        ({"workspace_id": "145883"}, ["alpha", "beta", "gamma"]),
        ({"model_name": "beta"}, ["beta"]),
        ({"model_name": "a"}, []),
        ({"domain": "nlp"}, ["alpha"]),
        ({"task": "t", "model_type": "LoRA", "origin": "ModelScope"}, ["gamma"]),
        ({"label": "tea"}, ["alpha", "beta"]),
        ({"label": "red"}, ["beta"]),
        pytest.param({"tag": [models.ListModelsRequestTag(key="team", value="red")]}, ["beta"], id="tag"),
        ({"page_number": 2, "page_size": 3}, ["other"]),
        ({"sort_by": "GmtCreateTime", "order": "DESC"}, ["other", "gamma", "beta", "alpha"]),
        ({"provider": "pai"}, []),
    ],
    ids=str,
)
def test_list_models(
    sdk: Any, pai_emulator: PaiEmulator, parameters: dict[str, Any], expected: list[str]
) -> None:
    pai_emulator.add_model("alpha", labels={"team": "blue"}, Domain="nlp")
    pai_emulator.add_model("beta", labels={"team": "red"})
    pai_emulator.add_model("gamma", Task="t", ModelType="LoRA", Origin="ModelScope")
    pai_emulator.add_model("other", workspace_id="145884")
    page = sdk("list_models", models.ListModelsRequest(**parameters))
    assert [model.model_name for model in page.models] == expected
    assert page.request_id


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["0.1.0", "0.2.0", "0.3.0"]),
        ({"approval_status": "Approved"}, ["0.2.0"]),
        ({"version_name": "0.3.0"}, ["0.3.0"]),
        ({"label": "run-1"}, ["0.1.0"]),
        ({"label": "pai_run"}, ["0.1.0", "0.2.0"]),
        ({"source_type": "PAIFlow"}, ["0.3.0"]),
        ({"source_id": "mine"}, ["0.1.0"]),
        ({"format_type": "ONNX", "framework_type": "Pytorch"}, ["0.2.0"]),
        ({"page_number": 2, "page_size": 2}, ["0.3.0"]),
        ({"order": "DESC", "sort_by": "GmtCreateTime"}, ["0.3.0", "0.2.0", "0.1.0"]),
    ],
    ids=str,
)
def test_list_model_versions(
    sdk: Any, pai_emulator: PaiEmulator, parameters: dict[str, Any], expected: list[str]
) -> None:
    model_id = pai_emulator.add_model("digits")
    pai_emulator.add_model_version(model_id, labels={"pai_run": "run-1"}, SourceId="mine")
    pai_emulator.add_model_version(
        model_id, labels={"pai_run": "run-2"}, FormatType="ONNX", FrameworkType="Pytorch"
    )
    pai_emulator.add_model_version(model_id, SourceType="PAIFlow")
    pai_emulator.approve_model_version(model_id, "0.2.0")
    page = sdk("list_model_versions", model_id, models.ListModelVersionsRequest(**parameters))
    assert [version.version_name for version in page.versions] == expected
    assert page.request_id


def test_refusals(sdk: Any, pai_emulator: PaiEmulator) -> None:
    model_id = pai_emulator.add_model("digits")
    pai_emulator.add_model_version(model_id)
    version = models.CreateModelVersionRequest
    for arguments, code in [
        (("create_model", models.CreateModelRequest(model_name="x" * 128)), "InvalidParameter"),
        (("create_model", models.CreateModelRequest(model_name="digits")), "ModelAlreadyExists"),
        (("get_model", "model-none", models.GetModelRequest()), "ModelNotFound"),
        (("create_model_version", "model-none", version(uri=URI)), "ModelNotFound"),
        (("create_model_version", model_id, version()), "InvalidParameter"),
        (("create_model_version", model_id, version(uri="oss://conn@bucket/x")), "InvalidParameter"),
        (("create_model_version", model_id, version(uri=URI, version_name="v1")), "InvalidParameter"),
        (
            ("create_model_version", model_id, version(uri=URI, version_name="0.1.0")),
            "ModelVersionAlreadyExists",
        ),
        (("create_model_version", model_id, version(uri=URI, approval_status="Good")), "InvalidParameter"),
        (("create_model_version", model_id, version(uri=URI, metrics={"a": "b" * 8192})), "InvalidParameter"),
        (("create_model_version", model_id, version(uri=URI, source_type="PAIFlow")), "InvalidParameter"),
        (("get_model_version", model_id, "9.9.9", models.GetModelVersionRequest()), "ModelVersionNotFound"),
        (
            ("delete_model_version", model_id, "9.9.9", models.DeleteModelVersionRequest()),
            "ModelVersionNotFound",
        ),
        (("list_model_versions", "model-none", models.ListModelVersionsRequest()), "ModelNotFound"),
    ]:
        with pytest.raises(Exception, match="request id") as caught:
            sdk(*arguments)
        assert getattr(caught.value, "code", None) == code, arguments
