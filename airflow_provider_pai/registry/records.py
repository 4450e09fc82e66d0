"""A version of a model as tasks hand it on: in XCom, and in events."""

from __future__ import annotations

from typing import Any

from airflow_provider_pai.api.model_records import ModelVersion
from airflow_provider_pai.api.registration import UNDECIDED

__all__ = ["RUN_LABEL", "version_record"]

RUN_LABEL = "pai_run_id"
"""The label of a version that names the run it comes from."""


def version_record(model_name: str | None, model_id: str, version: ModelVersion) -> dict[str, Any]:
    """Return what names a version, where its files are, and which run it comes from, as plain JSON."""
    return {
        "model_name": model_name,
        "model_id": model_id,
        "version_name": version.version_name,
        "approval_status": version.approval_status or UNDECIDED,
        "uri": version.uri,
        "run_id": version.labels.get(RUN_LABEL),
    }
