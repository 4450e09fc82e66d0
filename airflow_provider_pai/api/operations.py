"""One flow per API operation on runs and their metrics. A client runs them: ``client.run(get_run("run-1"))``.

Every flow checks its arguments before it yields its first request.

Source: the vendor's API pages of AIWorkSpace 2021-02-04. Each flow names its page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from airflow_provider_pai.api.errors import PaiNotFoundError, PaiResponseError, PaiUsageError
from airflow_provider_pai.api.experiments import call_in_experiment
from airflow_provider_pai.api.flow import Acknowledgement, Flow, Request, call, exchange
from airflow_provider_pai.api.models import CreatedRun, MaybeRun, Run, RunPage
from airflow_provider_pai.api.paging import PAGE_SIZE, Paginator
from airflow_provider_pai.api.parameters import (
    page_parameters,
    pairs,
    path,
    required,
    run_fields,
    segment,
    text,
    whole_number,
    write,
)
from airflow_provider_pai.api.query import Labels, RunQuery, parse_labels

__all__ = [
    "Params",
    "create_run",
    "delete_run",
    "delete_run_label",
    "get_run",
    "list_runs",
    "list_runs_page",
    "page_request",
    "set_run_labels",
    "update_run",
    "walk_runs",
]

Params = Mapping[str, str | int | float | bool]


def walk_runs(query: RunQuery, *, page_size: int = PAGE_SIZE, max_runs: int | None = None) -> Paginator[Run]:
    """Return a paginator over the runs that match, in the query's order, which holds one page at a time.

    Runs that only a second pass finds (see :mod:`~airflow_provider_pai.api.paging`) come last.
    """
    return _paginator(query, query.order_by, page_size, max_runs)


def list_runs(query: RunQuery, *, page_size: int = PAGE_SIZE, max_runs: int | None = None) -> Flow[list[Run]]:
    """Return the runs that match, in the query's order; at most the first ``max_runs`` of them (ListRuns).

    Where the query names run ids, each is asked for by itself (GetRun).

    :raises PaiPagingError: runs were deleted each time the listing was read, or it does not end.
    :raises PaiNotFoundError: there is no run with a named id, or not in the wanted workspace or experiment.
    """
    order, start = query.order_by, query.window[0]
    most = max_runs
    if start is not None and order.startswith("GmtCreateTime ASC"):
        # PAI cannot filter by a window of time. Read from the newest end, the listing can be left where the
        # window begins: often after one page, where the whole history has thousands.
        order, most = "GmtCreateTime DESC", None
    runs = yield from _paginator(query, order, page_size, most).rest()
    query.sort(runs)  # runs of a second pass, and those inserted during the first one, are out of order
    return runs if max_runs is None else runs[:max_runs]


def _paginator(query: RunQuery, order_by: str, page_size: int, most: int | None) -> Paginator[Run]:
    if most is not None:
        whole_number("max_runs", most)
    if query.run_ids:
        return NamedRuns(query, most)
    field, order = order_by.split(",")[0].split(" ")
    direction = (1 if order == "ASC" else -1) if field == "GmtCreateTime" else 0
    start, end = query.window

    def beyond(run: Run) -> bool:
        created = run.gmt_create_time
        if created is None:
            return False
        return (direction < 0 and start is not None and created < start) or (
            direction > 0 and end is not None and created >= end
        )

    return Paginator(
        page_request(query, order_by, page_size),
        RunPage,
        identity=attrgetter("run_id"),
        created=attrgetter("gmt_create_time"),
        direction=direction,
        wanted=_decided(query),
        beyond=beyond,
        most=most,
    )


def _decided(query: RunQuery) -> Callable[[Run], bool]:
    """Return the query's check, which refuses a run that may or may not match."""
    matches = query.check()
    if not any(query.window):
        return matches

    def check(run: Run) -> bool:
        if query.undecided(run):
            raise PaiResponseError(
                f"ListRuns: PAI tells no creation time of the run {run.run_id!r} that can be read, so nobody "
                "knows whether it is within created_after and created_before; leave those out",
                status=200,
            )
        return matches(run)

    return check


class NamedRuns(Paginator[Run]):
    """The runs that a query names by their ids, on one page: no listing has a filter for ids.

    :raises PaiNotFoundError: a run is not there, or not in the workspace or experiment that is asked for,
        which no waiting will change. The text says which runs were found.
    """

    def __init__(self, query: RunQuery, most: int | None) -> None:
        self.done = False
        self._query = query
        self._most = most
        self._returned = 0

    def _next_page(self) -> Flow[list[Run]]:
        """Ask for each run (GetRun), and return those that match, in the query's order."""
        query, found, wrong, request_id = self._query, [], [], None
        for run_id in query.run_ids:
            try:
                run = yield from get_run(run_id)
            except PaiNotFoundError as error:
                wrong.append(f"there is no run {run_id!r}")
                request_id = error.request_id
                continue
            found.append(run)
            for name in ("workspace_id", "experiment_id"):
                wanted, has = getattr(query, name), getattr(run, name)
                if wanted is not None and wanted != has:
                    wrong.append(f"the run {run_id!r} has {name}={has!r}, not {wanted!r}")
        if wrong:
            ids = ", ".join(run.run_id for run in found) or "none"
            raise PaiNotFoundError(
                f"{'; '.join(wrong)}. Found: {ids}.",
                action="GetRun",
                status=200,
                code="RunNotFound",
                request_id=request_id,
            )
        self.done = True
        query.sort(found)
        return list(filter(_decided(query), found))


def page_request(query: RunQuery, order_by: str, page_size: int = PAGE_SIZE, token: str = "") -> Request:
    """Return the request for one page of a query's answer."""
    paging = {"OrderBy": order_by, "MaxResults": whole_number("page_size", page_size)}
    if token:
        paging["PageToken"] = token
    return Request(action="ListRuns", path=path("runs"), query={**query.parameters(), **paging})


def list_runs_page(**parameters: Any) -> Flow[RunPage]:
    """Return one page exactly as PAI answers it. Takes any of ListRuns' 15 documented parameters.

    In snake_case: name, workspace_id, experiment_id, source_type, source_id, labels, verbose,
    gmt_create_time, order_by, page_token, max_results, page_number, page_size, sort_by, order. The request
    has these parameters only, and the runs that come back are not checked against them.

    :raises PaiUsageError: an unknown or malformed parameter, or two that contradict each other.
    """
    request = Request(action="ListRuns", path=path("runs"), query=page_parameters(**parameters))
    return call(request, RunPage)


def get_run(run_id: str) -> Flow[Run]:
    """Return one run with its labels, params and metrics (GetRun).

    :raises PaiNotFoundError: no such run. PAI may say so with HTTP 200 and a run without a name.
    """
    request = Request(action="GetRun", path=path("runs", run_id), query={"Verbose": "true"})
    run, response = yield from exchange(request, MaybeRun)
    if not (run.run_id and run.name):
        raise PaiNotFoundError(
            f"there is no run {run_id!r}; look the id up with list_runs or in the PAI console",
            action="GetRun",
            status=200,
            code="RunNotFound",
            request_id=response.request_id,
        )
    return run.found()


def create_run(
    experiment_id: str,
    *,
    name: str | None = None,
    labels: Labels | None = None,
    params: Params | None = None,
    source_type: str | None = None,
    source_id: str | None = None,
) -> Flow[str]:
    """Create a run in an experiment and return its id (CreateRun).

    ``name`` has 1 to 63 of ``A-Z a-z 0-9 _ -`` and starts with a letter; without one it is the id.

    :raises PaiExperimentNotFoundError: there is no such experiment, or it was created less than a minute ago.
    """
    fields = {
        "ExperimentId": required("experiment_id", experiment_id),
        "SourceType": text("source_type", source_type),
        "SourceId": text("source_id", source_id),
        **run_fields(name, labels, params),
    }
    created = yield from call_in_experiment(write("POST", "CreateRun", path("runs"), fields), CreatedRun)
    return created.run_id


def update_run(
    run_id: str,
    *,
    name: str | None = None,
    labels: Labels | None = None,
    params: Params | None = None,
) -> Flow[None]:
    """Send a run's new name, labels or params (UpdateRun).

    The API page does not say whether PAI merges or replaces labels and params: give the whole wanted set, or
    use :func:`set_run_labels`.
    """
    fields = run_fields(name, labels, params)
    if not fields:
        raise PaiUsageError("update_run was given nothing to change; give name, labels or params.")
    yield from call(write("PUT", "UpdateRun", path("runs", run_id), fields), Acknowledgement)


def set_run_labels(run_id: str, labels: Labels) -> Flow[None]:
    """Add or change these labels and keep all others, whether PAI merges or replaces (GetRun, UpdateRun).

    Where PAI replaces labels, one that somebody else sets between the two requests may be lost. Labels that
    the run has are sent as they came, whatever this provider would make of them.
    """
    wanted = parse_labels(labels)
    run = yield from get_run(run_id)
    fields = {"Labels": pairs({**run.labels, **wanted})}
    yield from call(write("PUT", "UpdateRun", path("runs", run_id), fields), Acknowledgement)


def delete_run_label(run_id: str, key: str) -> Flow[None]:
    """Remove one label from a run (DeleteRunLabel)."""
    yield from remove_label(run_id, key)


def remove_label(run_id: str, key: str) -> Flow[bool]:
    """Remove one label from a run, and return whether PAI said so: an empty 200 may be a proxy's."""
    target = f"{path('runs', run_id)}/labels/{segment(key)}"
    _, response = yield from exchange(write("DELETE", "DeleteRunLabel", target), Acknowledgement)
    return response.status == 204 or response.body.strip() != b""


def delete_run(run_id: str) -> Flow[None]:
    """Delete a run and its metrics (DeleteRun)."""
    yield from call(write("DELETE", "DeleteRun", path("runs", run_id)), Acknowledgement)
