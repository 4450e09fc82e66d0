"""What ends a wait for a model's version, and the versions that it judges. Imports no Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from airflow_provider_pai.api.arguments import check_choice
from airflow_provider_pai.api.by_name import oldest_first
from airflow_provider_pai.api.errors import PaiModelNotFoundError, PaiRejectedError, PaiUsageError
from airflow_provider_pai.api.experiments import get_default_workspace
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.api.model_parameters import (
    APPROVAL_STATUSES,
    check_model_name,
    check_version_name,
)
from airflow_provider_pai.api.model_records import ModelVersion
from airflow_provider_pai.api.model_versions import get_model_version, list_model_versions
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.api.parameters import required
from airflow_provider_pai.api.query import Labels, parse_labels
from airflow_provider_pai.api.registration import UNDECIDED, metrics_in
from airflow_provider_pai.api.registry import list_models, the_model
from airflow_provider_pai.registry.records import version_record

__all__ = [
    "ON_REJECTED",
    "QUESTION",
    "ModelVersions",
    "VersionCondition",
    "read_versions",
    "with_version",
]

APPROVED, REJECTED = "Approved", "Rejected"
ON_REJECTED = ("fail", "skip", "wait")
QUESTION = ("workspace_id", "model_id", "model_name", "version_name", "newer_than", "labels", "approval")
"""The arguments that say what a wait is for, beside ``on_rejected``."""
MOST_NAMED = 5
"""How many versions a line of a log names."""


class ModelVersions(msgspec.Struct, frozen=True):
    """All versions of a model, oldest first; without an id there is no model of that name yet."""

    model: str
    model_id: str | None
    versions: list[ModelVersion]


class VersionCondition(msgspec.Struct, frozen=True, kw_only=True):
    """Wait until a version of a model has an approval.

    If several versions have it, the newest is returned. The wait goes on as long as a version that matches is
    undecided. Once all that match are rejected, ``on_rejected`` says what that means: ``wait`` for another
    version, or end the wait.

    :raises PaiUsageError: arguments that contradict each other, or that make no sense to PAI.
    """

    model_id: str | None = None
    model_name: str | None = None
    workspace_id: str | None = None
    version_name: str | None = None
    newer_than: str | None = None
    labels: dict[str, str] = {}
    approval: str = APPROVED
    on_rejected: str = "fail"

    def __post_init__(self) -> None:
        if (self.model_id is None) == (self.model_name is None):
            raise PaiUsageError("give model_id, or model_name, and not both.")
        if self.model_name is not None:
            check_model_name(self.model_name)
        if self.version_name is not None:
            check_version_name(self.version_name)
            if self.newer_than is not None:
                raise PaiUsageError("version_name and newer_than contradict each other; give one of them.")
        if self.newer_than is not None:
            check_version_name(self.newer_than)
        check_choice("approval", self.approval, APPROVAL_STATUSES)
        check_choice("on_rejected", self.on_rejected, ON_REJECTED)

    @classmethod
    def of(cls, *, labels: Labels | None = None, **given: Any) -> VersionCondition:
        """Return the condition that the arguments of a task or a trigger mean."""
        for name in ("model_id", "model_name", "workspace_id"):
            if name in given:
                given[name] = required(name, given[name])
        return cls(labels={} if labels is None else parse_labels(labels), **given)

    @property
    def model(self) -> str:
        """The model's name, or its id where only that is known."""
        return self.model_name or self.model_id or ""

    @property
    def named(self) -> str | None:
        """The version that has to exist: the awaited one, or the one that it must be newer than."""
        return self.version_name or self.newer_than

    def describe(self) -> str:
        """Return what is awaited, for people: ``a version of digits, newer than 0.2.0, to be Approved``."""
        said = f"the version {self.version_name}" if self.version_name else "a version"
        said += f" of {self.model}"
        if self.newer_than:
            said += f", newer than {self.newer_than},"
        if self.labels:
            said += f" with {', '.join(f'{key}:{value}' for key, value in self.labels.items())}"
        return f"{said} to be {self.approval}"

    def progress(self, found: ModelVersions) -> str:
        """Return how far the wait has come: ``digits 0.3.0 is Pending; waiting for Approved``."""
        if found.model_id is None:
            return f"there is no model {self.model!r} yet; waiting for a version that is {self.approval}"
        matching = self.matching(found)
        if not matching:
            number = len(found.versions)
            said = f"{self.model} has {number or 'no'} version{'' if number == 1 else 's'}"
            return f"{said}, and none matches; waiting for one that is {self.approval}"
        last = matching[-MOST_NAMED:]
        more = f"{len(matching) - len(last)} older and " if len(matching) > len(last) else ""
        named = ", ".join(f"{each.version_name} is {_approval(each)}" for each in last)
        return f"{self.model}: {more}{named}; waiting for {self.approval}"

    def matching(self, found: ModelVersions) -> list[ModelVersion]:
        """Return the versions that match, oldest first, whatever their approval.

        :raises PaiModelNotFoundError: the version named by ``newer_than`` does not exist.
        """
        versions = found.versions
        if self.newer_than is not None and found.model_id is not None:
            names = [each.version_name for each in versions]
            if self.newer_than not in names:
                raise _missing(found.model_id, self.newer_than)
            versions = versions[names.index(self.newer_than) + 1 :]
        return [
            each
            for each in versions
            if self.version_name in (None, each.version_name) and self.labels.items() <= each.labels.items()
        ]

    def approved(self, found: ModelVersions) -> list[ModelVersion]:
        """Return the versions that match and have the approval, oldest first."""
        return [each for each in self.matching(found) if _approval(each) == self.approval]

    def met_by(self, found: ModelVersions) -> dict[str, Any] | None:
        """Return the newest version that has the approval, or ``None`` while there is none.

        :raises PaiRejectedError: all that match are decided, and none as awaited.
        """
        if approved := self.approved(found):
            return self.record(found, approved[-1])
        matching = self.matching(found)
        rejected = [each for each in matching if _approval(each) == REJECTED]
        if rejected and len(rejected) == len(matching) and self.on_rejected != "wait":
            last = rejected[-1]
            reason = f" Its description: {last.version_description!r}." if last.version_description else ""
            raise PaiRejectedError(f"The version {last.version_name} of {self.model} was rejected.{reason}")
        return None

    def record(self, found: ModelVersions, version: ModelVersion) -> dict[str, Any]:
        """Return a version as it goes to XCom and into an event."""
        return {
            **version_record(self.model_name, found.model_id or "", version),
            "version_description": version.version_description,
            "labels": version.labels,
            "metrics": metrics_in(version.metrics),
        }

    def runs_in(self, met: Mapping[str, Any]) -> list[Run]:
        """Return no runs: a wait for a version awaits none, and a version does not name its run's job."""
        return []


def read_versions(
    *, model_id: str | None, model_name: str | None, workspace_id: str | None
) -> Flow[ModelVersions]:
    """Return all versions of a model (ListModels, ListModelVersions). A name is looked up without an id.

    :raises PaiModelNotFoundError: there is no model of this id.
    :raises PaiUsageError: several models of this name have versions.
    """
    if model_id is None:
        return (yield from _of_name(required("model_name", model_name), workspace_id))
    return ModelVersions(model_name or model_id, model_id, (yield from list_model_versions(model_id)))


def with_version(found: ModelVersions, version_name: str | None) -> Flow[ModelVersions]:
    """Return the versions with this one among them: a listing may have lost it (GetModelVersion).

    :raises PaiModelNotFoundError: there is none of this name.
    """
    if version_name is None or any(each.version_name == version_name for each in found.versions):
        return found
    if found.model_id is None:
        raise _missing(found.model, version_name)
    version = yield from get_model_version(found.model_id, version_name)
    return msgspec.structs.replace(found, versions=oldest_first([*found.versions, version]))


def _of_name(name: str, workspace_id: str | None) -> Flow[ModelVersions]:
    if workspace_id is None:
        workspace_id = (yield from get_default_workspace()).workspace_id
    if models := (yield from list_models(workspace_id=workspace_id, name=name)):
        with suppress(PaiModelNotFoundError):  # it was deleted just now
            model = yield from the_model(models)
            return ModelVersions(name, model.model_id, (yield from list_model_versions(model.model_id)))
    return ModelVersions(name, None, [])


def _approval(version: ModelVersion) -> str:
    return version.approval_status or UNDECIDED


def _missing(model: str, version_name: str) -> PaiModelNotFoundError:
    return PaiModelNotFoundError(
        f"the model {model!r} has no version {version_name!r}",
        action="ListModelVersions",
        status=200,
        code="NotFound",
        request_id=None,
    )
