"""The hook's methods for models and their versions, in the workspace that somebody names, or the default."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
from airflow_db import SECRET  # before anything of Airflow

from airflow_provider_pai import api
from airflow_provider_pai.hooks import PaiHook

URI = "https://host/model.pt"


@pytest.fixture
def hook(pai_emulator: Any, monkeypatch: pytest.MonkeyPatch) -> PaiHook:
    monkeypatch.setenv("AIRFLOW_CONN_PAI_DEFAULT", pai_emulator.connection_uri)
    return PaiHook()


def test_a_model_and_its_versions_from_their_creation_to_their_end(hook: PaiHook) -> None:
    model_id = hook.get_or_create_model("digits", labels={"team": "a"}, domain="cv")
    assert hook.get_or_create_model("digits") == model_id
    name = hook.create_model_version(model_id, URI, approval_status="Pending", labels="pai_run:run-1")
    hook.update_model_version(model_id, name, approval_status="Approved")
    hook.set_model_version_labels(model_id, name, {"stage": "live"})
    (version,) = hook.list_model_versions(model_id, approval_status="Approved", labels="pai_run:run-1")
    assert hook.get_model_version(model_id, name) == version
    assert version.labels == {"pai_run": "run-1", "stage": "live"}
    hook.set_model_labels(model_id, {"stage": "live"})
    hook.update_model(model_id, model_description="reads digits")
    (model,) = hook.list_models(name="digits", labels="team:a", domain="cv")
    assert hook.get_model(model_id) == model
    assert (model.model_description, model.latest_version) == ("reads digits", version)
    hook.delete_model_labels(model_id, "team")
    hook.delete_model_version_labels(model_id, name, ["stage", "pai_run"])
    assert hook.get_model_version(model_id, name).labels == {}
    hook.delete_model_version(model_id, name)
    hook.delete_model(model_id)
    assert hook.list_models() == []
    with pytest.raises(api.PaiModelNotFoundError, match=model_id):
        hook.get_model(model_id)


def test_models_are_those_of_one_workspace(
    hook: PaiHook, pai_emulator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = hook.create_model("digits"), hook.create_model("digits", workspace_id="145884")
    assert [model.model_id for model in hook.list_models()] == [here]
    assert [model.model_id for model in hook.list_models(workspace_id="145884")] == [there]
    assert PaiHook(workspace_id=145884).get_or_create_model("digits") == there
    fields = {"conn_type": "pai", "login": "emulator", "password": SECRET, "host": pai_emulator.url}
    monkeypatch.setenv("AIRFLOW_CONN_ANYWHERE", json.dumps(fields))
    nowhere = PaiHook("anywhere")  # the default workspace, which alone has the name that counts
    assert nowhere.get_or_create_model("digits") == here
    assert [model.model_id for model in nowhere.list_models(name="digits")] == [here]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda hook: hook.create_model(""),
        lambda hook: hook.create_model("n", accessibility="public"),
        lambda hook: hook.get_or_create_model("x" * 128),
        lambda hook: hook.list_models(name=None),
        lambda hook: hook.list_models(workspace_id=None),
        lambda hook: hook.list_models(nam="n"),
        lambda hook: hook.list_models(page_size=0),
        lambda hook: hook.list_model_versions("model-1", approval_status=None),
        lambda hook: hook.create_model_version("model-1", "oss://conn@bucket/model.pt"),
        lambda hook: hook.update_model_version("model-1", "1.0.0"),
    ],
)
def test_wrong_arguments_are_refused_before_the_connection_is_read(wrong: Any) -> None:
    with pytest.raises(api.PaiUsageError):
        wrong(PaiHook("there_is_no_such_connection"))


def test_methods_have_the_flows_own_signature_and_description() -> None:
    assert list(inspect.signature(PaiHook.get_model_version).parameters) == [
        "self",
        "model_id",
        "version_name",
    ]
    assert PaiHook.create_model_version.__doc__ == api.create_model_version.__doc__
