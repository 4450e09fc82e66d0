"""The operations on runs, after the vendor's API pages; ListRuns after its page of that name."""

from __future__ import annotations

import json
import sys

from .errors import RefusedError, invalid, not_found
from .faults import Quirks
from .listing import Condition, RunSearch
from .paging import read_order, read_page
from .parameters import Query
from .records import StoredRun, dumps, spell_values
from .records import answer as run_answer
from .routes import Call, Service, answer, answer_both, operation, workspace

SOURCE_TYPES = ("", "TrainingService", "DLC")
COLUMNS = {"GmtCreateTime": "created", "Name": "name"}


@operation("GET", "runs")
def list_runs(service: Service, call: Call) -> str:
    """ListRuns, as its page describes it."""
    query, quirks = call.query, service.quirks
    verbose = {"always": True, "never": False}.get(quirks.verbose, query.boolean("Verbose"))
    if quirks.default_workspace == "required":
        query.required("WorkspaceId")
    page = read_page(query, quirks)
    search = RunSearch(
        workspace_id=workspace(service, query.text("WorkspaceId")),
        order=read_order(query, COLUMNS, quirks),
        labels=_labels_filter(query, quirks),
        conditions=_conditions(service, query),
    )
    found, total = _listed(service, search, page.offset, 0 if page.blank else page.limit)
    if quirks.late_labels == "lost":
        found = [rendered for rendered in found if _labelled_early(rendered, search)]
    runs = ",".join(
        run_answer(
            rendered,
            call.request_id,
            verbose=verbose,
            non_finite=quirks.non_finite,
            values=quirks.metric_values,
        )
        for rendered in found
    )
    envelope = dumps({"requestId": call.request_id, **page.envelope(total)})
    return f'{envelope[:-1]},"Runs":[{runs}]}}'


def _listed(service: Service, search: RunSearch, offset: int, limit: int) -> tuple[list[str], int]:
    """Return a page of what `search` finds, and how many runs that are: without those of unlisted labels."""
    wanted = {key for key, _ in search.labels}
    left = {place: left for place, left in service.unlisted_labels.items() if left and place[1] in wanted}
    if not left:
        return service.account.state.search(search, offset, limit)
    service.unlisted_labels |= {place: number - 1 for place, number in left.items()}
    hidden = {run_id for run_id, _ in left}
    found, _ = service.account.state.search(search, 0, sys.maxsize)
    found = [rendered for rendered in found if json.loads(rendered)["RunId"] not in hidden]
    return found[offset : offset + limit], len(found)


def _labels_filter(query: Query, quirks: Quirks) -> tuple[tuple[str, str], ...]:
    """Read `key:value,key:value`. The quirk `label_split` says which of several colons separates."""
    labels = []
    for item in query.items("Labels"):
        if ":" not in item:
            raise invalid("Labels", f"{item!r} is not key:value")
        key, value = item.split(":", 1) if quirks.label_split == "first" else item.rsplit(":", 1)
        labels.append((key, value))
    return () if quirks.labels_filter == "ignored" else tuple(labels)


def _labelled_early(rendered: str, search: RunSearch) -> bool:
    run = json.loads(rendered)
    late = {label["Key"] for label in run["Labels"] if label["GmtCreateTime"] > run["GmtCreateTime"]}
    return not any(key in late for key, _ in search.labels)


def _conditions(service: Service, query: Query) -> tuple[Condition, ...]:
    quirks = service.quirks
    experiment_id = query.text("ExperimentId")
    if experiment_id and service.account.state.experiment(experiment_id) is None:
        raise not_found("Experiment", experiment_id)
    created = query.text("GmtCreateTime")
    if quirks.created_filter in ("exact", "since"):
        created = query.time("GmtCreateTime")
    named = {"exact": "equals", "fuzzy": "contains", "never": "never"}
    comparison = {"exact": "equals", "since": "since", "prefix": "begins", "ignored": ""}
    wanted = [
        ("experiment_id", "equals", experiment_id),
        ("name", named[quirks.name_match], query.text("Name")),
        ("source_type", "equals", query.choice("SourceType", SOURCE_TYPES, "")),
        ("source_id", "equals", query.text("SourceId")),
        ("created", comparison[quirks.created_filter], created),
    ]
    return tuple(Condition(column, how, value) for column, how, value in wanted if how and value)


@operation("GET", "runs/{RunId}")
def get_run(service: Service, call: Call) -> str:
    """GetRun: a flat Run, with details when Verbose."""
    verbose = call.query.boolean("Verbose")
    rendered = service.account.state.run(call.path["RunId"])
    if rendered is None:
        if service.quirks.missing_run == "200":
            return answer_both(call)
        if service.quirks.missing_run == "500":
            raise RefusedError(500, "InternalServerErrorProblem", "The run cannot be read.")
        raise not_found("Run", call.path["RunId"])
    run = run_answer(
        rendered,
        call.request_id,
        verbose=verbose,
        non_finite=service.quirks.non_finite,
        values=service.quirks.metric_values,
    )
    return f'{run[:-1]},"requestId":"{call.request_id}"}}'


@operation("POST", "runs")
def create_run(service: Service, call: Call) -> str:
    """CreateRun."""
    body = call.body
    labels = body.labels(service.quirks.label_characters)
    run_id = service.account.add_run(
        body.name(),
        experiment_id=body.required("ExperimentId"),
        labels=labels,
        params=body.params(),
        source_type=body.choice("SourceType", SOURCE_TYPES),
        source_id=body.text("SourceId"),
    )
    service.unlisted_labels |= {(run_id, key): service.quirks.unlisted_label for key in labels or ()}
    return answer(call, RunId=run_id)


@operation("PUT", "runs/{RunId}")
def update_run(service: Service, call: Call) -> str:
    """UpdateRun: fields that the body does not name stay as they are."""
    body = call.body
    labels = body.labels(service.quirks.label_characters)
    name, params = body.name(), body.params()
    replace = service.quirks.update_labels == "replace"

    def edit(run: StoredRun) -> None:
        run.name = name or run.name
        if labels is not None:
            news = {
                key
                for key, value in labels.items()
                if key not in run.labels or run.labels[key].value != value
            }
            service.unlisted_labels |= {(run.run_id, key): service.quirks.unlisted_label for key in news}
            if replace:
                run.labels = {key: label for key, label in run.labels.items() if key in labels}
            run.label(labels, run.modified)
        if params is not None:
            run.params = params if replace else {**run.params, **params}

    service.account.edit_run(call.path["RunId"], edit)
    return answer(call)


@operation("DELETE", "runs/{RunId}")
def delete_run(service: Service, call: Call) -> str:
    """DeleteRun."""
    service.account.delete_run(call.path["RunId"])
    return answer(call)


@operation("DELETE", "runs/{RunId}/labels/{Key}")
def delete_run_label(service: Service, call: Call) -> str:
    """DeleteRunLabel. A label that is not there is not an error; the documentation does not say."""
    service.account.unlabel_run(call.path["RunId"], call.path["Key"])
    return answer(call)


@operation("POST", "runs/{RunId}/metrics/action/log")
def log_run_metrics(service: Service, call: Call) -> str:
    """LogRunMetrics. Step defaults to 0, and Timestamp to what the quirk `metric_timestamp` says."""
    unit = {"milliseconds": 1000, "seconds": 1, "zero": 0}[service.quirks.metric_timestamp]
    metrics = call.body.metrics(timestamp=int(service.account.clock.now() * unit))
    if len(metrics) > service.quirks.logged_values:
        raise invalid("Metrics", f"{len(metrics)} values, of at most {service.quirks.logged_values}")
    service.account.log_metrics(call.path["RunId"], metrics)
    return answer(call)


@operation("GET", "runs/{RunId}/metrics")
def list_run_metrics(service: Service, call: Call) -> str:
    """ListRunMetrics: the whole history of a key, in the order it was logged."""
    run_id, key, page = call.path["RunId"], call.query.required("Key"), read_page(call.query, service.quirks)
    state = service.account.state
    if state.run(run_id) is None:
        raise not_found("Run", run_id)
    found, total = state.metric_history(run_id, key, page.offset, 0 if page.blank else page.limit)
    envelope = page.envelope(total)
    envelope.pop("TotalCount", None)  # this operation has none
    metrics = spell_values(
        dumps([metric.entry() for metric in found]), service.quirks.non_finite, service.quirks.metric_values
    )
    return f'{answer(call, **envelope)[:-1]},"Metrics":{metrics}}}'
