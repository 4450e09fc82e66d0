"""Flows for experiments and workspaces, which hold runs.

Source: the vendor's API pages of AIWorkSpace 2021-02-04. Each flow names its page.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import TypedDict, TypeVar, cast

import msgspec

from airflow_provider_pai.api.arguments import check_given
from airflow_provider_pai.api.errors import (
    PaiApiError,
    PaiAuthenticationError,
    PaiError,
    PaiExperimentNotFoundError,
    PaiNotFoundError,
    PaiPagingError,
    PaiPermissionError,
    PaiResponseError,
    PaiThrottledError,
    PaiTransportError,
    PaiUsageError,
)
from airflow_provider_pai.api.flow import Acknowledgement, Flow, Request, call
from airflow_provider_pai.api.models import (
    CreatedExperiment,
    Experiment,
    ExperimentPage,
    Workspace,
    WorkspacePage,
)
from airflow_provider_pai.api.paging import MAX_PAGES, PAGE_SIZE, Paginator
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
    "says_taken",
    "set_experiment_labels",
    "update_experiment",
]

T = TypeVar("T")

VISIBLE_AFTER = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each look at what PAI may show late: a minute in total."""
TAKEN = re.compile(r"already|conflict|duplicat|(?<!not )exist|in use|repeat|taken", re.IGNORECASE)
LAST = datetime.max.replace(tzinfo=timezone.utc)


def call_in_experiment(request: Request, answer: type[T]) -> Flow[T]:
    """Do as :func:`~airflow_provider_pai.api.flow.call` for a request that names one experiment.

    :raises PaiExperimentNotFoundError: PAI does not find it. It says so of a new experiment too.
    """
    try:
        return (yield from call(request, answer))
    except PaiNotFoundError as error:
        raise PaiExperimentNotFoundError(
            error.message,
            action=error.action,
            status=error.status,
            code=error.code,
            request_id=error.request_id,
        ) from None


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
    return _get_or_create(name, workspace_id, creation)


def _get_or_create(name: str, workspace_id: str, creation: Flow[str]) -> Flow[str]:
    found = yield from list_experiments(workspace_id=workspace_id, name=name)
    if found:
        return _oldest(found)
    try:
        made = yield from creation
    except PaiError as error:
        if not _may_exist(error):
            raise
        found = yield from _named(name, workspace_id, VISIBLE_AFTER if says_taken(error) else (0.0,))
        if not found:
            raise
        return _oldest(found)
    found = yield from _named(name, workspace_id, VISIBLE_AFTER, made)
    return _oldest(found) if found else made


def says_taken(error: PaiError) -> bool:
    """Tell whether PAI refused to create an experiment because of its name. Which code it uses is not
    documented, so the words that any such code or message holds decide."""
    if not isinstance(error, PaiApiError) or isinstance(error, PaiNotFoundError):
        return False
    return error.status == 409 or TAKEN.search(f"{error.code} {error.message}") is not None


def _may_exist(error: PaiError) -> bool:
    """Tell whether the experiment may exist after the creation failed: it existed, or the answer was lost."""
    if isinstance(error, PaiTransportError):
        return error.sent
    surely_not = PaiAuthenticationError, PaiPermissionError, PaiThrottledError
    return isinstance(error, (PaiApiError, PaiResponseError)) and not isinstance(error, surely_not)


def _named(
    name: str, workspace_id: str, pauses: tuple[float, ...], awaited: str | None = None
) -> Flow[list[Experiment]]:
    """Look for experiments of this name after each pause, until one shows, or ``awaited`` among them.

    Return those that showed last. An error of PAI counts as a look that showed none.
    """
    found: list[Experiment] = []
    for pause in pauses:
        try:
            found = yield from _after(pause, list_experiments(workspace_id=workspace_id, name=name))
        except PaiError:
            continue
        if any(awaited in (None, experiment.experiment_id) for experiment in found):
            break
    return found


def _after(pause: float, flow: Flow[T]) -> Flow[T]:
    """Run a flow after ``pause`` seconds."""
    request = msgspec.structs.replace(next(flow), wait=pause)
    while True:
        outcome = yield request
        try:
            request = flow.send(outcome)
        except StopIteration as end:
            return cast("T", end.value)


def _oldest(experiments: list[Experiment]) -> str:
    """Return the id of the oldest one. Between equals the order of PAI's listing decides, oldest first."""
    return min(experiments, key=lambda found: found.gmt_create_time or LAST).experiment_id


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
    found: dict[str, Workspace] = {}
    size = whole_number("page_size", page_size)
    for number in range(1, MAX_PAGES + 1):
        query = {"PageNumber": str(number), "PageSize": size}
        request = Request(action="ListWorkspaces", path=path("workspaces"), query=query)
        page: WorkspacePage = yield from call(request, WorkspacePage)
        known = len(found)
        found.update({workspace.workspace_id: workspace for workspace in page.workspaces})
        # PAI may return smaller pages than asked for, so only a page without new workspaces is the end.
        if len(found) == known or len(found) == page.total_count:
            return list(found.values())
    raise PaiPagingError(f"ListWorkspaces has not ended after {MAX_PAGES} pages; ask for larger pages.")


def get_default_workspace() -> Flow[Workspace]:
    """Return the workspace that PAI uses where none is named (GetDefaultWorkspace)."""
    return call(Request(action="GetDefaultWorkspace", path=path("defaultWorkspaces")), Workspace)
