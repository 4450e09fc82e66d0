"""Flows for experiments and workspaces, which hold runs.

Source: the vendor's API pages of AIWorkSpace 2021-02-04. Each flow names its page.
"""

from __future__ import annotations

from typing import TypedDict, TypeVar

from airflow_provider_pai.api.arguments import check_given
from airflow_provider_pai.api.by_name import get_or_create, missing_as
from airflow_provider_pai.api.errors import PaiExperimentNotFoundError, PaiUsageError
from airflow_provider_pai.api.flow import Acknowledgement, Flow, Request, call
from airflow_provider_pai.api.models import (
    CreatedExperiment,
    Experiment,
    ExperimentPage,
    Workspace,
    WorkspacePage,
)
from airflow_provider_pai.api.paging import PAGE_SIZE, NumberedPaginator, Paginator
from airflow_provider_pai.api.parameters import pairs, path, required, segment, text, whole_number, write
from airflow_provider_pai.api.query import Labels, parse_labels

__all__ = [
    "ExperimentFilters",
    "call_in_experiment",
    "create_experiment",
    "delete_experiment",
    "delete_experiment_label",
    "get_default_workspace",
    "get_experiment",
    "get_or_create_experiment",
    "list_experiments",
    "list_workspaces",
    "set_experiment_labels",
    "update_experiment",
]

T = TypeVar("T")


def call_in_experiment(request: Request, answer: type[T]) -> Flow[T]:
    """Do as :func:`~airflow_provider_pai.api.flow.call` for a request that names one experiment.

    :raises PaiExperimentNotFoundError: PAI does not find it. It says so of a new experiment too.
    """
    return missing_as(PaiExperimentNotFoundError, call(request, answer))


def create_experiment(
    name: str,
    *,
    workspace_id: str,
    artifact_uri: str | None = None,
    accessibility: str | None = None,
    labels: Labels | None = None,
) -> Flow[str]:
    """Create an experiment and return its id (CreateExperiment).

    ``artifact_uri`` is an OSS path; ``accessibility`` is PRIVATE (PAI's default) or PUBLIC.
    """
    fields = {
        "Name": required("name", name),
        "WorkspaceId": required("workspace_id", workspace_id),
        "ArtifactUri": text("artifact_uri", artifact_uri),
        "Accessibility": text("accessibility", accessibility),
        "Labels": None if labels is None else pairs(parse_labels(labels)),
    }
    return _create(write("POST", "CreateExperiment", path("experiments"), fields))


def _create(request: Request) -> Flow[str]:
    created = yield from call(request, CreatedExperiment)
    return created.experiment_id


def get_or_create_experiment(
    name: str,
    *,
    workspace_id: str,
    artifact_uri: str | None = None,
    accessibility: str | None = None,
    labels: Labels | None = None,
) -> Flow[str]:
    """Return the id of the experiment of exactly this name; create it where there is none.

    Tasks that do this at the same time get the same id: PAI refuses the second creation, and that task looks
    the name up, for up to a minute, because PAI may show a new experiment late. Should PAI hold several
    experiments of the name, the oldest one is meant, and a task that has just created one waits until PAI
    shows it, so that it sees an older one too. An experiment that exists stays as it is: ``artifact_uri``,
    ``accessibility`` and ``labels`` are for a new one.

    :raises PaiError: the one by which the creation failed, where no experiment of the name shows after it.
    """
    creation = create_experiment(
        name,
        workspace_id=workspace_id,
        artifact_uri=artifact_uri,
        accessibility=accessibility,
        labels=labels,
    )
    return get_or_create(
        lambda: list_experiments(workspace_id=workspace_id, name=name),
        creation,
        identity=lambda experiment: experiment.experiment_id,
    )


def get_experiment(experiment_id: str) -> Flow[Experiment]:
    """Return one experiment (GetExperiment).

    :raises PaiExperimentNotFoundError: there is none, or it was created less than a minute ago.
    """
    request = Request(action="GetExperiment", path=path("experiments", experiment_id))
    return call_in_experiment(request, Experiment)


def update_experiment(
    experiment_id: str, *, name: str | None = None, accessibility: str | None = None
) -> Flow[None]:
    """Change an experiment's name or accessibility (UpdateExperiment)."""
    fields = {"Name": text("name", name), "Accessibility": text("accessibility", accessibility)}
    if name is None and accessibility is None:
        raise PaiUsageError("update_experiment was given nothing to change; give name or accessibility.")
    request = write("PUT", "UpdateExperiment", path("experiments", experiment_id), fields)
    yield from call_in_experiment(request, Acknowledgement)


def delete_experiment(experiment_id: str) -> Flow[None]:
    """Delete an experiment and its runs (DeleteExperiment)."""
    request = write("DELETE", "DeleteExperiment", path("experiments", experiment_id))
    yield from call_in_experiment(request, Acknowledgement)


def set_experiment_labels(experiment_id: str, labels: Labels) -> Flow[None]:
    """Add or change labels of an experiment (SetExperimentLabels)."""
    target = f"{path('experiments', experiment_id)}/labels"
    fields = {"Labels": pairs(parse_labels(labels))}
    yield from call_in_experiment(write("POST", "SetExperimentLabels", target, fields), Acknowledgement)


def delete_experiment_label(experiment_id: str, key: str) -> Flow[None]:
    """Remove one label from an experiment (DeleteExperimentLabel)."""
    target = f"{path('experiments', experiment_id)}/labels/{segment(key)}"
    yield from call(write("DELETE", "DeleteExperimentLabel", target), Acknowledgement)


class ExperimentFilters(TypedDict, total=False):
    """The keywords that narrow :func:`list_experiments`. One that is there was meant."""

    workspace_id: str | None
    name: str
    labels: Labels


def list_experiments(
    *,
    workspace_id: str | None = None,
    name: str | None = None,
    labels: Labels | None = None,
    page_size: int = PAGE_SIZE,
) -> Flow[list[Experiment]]:
    """Return the experiments of a workspace that match, oldest first (ListExperiment).

    The request carries labels as ``Key=Value``, unlike ListRuns. Every experiment that comes back is checked.
    """
    wanted_labels: dict[str, str] = {}
    if labels is not None:
        wanted_labels = parse_labels(labels)
        check_given("labels", wanted_labels)
    wire_labels = ",".join(f"{key}={value}" for key, value in wanted_labels.items())
    parameters = {
        "WorkspaceId": text("workspace_id", workspace_id),
        "Name": text("name", name),
        "Labels": wire_labels,
        "Verbose": "true",
        "OrderBy": "GmtCreateTime ASC",
        "MaxResults": whole_number("page_size", page_size),
    }

    def wanted(experiment: Experiment) -> bool:
        return (
            name is None or experiment.name == name
        ) and wanted_labels.items() <= experiment.labels.items()

    listing = Paginator[Experiment](
        Request(
            action="ListExperiment",
            path=path("experiments"),
            query={key: value for key, value in parameters.items() if value},
        ),
        ExperimentPage,
        identity=lambda experiment: experiment.experiment_id,
        created=lambda experiment: experiment.gmt_create_time,
        direction=1,
        wanted=wanted,
    )
    return listing.rest()


def list_workspaces(*, page_size: int = PAGE_SIZE) -> Flow[list[Workspace]]:
    """Return the workspaces that this key may see (ListWorkspaces, which has page numbers and no token)."""
    listing = NumberedPaginator[Workspace](
        Request(
            action="ListWorkspaces",
            path=path("workspaces"),
            query={"PageSize": whole_number("page_size", page_size)},
        ),
        WorkspacePage,
        identity=lambda workspace: workspace.workspace_id,
        created=lambda _: None,
        direction=0,
    )
    return listing.rest()


def get_default_workspace() -> Flow[Workspace]:
    """Return the workspace that PAI uses where none is named (GetDefaultWorkspace)."""
    return call(Request(action="GetDefaultWorkspace", path=path("defaultWorkspaces")), Workspace)
