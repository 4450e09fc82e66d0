"""The records of PAI's model registry: models and their versions, by the rules of
:mod:`~airflow_provider_pai.api.models`.

Source: GetModel, ListModels, GetModelVersion and ListModelVersions of AIWorkSpace 2021-02-04.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import force_setattr as set_field

from airflow_provider_pai.api.models import Items, Page, Pairs, Record, Time, mapping, times_to_utc

__all__ = [
    "CreatedModel",
    "CreatedVersion",
    "MaybeModel",
    "MaybeModelVersion",
    "Model",
    "ModelPage",
    "ModelVersion",
    "VersionPage",
    "found",
]

if TYPE_CHECKING:
    Document = dict[str, Any]
else:
    Document = dict[str, Any] | None

T = TypeVar("T", bound=Record)


class ModelVersion(Record, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One version of a model. ``approval_status`` is Pending, Approved or Rejected.

    ``metrics`` is PAI's own form: ``{"Results": [{"Dataset": …, "Metrics": {"accuracy": 0.93}}]}``.
    """

    version_name: str
    approval_status: str | None = None
    uri: str | None = None
    version_description: str | None = None
    format_type: str | None = None
    framework_type: str | None = None
    source_type: str | None = None
    source_id: str | None = None
    owner_id: str | None = None
    user_id: str | None = None
    options: str | None = None
    gmt_create_time: Time | None = None
    gmt_modified_time: Time | None = None
    labels: Pairs = msgspec.field(default_factory=dict)
    metrics: Document = msgspec.field(default_factory=dict)
    inference_spec: Document = msgspec.field(default_factory=dict)
    training_spec: Document = msgspec.field(default_factory=dict)
    extra_info: Document = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        set_field(self, "labels", mapping(self.labels))
        for name in ("metrics", "inference_spec", "training_spec", "extra_info"):
            set_field(self, name, getattr(self, name) or {})
        times_to_utc(self)


class Model(Record, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One registered model: a name, and versions. ``labels`` are those that PAI calls labels or tags."""

    model_id: str
    model_name: str | None = None
    workspace_id: str | None = None
    model_description: str | None = None
    model_doc: str | None = None
    domain: str | None = None
    task: str | None = None
    model_type: str | None = None
    origin: str | None = None
    provider: str | None = None
    accessibility: str | None = None
    owner_id: str | None = None
    user_id: str | None = None
    gmt_create_time: Time | None = None
    gmt_modified_time: Time | None = None
    latest_version: ModelVersion | None = None
    labels: Pairs = msgspec.field(default_factory=dict)
    tags: Pairs = msgspec.field(default_factory=dict)
    extra_info: Document = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        set_field(self, "tags", mapping(self.tags))
        set_field(self, "labels", {**self.tags, **mapping(self.labels)})
        set_field(self, "extra_info", self.extra_info or {})
        times_to_utc(self)


class MaybeModel(Model, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """The answer of GetModel: a model, or, for one that does not exist, possibly no fields at all."""

    model_id: str = ""

    @property
    def items(self) -> list[str]:
        """The model's id, or nothing."""
        return [self.model_id] if self.model_id else []


class MaybeModelVersion(ModelVersion, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """The answer of GetModelVersion: a version, or, for one that does not exist, possibly no fields."""

    version_name: str = ""

    @property
    def items(self) -> list[str]:
        """The version's name, or nothing."""
        return [self.version_name] if self.version_name else []


def found(record: Any, kind: type[T]) -> T:
    """Return an answer that may have been empty as the record that it is."""
    return kind(**{name: getattr(record, name) for name in kind.__struct_fields__})


class CreatedModel(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer of CreateModel."""

    model_id: str


class CreatedVersion(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer of CreateModelVersion."""

    version_name: str


class ModelPage(Page, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One page of ListModels."""

    models: Items[Model] = msgspec.field(default_factory=list)


class VersionPage(Page, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One page of ListModelVersions."""

    versions: Items[ModelVersion] = msgspec.field(default_factory=list)
