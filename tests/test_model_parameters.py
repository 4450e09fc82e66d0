"""What is said about a model and its versions is checked before it is sent: refused with what to write."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from conftest import drive
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_pai import api
from airflow_provider_pai.api import model_parameters

URI = "oss://bucket.oss-cn-hangzhou.aliyuncs.com/digits/model.pt"


def sent(flow: api.Flow[Any], **answer: Any) -> dict[str, Any]:
    """The body of the one request of a flow."""
    requests: list[api.Request] = []
    drive(flow, [api.Response(status=200, headers={}, body=json.dumps(answer).encode())], requests)
    (request,) = requests
    return json.loads(request.body)


def refusal(ask: Any) -> str:
    with pytest.raises(api.PaiUsageError) as caught:
        next(ask())
    return str(caught.value)


def version(**fields: Any) -> Any:
    return lambda: api.create_model_version("model-1", **{"uri": URI, **fields})


# --- the place of the files


@pytest.mark.parametrize(
    "uri",
    [
        URI,
        "oss://my-bucket.oss-cn-beijing-internal.aliyuncs.com/folder/",
        "oss://bucket.models.example.com/Ключ и пробел/模型.pt",
        "https://myweb.com/mymodel.tar.gz",
        "http://10.0.0.1:8080/model?version=3",
    ],
)
def test_a_place_that_pai_knows_is_sent_as_it_is(uri: str) -> None:
    assert sent(version(uri=uri)(), VersionName="0.1.0") == {"Uri": uri}


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (
            "oss://conn@bucket/a/b.pt",
            ["'oss://bucket.oss-cn-hangzhou.aliyuncs.com/a/b.pt'", "before the '@'"],
        ),
        ("oss://bucket/a", ["'oss://bucket.oss-cn-hangzhou.aliyuncs.com/a'", "endpoint"]),
        ("oss://key@bucket.oss-cn-beijing.aliyuncs.com/a", ["'oss://bucket.oss-cn-beijing.aliyuncs.com/a'"]),
        ("oss:///a", ["'oss://bucket.oss-cn-hangzhou.aliyuncs.com/a'"]),
        ("oss://bucket.oss-cn-hangzhou.aliyuncs.com", ["whole bucket"]),
        ("oss://bucket.oss-cn-hangzhou.aliyuncs.com/", ["whole bucket"]),
        ("s3://bucket/a", ["s3://…", "http, https or oss"]),
        ("/models/a.pt", ["'/models/a.pt'", "http, https or oss"]),
        ("https://", ["http, https or oss"]),
        ("https://host/a\nb", ["http, https or oss"]),
        ("https://[::1/a", ["not an address"]),
        ("OSS://bucket.oss-cn-hangzhou.aliyuncs.com/a", ["http, https or oss"]),
        ("", ["uri is empty"]),
        (None, ["uri is None"]),
        (7, ["write it as text"]),
        ("https://host/\ud800", ["surrogate"]),
    ],
)
def test_another_place_is_refused_with_what_to_write(uri: Any, words: list[str]) -> None:
    text = refusal(version(uri=uri))
    assert all(word in text for word in words), text


def test_a_secret_in_a_place_is_not_repeated() -> None:
    for uri in ("oss://LTAI:hush@bucket/a", "ftp://me:hush@host/a", "oss://hush@bucket.a.b/c"):
        assert "hush" not in refusal(version(uri=uri))


@given(st.text())
def test_any_text_is_sent_or_refused_and_nothing_else(uri: str) -> None:
    try:
        assert model_parameters.check_uri(uri) == uri
    except api.PaiUsageError:
        return
    assert uri.startswith(("http://", "https://", "oss://"))


# --- names


@pytest.mark.parametrize("name", ["1.0.0", "0.1.0", "12.34.56_beta", "2.3.4_b_2"])
def test_a_name_for_a_version(name: str) -> None:
    assert sent(version(version_name=name)(), VersionName=name)["VersionName"] == name


@pytest.mark.parametrize(
    "name", ["v1", "1.0", "1.0.0-beta", "1.0.0_", "1.0.0_ü", "\u0661.0.0", "1.0.0\n", "", 1]
)
def test_a_name_that_no_version_may_have(name: Any) -> None:
    assert "version_name" in refusal(version(version_name=name))


def test_a_name_for_a_model_has_up_to_127_characters() -> None:
    for name in ("a", "数字" * 63, "with space/and:more"):
        body = sent(api.create_model(name, workspace_id="1"), ModelId="model-1")
        assert body == {"ModelName": name, "WorkspaceId": "1"}
    assert "128 characters" in refusal(lambda: api.create_model("x" * 128, workspace_id="1"))
    assert "128 characters" in refusal(lambda: api.update_model("model-1", name="x" * 128))


# --- lists of PAI


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("approval_status", "approved", "Approved"),
        ("approval_status", "Reject", "Rejected"),
        ("format_type", "torchscript", "TorchScript"),
        ("format_type", "Keras", "Keras H5"),
        ("format_type", "onnx", "ONNX"),
        ("framework_type", "PyTorch", "Pytorch"),
        ("framework_type", "tensorflow2", "TensorFlow"),
        ("source_type", "PaiFlow", "PAIFlow"),
    ],
)
def test_what_pai_does_not_know_is_refused_with_the_nearest_that_it_knows(
    name: str, value: str, near: str
) -> None:
    text = refusal(version(**{name: value}))
    assert f"{name}={value!r} must be one of " in text
    assert f"Did you mean {near!r}?" in text
    assert near in text.partition("must be one of")[2].partition(".")[0]
    assert text == refusal(lambda: api.list_model_versions("model-1", **{name: value}))


@pytest.mark.parametrize("value", ["something else", 7, True, ["Approved"], {}])
def test_what_is_near_to_nothing_gets_the_list(value: Any) -> None:
    text = refusal(version(approval_status=value))
    assert "must be one of Pending, Approved, Rejected." in text
    assert "Did you mean" not in text


def test_every_value_that_pai_documents_is_sent() -> None:
    for field, values in (
        ("approval_status", model_parameters.APPROVAL_STATUSES),
        ("format_type", model_parameters.FORMAT_TYPES),
        ("framework_type", model_parameters.FRAMEWORK_TYPES),
    ):
        for value in values:
            assert value in sent(version(**{field: value})(), VersionName="0.1.0").values()


def test_a_source_says_what_kind_it_is() -> None:
    assert sent(version(source_id="dag/task/run-1")(), VersionName="1.0.0")["SourceId"] == "dag/task/run-1"
    job = "region=cn-hangzhou,workspaceId=1,kind=TrainingJob,id=train-1"
    body = sent(version(source_type="TrainingService", source_id=job)(), VersionName="1.0.0")
    assert (body["SourceType"], body["SourceId"]) == ("TrainingService", job)
    for wrong in ("train-1", "region=a,kind=b,id=c", "region=,workspaceId=1,kind=b,id=c"):
        assert "workspaceId=145883" in refusal(version(source_type="PAIFlow", source_id=wrong))


# --- metrics, specs and labels


def test_metrics_are_as_long_as_pai_takes_and_no_longer() -> None:
    room = model_parameters.METRICS_BYTES - len('{"a":""}')
    longest = {"a": "é" * (room // 2)}
    assert sent(version(metrics=longest)(), VersionName="1.0.0")["Metrics"] == longest
    text = refusal(version(metrics={"a": "x" * (room + 1)}))
    assert "8,193 bytes" in text and "8,192" in text
    assert "8,193 bytes" in refusal(
        lambda: api.update_model_version("model-1", "1.0.0", metrics={"a": "x" * (room + 1)})
    )


@pytest.mark.parametrize("name", ["metrics", "inference_spec", "training_spec", "extra_info"])
@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("{'a': 1}", "template"),
        ("accuracy", "write a dict"),
        ([1], "write a dict"),
        ({"a": [{"b": math.nan}]}, "JSON cannot carry"),
        ({"a": -math.inf}, "JSON cannot carry"),
        ({"a": object()}, "JSON cannot carry"),
        ({"a": "\ud800"}, "JSON cannot carry"),
    ],
)
def test_a_document_is_one_that_json_carries(name: str, value: Any, word: str) -> None:
    text = refusal(version(**{name: value}))
    assert name in text and word in text


def test_a_version_has_twenty_labels_at_most() -> None:
    twenty = {f"key-{number}": "v" for number in range(20)}
    assert len(sent(version(labels=twenty)(), VersionName="1.0.0")["Labels"]) == 20
    assert "21 labels" in refusal(version(labels={**twenty, "more": "v"}))


@pytest.mark.parametrize(
    "ask",
    [
        lambda: api.create_model("", workspace_id="1"),
        lambda: api.create_model("n", workspace_id=None),
        lambda: api.create_model("n", workspace_id="1", accessibility="public"),
        lambda: api.create_model("n", workspace_id="1", labels="no colon"),
        lambda: api.create_model("n", workspace_id="1", domian="nlp"),
        lambda: api.get_or_create_model("n", workspace_id=""),
        lambda: api.get_or_create_model("n", workspace_id="1", task=""),
        lambda: api.get_model(""),
        lambda: api.get_model(".."),
        lambda: api.update_model("model-1"),
        lambda: api.update_model("model-1", domain=7),
        lambda: api.set_model_labels("model-1", "a=b"),
        lambda: api.delete_model_labels("model-1", []),
        lambda: api.delete_model_labels("model-1", "a,b"),
        lambda: api.delete_model_labels("model-1", None),
        lambda: api.delete_model(None),
        lambda: api.list_models(name=None),
        lambda: api.list_models(names="n"),
        lambda: api.list_models(labels={}),
        lambda: api.list_models(page_size=0),
        lambda: api.create_model_version("", URI),
        lambda: api.create_model_version("model-1", URI, uris="x"),
        lambda: api.create_model_version("model-1", URI, options=""),
        lambda: api.get_model_version("model-1", ""),
        lambda: api.update_model_version("model-1", "1.0.0"),
        lambda: api.update_model_version("model-1", "1.0.0", uri=URI),
        lambda: api.set_model_version_labels("model-1", "1.0.0", "bad"),
        lambda: api.delete_model_version_labels("model-1", "1.0.0", [""]),
        lambda: api.delete_model_version("model-1", None),
        lambda: api.list_model_versions("model-1", approval_status=None),
        lambda: api.list_model_versions("model-1", labels=""),
        lambda: api.list_model_versions("model-1", status="Approved"),
        lambda: api.list_model_versions(""),
        lambda: api.list_model_versions("model-1", page_size=True),
    ],
)
def test_arguments_are_checked_before_the_first_request(ask: Any) -> None:
    assert refusal(ask)
