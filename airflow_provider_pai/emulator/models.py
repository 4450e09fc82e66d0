"""The models of an account and their versions, as a test or a person at PAI's console arranges them."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any

from .clock import Clock, from_iso, iso
from .errors import not_found, taken
from .records import OWNER_ID
from .state import State

_FILES = "oss://pai-emulator.oss-cn-hangzhou.aliyuncs.com/models/"


class RegisteredModels:
    """The part of an account that holds models. Like the rest of it, it validates nothing."""

    state: State
    clock: Clock

    @property
    def workspace_id(self) -> str:
        """The default workspace."""
        return next(str(body["WorkspaceId"]) for body in self.state.workspaces() if body["IsDefault"])

    def add_model(
        self,
        name: str | None = None,
        *,
        workspace_id: str | None = None,
        labels: dict[str, str] | None = None,
        gmt_create_time: str | datetime | None = None,
        **fields: Any,
    ) -> str:
        """Add a model and return its id. Without a workspace it goes to the default one.

        :param fields: further fields, under PAI's own names, such as `Domain`.
        """
        model_id = f"model-{secrets.token_hex(8)}"
        created = self._time(gmt_create_time)
        self.state.add_model(
            {
                "ModelId": model_id,
                "ModelName": name or model_id,
                "WorkspaceId": workspace_id or self.workspace_id,
                "ModelDescription": "",
                "ModelDoc": "",
                "Domain": "",
                "Task": "",
                "ModelType": "",
                "Origin": "",
                "Provider": "",
                "Accessibility": "PRIVATE",
                "OwnerId": OWNER_ID,
                "UserId": OWNER_ID,
                "ExtraInfo": {},
                **fields,
                "Labels": labels or {},
                "GmtCreateTime": created,
                "GmtModifiedTime": created,
            }
        )
        return model_id

    def label_model(self, model_id: str, labels: dict[str, str]) -> None:
        """Set `labels` on a model and keep its others.

        :raises RefusedError: the model does not exist. The methods below raise it too.
        """
        self.edit_model(model_id, lambda body: body["Labels"].update(labels))

    def edit_model(self, model_id: str, edit: Callable[[dict[str, Any]], object]) -> None:
        """Let `edit` change a model's body, PAI's own JSON but for `Labels`, which are a dict here."""
        if not self.state.edit_model(model_id, self._dated(edit)):
            raise not_found("Model", model_id)

    def delete_model(self, model_id: str) -> None:
        """Delete a model and its versions."""
        if not self.state.delete_model(model_id):
            raise not_found("Model", model_id)

    def models(self) -> list[dict[str, Any]]:
        """The stored models, in the order of insertion, under PAI's field names, with `Labels` as a dict."""
        return self.state.models()

    def add_model_version(
        self,
        model_id: str,
        version_name: str | None = None,
        *,
        uri: str | None = None,
        approval_status: str = "Pending",
        labels: dict[str, str] | None = None,
        metrics: dict[str, Any] | None = None,
        gmt_create_time: str | datetime | None = None,
        **fields: Any,
    ) -> str:
        """Add a version to a model and return its name, which counts up from 0.1.0 unless one is given.

        :param metrics: in PAI's own form, `{"Results": [{"Metrics": {"accuracy": 0.93}}]}`.
        :param fields: further fields, under PAI's own names, such as `SourceId`.
        """
        if not self.state.models(model_id):
            raise not_found("Model", model_id)
        created = self._time(gmt_create_time)

        def body(names: list[str]) -> dict[str, Any]:
            if version_name in names:
                raise taken("ModelVersion", version_name, "conflict")
            name = version_name or _next_name(names)
            return {
                "VersionName": name,
                "VersionDescription": "",
                "ApprovalStatus": approval_status,
                "Uri": uri or f"{_FILES}{model_id}/{name}/",
                "FormatType": "",
                "FrameworkType": "",
                "SourceType": "Custom",
                "SourceId": "",
                "InferenceSpec": {},
                "TrainingSpec": {},
                "ExtraInfo": {},
                "Options": "",
                "OwnerId": OWNER_ID,
                "UserId": OWNER_ID,
                **fields,
                "Metrics": metrics or {},
                "Labels": labels or {},
                "GmtCreateTime": created,
                "GmtModifiedTime": created,
            }

        return str(self.state.add_version(model_id, body)["VersionName"])

    def approve_model_version(
        self, model_id: str, version_name: str, *, status: str = "Approved", description: str | None = None
    ) -> None:
        """Decide about a version, as a person does at PAI's console: Approved, Rejected or Pending."""

        def decide(body: dict[str, Any]) -> None:
            body["ApprovalStatus"] = status
            body["VersionDescription"] = body["VersionDescription"] if description is None else description

        self.edit_model_version(model_id, version_name, decide)

    def label_model_version(self, model_id: str, version_name: str, labels: dict[str, str]) -> None:
        """Set `labels` on a version and keep its others."""
        self.edit_model_version(model_id, version_name, lambda body: body["Labels"].update(labels))

    def edit_model_version(
        self, model_id: str, version_name: str, edit: Callable[[dict[str, Any]], object]
    ) -> None:
        """Let `edit` change a version's body, PAI's own JSON but for `Labels`, which are a dict here."""
        if not self.state.edit_version(model_id, version_name, self._dated(edit)):
            raise not_found("ModelVersion", version_name)

    def delete_model_version(self, model_id: str, version_name: str) -> None:
        """Delete a version."""
        if not self.state.delete_version(model_id, version_name):
            raise not_found("ModelVersion", version_name)

    def model_versions(self, model_id: str) -> list[dict[str, Any]]:
        """The stored versions of a model, as `models` returns models."""
        return self.state.versions(model_id)

    def _time(self, given: str | datetime | None) -> str:
        return iso(from_iso(given) if given else self.clock.now())

    def _dated(self, edit: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
        def edit_and_date(body: dict[str, Any]) -> None:
            body["GmtModifiedTime"] = self.clock.iso()
            edit(body)

        return edit_and_date


def _next_name(names: list[str]) -> str:
    """The minor number after the highest one: 0.1.0, 0.2.0."""
    numbers = [tuple(map(int, re.findall(r"\d+", name)[:2])) for name in names]
    major, minor = max(numbers, default=(0, 0))
    return f"{major}.{minor + 1}.0"
