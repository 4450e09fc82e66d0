"""Flows for the versions of a model, which a person or a task approves.

Source: the vendor's API pages of AIWorkSpace 2021-02-04. Each flow names its page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_provider_pai.api.arguments import check_filters, check_keywords
from airflow_provider_pai.api.by_name import missing_as
from airflow_provider_pai.api.errors import PaiModelNotFoundError
from airflow_provider_pai.api.flow import Flow, Request, call, exchange
from airflow_provider_pai.api.model_parameters import (
    check_uri,
    check_version_name,
    chosen,
    document,
    encode_metrics,
    source,
    version_labels,
)
from airflow_provider_pai.api.model_records import (
    CreatedVersion,
    MaybeModelVersion,
    ModelVersion,
    VersionPage,
    found,
)
from airflow_provider_pai.api.paging import PAGE_SIZE
from airflow_provider_pai.api.parameters import path, text, write
from airflow_provider_pai.api.query import Labels, parse_labels
from airflow_provider_pai.api.registry_requests import (
    acknowledged,
    check_changes,
    create_labels,
    delete_labels,
    listing_by_number,
    missing,
    pascal,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "ModelVersionFields",
    "ModelVersionFilters",
    "create_model_version",
    "delete_model_version",
    "delete_model_version_labels",
    "get_model_version",
    "list_model_versions",
    "set_model_version_labels",
    "update_model_version",
]


class ModelVersionFields(TypedDict, total=False):
    """What can change in a version."""

    approval_status: str | None
    version_description: str | None
    metrics: Mapping[str, Any] | None
    source_type: str | None
    source_id: str | None
    inference_spec: Mapping[str, Any] | None
    training_spec: Mapping[str, Any] | None
    extra_info: Mapping[str, Any] | None
    options: str | None


class ModelVersionFilters(TypedDict, total=False):
    """The keywords that narrow :func:`list_model_versions`. One that is there was meant."""

    version_name: str
    approval_status: str
    labels: Labels
    format_type: str
    framework_type: str
    source_type: str
    source_id: str


def create_model_version(
    model_id: str,
    uri: str,
    *,
    version_name: str | None = None,
    format_type: str | None = None,
    framework_type: str | None = None,
    labels: Labels | None = None,
    **fields: Unpack[ModelVersionFields],
) -> Flow[str]:
    """Add a version to a model and return its name (CreateModelVersion).

    A repeated call adds another version, unless ``version_name`` is given, which PAI keeps unique.

    :param uri: where the files are: ``https://…`` or ``oss://bucket.endpoint/object``.
    :param version_name: such as ``1.0.0`` or ``1.0.0_beta``; without it PAI counts: 0.1.0, 0.2.0.
    :param format_type: such as TorchScript, SavedModel or ONNX.
    :param framework_type: such as Pytorch or TensorFlow.
    :param labels: at most 20.
    :param fields: approval_status (Pending, Approved or Rejected), version_description, metrics (a dict of at
        most 8,192 bytes as JSON), source_type (Custom, PAIFlow or TrainingService), source_id,
        inference_spec, training_spec, extra_info (dicts), options.
    :raises PaiModelNotFoundError: there is no such model, or it was created less than a minute ago.
    """
    body = {
        "Uri": check_uri(uri),
        "VersionName": None if version_name is None else check_version_name(version_name),
        "FormatType": chosen("format_type", format_type),
        "FrameworkType": chosen("framework_type", framework_type),
        "Labels": version_labels(labels),
        **_version_fields(fields),
    }
    request = write("POST", "CreateModelVersion", path("models", model_id) + "/versions", body)
    created = yield from missing_as(PaiModelNotFoundError, call(request, CreatedVersion))
    return created.version_name


def _version_fields(fields: ModelVersionFields) -> dict[str, Any]:
    check_keywords(fields, ModelVersionFields.__annotations__)
    specs = ("inference_spec", "training_spec", "extra_info")
    return {
        "ApprovalStatus": chosen("approval_status", fields.get("approval_status")),
        "Metrics": encode_metrics(fields.get("metrics")),
        **source(fields.get("source_type"), fields.get("source_id")),
        **{pascal(name): text(name, fields.get(name)) for name in ("version_description", "options")},
        **{pascal(name): document(name, fields.get(name)) for name in specs},
    }


def get_model_version(model_id: str, version_name: str) -> Flow[ModelVersion]:
    """Return one version of a model (GetModelVersion).

    :raises PaiModelNotFoundError: there is none, or it was created less than a minute ago.
    """
    request = Request(action="GetModelVersion", path=_version_path(model_id, version_name))
    version, response = yield from missing_as(PaiModelNotFoundError, exchange(request, MaybeModelVersion))
    if not (version.version_name and version.uri):
        text_ = f"the model {model_id!r} has no version {version_name!r}"
        raise missing("GetModelVersion", text_, response.request_id)
    return found(version, ModelVersion)


def update_model_version(
    model_id: str, version_name: str, **fields: Unpack[ModelVersionFields]
) -> Flow[None]:
    """Change the approval, or another of the fields of :func:`create_model_version` (UpdateModelVersion).

    Those that are not given stay as they are.
    """
    body = _version_fields(fields)
    check_changes("update_model_version", body, "approval_status or another field")
    yield from acknowledged(write("PUT", "UpdateModelVersion", _version_path(model_id, version_name), body))


def set_model_version_labels(model_id: str, version_name: str, labels: Labels) -> Flow[None]:
    """Add or change these labels and keep all others (GetModelVersion, CreateModelVersionLabels).

    The whole set is sent, because PAI does not say whether it keeps labels that are not.
    """
    wanted = parse_labels(labels)
    version = yield from get_model_version(model_id, version_name)
    target = _version_path(model_id, version_name)
    yield from create_labels("CreateModelVersionLabels", target, {**version.labels, **wanted})


def delete_model_version_labels(model_id: str, version_name: str, keys: str | Sequence[str]) -> Flow[None]:
    """Remove labels from a version, one key or several (DeleteModelVersionLabels)."""
    yield from delete_labels("DeleteModelVersionLabels", _version_path(model_id, version_name), keys)


def delete_model_version(model_id: str, version_name: str) -> Flow[None]:
    """Delete a version of a model (DeleteModelVersion)."""
    yield from acknowledged(write("DELETE", "DeleteModelVersion", _version_path(model_id, version_name)))


def list_model_versions(
    model_id: str, *, page_size: int = PAGE_SIZE, **filters: Unpack[ModelVersionFilters]
) -> Flow[list[ModelVersion]]:
    """Return the versions of a model that match, oldest first (ListModelVersions).

    Filters: version_name, approval_status, labels (all of them), format_type, framework_type, source_type,
    source_id. Leave one out to ask for any. Every version that comes back is checked.

    :raises PaiUsageError: an unknown filter, or one that holds nothing.
    :raises PaiModelNotFoundError: there is no such model, or it was created less than a minute ago.
    """
    check_filters(filters, ModelVersionFilters.__annotations__)
    choices = ("approval_status", "format_type", "framework_type", "source_type")
    exact = {
        **{name: chosen(name, filters.get(name)) for name in choices},
        **{name: text(name, filters.get(name)) for name in ("version_name", "source_id")},
    }
    request = Request(action="ListModelVersions", path=path("models", model_id) + "/versions")
    listing: Flow[list[ModelVersion]] = listing_by_number(
        request, VersionPage, "version_name", exact, filters.get("labels"), page_size
    )
    return missing_as(PaiModelNotFoundError, listing)


def _version_path(model_id: str, version_name: str) -> str:
    return path("models", model_id, "versions", version_name)
