"""The operations on the versions of models, after the vendor's API pages and its SDK's models."""

from __future__ import annotations

import re
from typing import Any

from .errors import RefusedError, invalid, not_found, taken
from .parameters import RequestBody
from .registered import (
    DOCUMENTS,
    given,
    holds,
    labelling,
    model,
    page,
    shown_version,
    still_hidden,
    unlabelling,
)
from .routes import Call, Service, answer_both, operation

APPROVALS = ("Pending", "Approved", "Rejected")
FORMATS = (
    *("OfflineModel", "SavedModel", "Keras H5", "Frozen Pb", "Caffe Prototxt", "TorchScript", "XGBoost"),
    *("PMML", "AlinkModel", "ONNX"),
)
FRAMEWORKS = ("Pytorch", "XGBoost", "Keras", "Caffe", "Alink", "Xflow", "TensorFlow")
SOURCES = ("Custom", "PAIFlow", "TrainingService")
_METRICS_BYTES = 8192
_LABELS = 20
_VERSION_NAME = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(_[A-Za-z0-9_]+)?")
_URI = re.compile(r"https?://[^/]+.*|oss://[^/@.]+\.[^/@]+\.[^/@]+/.+")


@operation("POST", "models/{ModelId}/versions")
def create_model_version(service: Service, call: Call) -> str:
    """CreateModelVersion."""
    body, model_id = call.body, call.path["ModelId"]
    uri = body.required("Uri")
    if not _URI.fullmatch(uri):
        raise invalid("Uri", f"{uri!r} is neither http(s) nor oss://<bucket>.<endpoint>/object")
    name = body.text("VersionName")
    if name and not _VERSION_NAME.fullmatch(name):
        raise invalid("VersionName", f"{name!r} is not a name such as 1.1.0 or 2.3.4_beta")
    labels = body.labels(service.quirks.label_characters) or {}
    if len(labels) > _LABELS:
        raise invalid("Labels", f"there are more than {_LABELS}")
    fields = {
        "FormatType": body.choice("FormatType", FORMATS),
        "FrameworkType": body.choice("FrameworkType", FRAMEWORKS),
        **_version_fields(body),
    }
    status, metrics = fields.pop("ApprovalStatus"), fields.pop("Metrics")
    if name in [version["VersionName"] for version in service.account.model_versions(model_id)]:
        raise taken("ModelVersion", str(name), service.quirks.name_taken)
    made = service.account.add_model_version(
        model_id,
        name or None,
        uri=uri,
        approval_status=status or "Pending",
        labels=labels,
        metrics=metrics,
        **given(fields),
    )
    service.hidden_versions[model_id, made] = service.quirks.hidden_version
    return answer_both(call, VersionName=made)


def _version_fields(body: RequestBody) -> dict[str, Any]:
    kind, source_id = body.choice("SourceType", SOURCES), body.text("SourceId")
    if kind not in (None, "Custom") and not re.fullmatch(
        "region=[^,]+,workspaceId=[^,]+,kind=[^,]+,id=.+", source_id or ""
    ):
        raise invalid("SourceId", f"{source_id!r} is not region=…,workspaceId=…,kind=…,id=…")
    return {
        "ApprovalStatus": body.choice("ApprovalStatus", APPROVALS),
        "SourceType": kind,
        "SourceId": source_id,
        "VersionDescription": body.text("VersionDescription"),
        "Options": body.text("Options"),
        "Metrics": body.document("Metrics", _METRICS_BYTES),
        **{name: body.document(name) for name in DOCUMENTS[1:]},
    }


@operation("GET", "models/{ModelId}/versions/{VersionName}")
def get_model_version(service: Service, call: Call) -> str:
    """GetModelVersion."""
    model_id, name = call.path["ModelId"], call.path["VersionName"]
    found = [body for body in service.account.model_versions(model_id) if body["VersionName"] == name]
    if not found or still_hidden(service.hidden_versions, (model_id, name)):
        if service.quirks.missing_version == "200":
            return answer_both(call)
        if service.quirks.missing_version == "500":
            raise RefusedError(500, "InternalServerErrorProblem", "The version cannot be read.")
        raise not_found("ModelVersion", name)
    return answer_both(call, **shown_version(service, found[0]))


@operation("PUT", "models/{ModelId}/versions/{VersionName}")
def update_model_version(service: Service, call: Call) -> str:
    """UpdateModelVersion: fields that the body does not name stay as they are."""
    changes = given(_version_fields(call.body))
    service.account.edit_model_version(*_named(call), lambda body: body.update(changes))
    return answer_both(call)


@operation("DELETE", "models/{ModelId}/versions/{VersionName}")
def delete_model_version(service: Service, call: Call) -> str:
    """DeleteModelVersion."""
    service.account.delete_model_version(*_named(call))
    return answer_both(call)


@operation("GET", "models/{ModelId}/versions")
def list_model_versions(service: Service, call: Call) -> str:
    """ListModelVersions. Label is a text that is looked for in the keys and values of labels."""
    model_id, query = call.path["ModelId"], call.query
    model(service, model_id)
    exact = {
        "ApprovalStatus": query.choice("ApprovalStatus", APPROVALS, ""),
        "FormatType": query.choice("FormatType", FORMATS, ""),
        "FrameworkType": query.choice("FrameworkType", FRAMEWORKS, ""),
        "SourceType": query.choice("SourceType", SOURCES, ""),
        **{name: query.text(name) for name in ("SourceId", "VersionName")},
    }
    honoured = service.quirks.version_filters == "honoured"
    found = [
        body
        for body in service.account.model_versions(model_id)
        if not (honoured and any(value and body[field] != value for field, value in exact.items()))
        and (not honoured or holds(query.text("Label"), body["Labels"]))
        and not still_hidden(service.hidden_versions, (model_id, body["VersionName"]))
    ]
    return page(service, call, "Versions", found, "VersionName", shown_version)


@operation("POST", "models/{ModelId}/versions/{VersionName}/labels")
def create_model_version_labels(service: Service, call: Call) -> str:
    """CreateModelVersionLabels."""
    service.account.edit_model_version(*_named(call), labelling(service, call.body))
    return answer_both(call)


@operation("DELETE", "models/{ModelId}/versions/{VersionName}/labels")
def delete_model_version_labels(service: Service, call: Call) -> str:
    """DeleteModelVersionLabels. A label that is not there is not an error."""
    service.account.edit_model_version(*_named(call), unlabelling(call.query))
    return answer_both(call)


def _named(call: Call) -> tuple[str, str]:
    return call.path["ModelId"], call.path["VersionName"]
