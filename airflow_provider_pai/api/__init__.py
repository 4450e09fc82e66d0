"""PAI's HTTP API, without Airflow: typed flows, and two transports that run them.

::

    from airflow_provider_pai.api import Credential, PaiClient, RunQuery, list_runs

    key = Credential(access_key_id="…", access_key_secret="…")
    with PaiClient("https://aiworkspace.cn-hangzhou.aliyuncs.com", key) as client:
        runs = client.run(list_runs(RunQuery(workspace_id="145883", labels="is_evaluation:true")))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_pai.api.credentials import (
    BearerToken,
    Credential,
    CredentialSource,
    RenewableSource,
    StaticCredential,
)
from airflow_provider_pai.api.errors import (
    PaiApiError,
    PaiAuthenticationError,
    PaiConfigurationError,
    PaiDecidedError,
    PaiError,
    PaiExperimentNotFoundError,
    PaiLabelNotSeenError,
    PaiModelNotFoundError,
    PaiNotFoundError,
    PaiNotJsonError,
    PaiPagingError,
    PaiPermissionError,
    PaiRejectedError,
    PaiResponseError,
    PaiThrottledError,
    PaiTransportError,
    PaiUnavailableError,
    PaiUsageError,
)
from airflow_provider_pai.api.experiments import (
    create_experiment,
    delete_experiment,
    delete_experiment_label,
    get_default_workspace,
    get_experiment,
    get_or_create_experiment,
    list_experiments,
    list_workspaces,
    set_experiment_labels,
    update_experiment,
)
from airflow_provider_pai.api.flow import Failure, Flow, Outcome, Request, Response
from airflow_provider_pai.api.metrics import list_run_metrics, log_run_metrics
from airflow_provider_pai.api.model_records import Model, ModelVersion
from airflow_provider_pai.api.model_versions import (
    create_model_version,
    delete_model_version,
    delete_model_version_labels,
    get_model_version,
    list_model_versions,
    set_model_version_labels,
    update_model_version,
)
from airflow_provider_pai.api.models import Experiment, Metric, Run, RunPage, Workspace
from airflow_provider_pai.api.operations import (
    create_run,
    delete_run,
    delete_run_label,
    get_run,
    list_runs,
    list_runs_page,
    set_run_labels,
    update_run,
    walk_runs,
)
from airflow_provider_pai.api.promotion import Promotion, promote_run
from airflow_provider_pai.api.query import RunQuery
from airflow_provider_pai.api.registration import (
    Decision,
    Registration,
    register_model_version,
    set_model_version_approval,
)
from airflow_provider_pai.api.registry import (
    create_model,
    delete_model,
    delete_model_labels,
    get_model,
    get_or_create_model,
    list_models,
    set_model_labels,
    update_model,
)
from airflow_provider_pai.api.sources import credential_source

if TYPE_CHECKING:
    from airflow_provider_pai.api.client import AsyncPaiClient, PaiClient

__all__ = [
    "AsyncPaiClient",
    "BearerToken",
    "Credential",
    "CredentialSource",
    "Decision",
    "Experiment",
    "Failure",
    "Flow",
    "Metric",
    "Model",
    "ModelVersion",
    "Outcome",
    "PaiApiError",
    "PaiAuthenticationError",
    "PaiClient",
    "PaiConfigurationError",
    "PaiDecidedError",
    "PaiError",
    "PaiExperimentNotFoundError",
    "PaiLabelNotSeenError",
    "PaiModelNotFoundError",
    "PaiNotFoundError",
    "PaiNotJsonError",
    "PaiPagingError",
    "PaiPermissionError",
    "PaiRejectedError",
    "PaiResponseError",
    "PaiThrottledError",
    "PaiTransportError",
    "PaiUnavailableError",
    "PaiUsageError",
    "Promotion",
    "Registration",
    "RenewableSource",
    "Request",
    "Response",
    "Run",
    "RunPage",
    "RunQuery",
    "StaticCredential",
    "Workspace",
    "create_experiment",
    "create_model",
    "create_model_version",
    "create_run",
    "credential_source",
    "delete_experiment",
    "delete_experiment_label",
    "delete_model",
    "delete_model_labels",
    "delete_model_version",
    "delete_model_version_labels",
    "delete_run",
    "delete_run_label",
    "get_default_workspace",
    "get_experiment",
    "get_model",
    "get_model_version",
    "get_or_create_experiment",
    "get_or_create_model",
    "get_run",
    "list_experiments",
    "list_model_versions",
    "list_models",
    "list_run_metrics",
    "list_runs",
    "list_runs_page",
    "list_workspaces",
    "log_run_metrics",
    "promote_run",
    "register_model_version",
    "set_experiment_labels",
    "set_model_labels",
    "set_model_version_approval",
    "set_model_version_labels",
    "set_run_labels",
    "update_experiment",
    "update_model",
    "update_model_version",
    "update_run",
    "walk_runs",
]


def __getattr__(name: str) -> Any:
    # Deferred, so that parsing a DAG does not pay for HTTP libraries that only its tasks use.
    if name in ("AsyncPaiClient", "PaiClient"):
        from airflow_provider_pai.api import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
