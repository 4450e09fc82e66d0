"""The operations on models, after the vendor's API pages and its SDK's models."""

from __future__ import annotations

import json
from typing import Any

from .errors import RefusedError, invalid, not_found, taken
from .experiments import ACCESSIBILITIES
from .parameters import Query, RequestBody
from .registered import (
    Body,
    given,
    holds,
    labelling,
    model,
    page,
    pairs,
    shown_version,
    still_hidden,
    unlabelling,
)
from .routes import Call, Service, answer_both, operation, workspace

_MODEL_TEXTS = ("ModelDescription", "ModelDoc", "Domain", "Task", "ModelType", "Origin")


@operation("POST", "models")
def create_model(service: Service, call: Call) -> str:
    """CreateModel. Labels is the older name of Tag."""
    body = call.body
    name = _model_name(body.required("ModelName"))
    workspace_id = workspace(service, body.text("WorkspaceId"))
    labels = body.labels(service.quirks.label_characters) or {}
    tags = body.labels(service.quirks.label_characters, "Tag") or {}
    if service.quirks.model_labels == "ignored":
        labels = {}
    fields = {field: value for field, value in _model_fields(body).items() if value is not None}
    _refuse_taken(service, name, workspace_id)
    model_id = service.account.add_model(name, workspace_id=workspace_id, labels={**labels, **tags}, **fields)
    service.hidden_models[model_id] = service.quirks.hidden_model
    return answer_both(call, ModelId=model_id)


def _model_name(name: str) -> str:
    if len(name) > 127:
        raise invalid("ModelName", f"{name!r} has more than 127 characters")
    return name


def _model_fields(body: RequestBody) -> dict[str, Any]:
    return {
        **{name: body.text(name) for name in _MODEL_TEXTS},
        **{name: body.whole(name) for name in ("OrderNumber", "ParameterSize")},
        "Accessibility": body.choice("Accessibility", ACCESSIBILITIES),
        "ExtraInfo": body.document("ExtraInfo"),
    }


def _refuse_taken(service: Service, name: str | None, workspace_id: str, renamed: str = "") -> None:
    """Refuse a name that another model of the workspace has."""
    if service.quirks.model_names == "repeatable":
        return
    for body in service.account.models():
        same = (body["ModelName"], body["WorkspaceId"]) == (name, workspace_id)
        if same and body["ModelId"] != renamed:
            raise taken("Model", body["ModelName"], service.quirks.name_taken)


@operation("GET", "models/{ModelId}")
def get_model(service: Service, call: Call) -> str:
    """GetModel, with the latest version."""
    model_id = call.path["ModelId"]
    body = model(service, model_id)
    if still_hidden(service.hidden_models, model_id):
        raise not_found("Model", model_id)
    return answer_both(call, **_shown_model(service, body))


def _shown_model(service: Service, body: Body) -> Body:
    labels = pairs(body["Labels"])
    shown = service.quirks.model_labels
    versions = service.account.model_versions(body["ModelId"])
    latest = max(versions, key=lambda version: str(version["GmtCreateTime"]), default=None)
    return {
        **body,
        "Labels": [] if shown == "tags" else labels,
        "Tags": labels if shown in ("tags", "both") else [],
        **({"LatestVersion": shown_version(service, latest)} if latest else {}),
    }


@operation("PUT", "models/{ModelId}")
def update_model(service: Service, call: Call) -> str:
    """UpdateModel: fields that the body does not name stay as they are."""
    model_id, name = call.path["ModelId"], call.body.text("ModelName")
    changes = {"ModelName": name and _model_name(name), **_model_fields(call.body)}
    _refuse_taken(service, name, model(service, model_id)["WorkspaceId"], renamed=model_id)
    service.account.edit_model(model_id, lambda body: body.update(given(changes)))
    return answer_both(call)


@operation("DELETE", "models/{ModelId}")
def delete_model(service: Service, call: Call) -> str:
    """DeleteModel. The documentation does not say whether it deletes the model's versions too."""
    model_id = call.path["ModelId"]
    refused = service.quirks.model_with_versions == "refused"
    if refused and service.account.model_versions(model_id):
        raise RefusedError(400, "ModelNotEmpty", f"Model {model_id!r} still has versions.")
    service.account.delete_model(model_id)
    return answer_both(call)


@operation("GET", "models")
def list_models(service: Service, call: Call) -> str:
    """ListModels: one's own, unless a Provider is named, of which the emulator has none."""
    query = call.query
    name, match = query.text("ModelName"), service.quirks.model_name_match
    workspace_id = query.text("WorkspaceId")
    if workspace_id is not None:
        workspace(service, workspace_id)
    exact = {field: query.text(field) for field in ("Domain", "Task", "ModelType", "Origin", "Provider")}
    tags = _tags(query)
    found = [
        body
        for body in service.account.models()
        if workspace_id in (None, body["WorkspaceId"])
        and _name_matches(name, body["ModelName"], match)
        and all(value is None or body[field] == value for field, value in exact.items())
        and holds(query.text("Label"), body["Labels"])
        and tags.items() <= body["Labels"].items()
        and not still_hidden(service.hidden_models, body["ModelId"])
    ]
    return page(service, call, "Models", found, "ModelName", _shown_model)


def _name_matches(wanted: str | None, name: str, match: str) -> bool:
    if not wanted:
        return True
    return match != "never" and (wanted in name if match == "fuzzy" else wanted == name)


def _tags(query: Query) -> dict[str, str]:
    """Tag: `[{"Key": …, "Value": …}]`, as the SDK writes it."""
    try:
        return {tag["Key"]: tag["Value"] for tag in json.loads(query.text("Tag") or "[]")}
    except (ValueError, LookupError, TypeError):
        raise invalid("Tag", "it is not a JSON list of Key and Value") from None


@operation("POST", "models/{ModelId}/labels")
def create_model_labels(service: Service, call: Call) -> str:
    """CreateModelLabels."""
    service.account.edit_model(call.path["ModelId"], labelling(service, call.body))
    return answer_both(call)


@operation("DELETE", "models/{ModelId}/labels")
def delete_model_labels(service: Service, call: Call) -> str:
    """DeleteModelLabels. A label that is not there is not an error."""
    service.account.edit_model(call.path["ModelId"], unlabelling(call.query))
    return answer_both(call)
