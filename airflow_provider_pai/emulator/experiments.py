"""The operations on experiments and workspaces, after the vendor's API pages and its SDK's models."""

from __future__ import annotations

import json
from typing import Any

from .errors import RefusedError, invalid, not_found, taken
from .paging import read_order, read_page
from .parameters import Query
from .records import answer as run_answer
from .routes import Call, Service, answer, answer_both, operation, workspace

ACCESSIBILITIES = ("PRIVATE", "PUBLIC")
COLUMNS = {name: name for name in ("GmtCreateTime", "Name", "GmtModifiedTime", "ExperimentId")}
CONFIGS = {
    "modelExportPath": "oss://pai-emulator.oss-cn-hangzhou.aliyuncs.com/",
    "tempTableLifecycle": "28",
}


@operation("POST", "experiments")
def create_experiment(service: Service, call: Call) -> str:
    """CreateExperiment."""
    body = call.body
    body.required("Name")
    artifact_uri = body.text("ArtifactUri") or ""
    if artifact_uri and not artifact_uri.startswith("oss://"):
        raise invalid("ArtifactUri", "it must begin with oss://")
    name, workspace_id = body.name(), workspace(service, body.required("WorkspaceId"))
    accessibility = body.choice("Accessibility", ACCESSIBILITIES) or "PRIVATE"
    labels = body.labels(service.quirks.label_characters)
    _refuse_taken(service, name, workspace_id)
    experiment_id = service.account.add_experiment(
        name,
        workspace_id=workspace_id,
        accessibility=accessibility,
        artifact_uri=artifact_uri,
        labels=labels,
    )
    service.hidden_experiments[experiment_id] = service.quirks.hidden_experiment
    service.unlisted_experiments[experiment_id] = service.quirks.unlisted_experiment
    return answer_both(call, ExperimentId=experiment_id)


def _refuse_taken(service: Service, name: str | None, workspace_id: str, renamed: str = "") -> None:
    """Refuse a name that another experiment of the workspace has."""
    if service.quirks.experiment_names == "repeatable":
        return
    for body in service.account.state.experiments(workspace_id):
        if body["Name"] == name and body["ExperimentId"] != renamed:
            raise taken("Experiment", body["Name"], service.quirks.name_taken)


@operation("GET", "experiments/{ExperimentId}")
def get_experiment(service: Service, call: Call) -> str:
    """GetExperiment; with Verbose the answer has the LatestRun."""
    experiment_id, verbose = call.path["ExperimentId"], call.query.boolean("Verbose")
    if service.hidden_experiments.get(experiment_id, 0) > 0:
        service.hidden_experiments[experiment_id] -= 1
        raise RefusedError(404, "NotFoundErrorProblem", f"Experiment {experiment_id!r} is not visible yet.")
    body = service.account.state.experiment(experiment_id)
    if body is None:
        raise not_found("Experiment", experiment_id)
    return answer_both(call, **_experiment(service, call, body, verbose))


def _experiment(service: Service, call: Call, body: dict[str, Any], verbose: bool) -> dict[str, Any]:
    latest = service.account.state.latest_run(body["ExperimentId"]) if verbose else None
    if latest is None:
        return body
    run = run_answer(
        latest, call.request_id, verbose=True, non_finite="string", values=service.quirks.metric_values
    )
    return {**body, "LatestRun": json.loads(run)}


@operation("PUT", "experiments/{ExperimentId}")
def update_experiment(service: Service, call: Call) -> str:
    """UpdateExperiment: fields that the body does not name stay as they are."""
    name, accessibility = call.body.name(), call.body.choice("Accessibility", ACCESSIBILITIES)
    experiment_id = call.path["ExperimentId"]
    known = service.account.state.experiment(experiment_id)
    if known is not None:
        _refuse_taken(service, name, known["WorkspaceId"], renamed=experiment_id)

    def edit(body: dict[str, Any]) -> None:
        body["Name"] = name or body["Name"]
        body["Accessibility"] = accessibility or body["Accessibility"]

    service.account.edit_experiment(experiment_id, edit)
    return answer_both(call)


@operation("DELETE", "experiments/{ExperimentId}")
def delete_experiment(service: Service, call: Call) -> str:
    """DeleteExperiment. The documentation does not say whether it deletes the experiment's runs too."""
    experiment_id = call.path["ExperimentId"]
    refused = service.quirks.experiment_with_runs == "refused"
    if refused and service.account.state.latest_run(experiment_id) is not None:
        raise RefusedError(400, "ExperimentNotEmpty", f"Experiment {experiment_id!r} still has runs.")
    service.account.delete_experiment(experiment_id)
    return answer_both(call)


@operation("GET", "experiments")
def list_experiment(service: Service, call: Call) -> str:
    """ListExperiment: labels are `Key=Value` here; Name is a substring unless Options say otherwise."""
    query = call.query
    page, verbose = read_page(query, service.quirks), query.boolean("Verbose")
    order = read_order(query, COLUMNS, service.quirks)
    labels, exactly = _labels_filter(query), _match_name_exactly(query)
    name = query.text("Name") or ""
    found = [
        body
        for body in service.account.state.experiments(workspace(service, query.text("WorkspaceId")))
        if (body["Name"] == name if name and exactly else name in body["Name"])
        and labels <= {(entry["Key"], entry["Value"]) for entry in body["Labels"]}
        and not _still_unlisted(service, body["ExperimentId"])
    ]
    # Sorting is stable, so insertion order breaks ties in the direction of the first field.
    if order[0].descending:
        found.reverse()
    for column, descending in reversed(order):
        found.sort(key=lambda body: str(body[column]), reverse=descending)
    chosen = [] if page.blank else found[page.offset : page.offset + page.limit]
    return answer(
        call,
        Experiments=[_experiment(service, call, body, verbose) for body in chosen],
        **page.envelope(len(found)),
    )


def _still_unlisted(service: Service, experiment_id: str) -> bool:
    left = service.unlisted_experiments.get(experiment_id, 0)
    if left:
        service.unlisted_experiments[experiment_id] = left - 1
    return left > 0


def _labels_filter(query: Query) -> set[tuple[str, str]]:
    labels = set()
    for item in query.items("Labels"):
        key, separator, value = item.partition("=")
        if not separator:
            raise invalid("Labels", f"{item!r} is not Key=Value")
        labels.add((key, value))
    return labels


def _match_name_exactly(query: Query) -> bool:
    try:
        options = json.loads(query.text("Options") or "{}")
    except ValueError:
        raise invalid("Options", "it is not JSON") from None
    return isinstance(options, dict) and str(options.get("match_name_exactly")).lower() == "true"


@operation("POST", "experiments/{ExperimentId}/labels")
def set_experiment_labels(service: Service, call: Call) -> str:
    """SetExperimentLabels: sets these and keeps the others."""
    labels = call.body.labels(service.quirks.label_characters)
    if labels is None:
        raise invalid("Labels", "it is required")
    service.account.label_experiment(call.path["ExperimentId"], labels)
    return answer_both(call)


@operation("DELETE", "experiments/{ExperimentId}/labels/{Key}")
def delete_experiment_label(service: Service, call: Call) -> str:
    """DeleteExperimentLabel. A label that is not there is not an error."""

    def edit(body: dict[str, Any]) -> None:
        body["Labels"] = [entry for entry in body["Labels"] if entry["Key"] != call.path["Key"]]

    service.account.edit_experiment(call.path["ExperimentId"], edit)
    return answer_both(call)


@operation("GET", "workspaces")
def list_workspaces(service: Service, call: Call) -> str:
    """ListWorkspaces, by PageNumber and PageSize (20); its order defaults to ASC."""
    query = call.query
    number = query.integer("PageNumber", least=1) or 1
    size = query.integer("PageSize", least=1) or 20
    sort_by = query.choice("SortBy", ("GmtCreateTime", "GmtModifiedTime"), "GmtCreateTime")
    descending = query.choice("Order", ("ASC", "DESC"), "ASC") == "DESC"
    name, status, ids = query.text("WorkspaceName"), query.text("Status"), query.items("WorkspaceIds")
    found = [
        body
        for body in service.account.state.workspaces()
        if (name or "") in body["WorkspaceName"]
        and status in (None, body["Status"])
        and (not ids or body["WorkspaceId"] in ids)
    ]
    found.sort(key=lambda body: str(body[sort_by]), reverse=descending)
    chosen = found[(number - 1) * size : number * size]
    if query.text("Fields") == "Id":
        chosen = [{"WorkspaceId": body["WorkspaceId"]} for body in chosen]
    return answer_both(call, Workspaces=chosen, TotalCount=len(found))


@operation("GET", "workspaces/{WorkspaceId}")
def get_workspace(service: Service, call: Call) -> str:
    """GetWorkspace; with Verbose the answer has the Owner."""
    body = _workspace_body(service, workspace(service, call.path["WorkspaceId"]))
    if call.query.boolean("Verbose"):
        body["Owner"] = _owner(body)
    return answer_both(call, **body, AdminNames=["emulator"], ExtraInfos={})


@operation("GET", "workspaces/{WorkspaceId}/configs")
def list_configs(service: Service, call: Call) -> str:
    """ListConfigs: the workspace's default OSS path, and how many days a temporary table lives."""
    workspace(service, call.path["WorkspaceId"])
    keys = call.query.items("ConfigKeys")
    found = [
        {"CategoryName": "CommonResourceConfig", "ConfigKey": key, "ConfigValue": value, "Labels": []}
        for key, value in CONFIGS.items()
        if not keys or key in keys
    ]
    return answer_both(call, Configs=found, TotalCount=len(found))


@operation("GET", "defaultWorkspaces")
def get_default_workspace(service: Service, call: Call) -> str:
    """GetDefaultWorkspace; with Verbose the answer has the Conditions of its creation."""
    body = _workspace_body(service, service.account.workspace_id)
    body.pop("IsDefault")  # the official SDK does not have it here
    body["Owner"] = _owner(body)
    if call.query.boolean("Verbose"):
        body["Conditions"] = [{"Code": 200, "Message": "", "Type": "ENABLED"}]
    return answer_both(call, **body)


def _workspace_body(service: Service, workspace_id: str) -> dict[str, Any]:
    (body,) = (body for body in service.account.state.workspaces() if body["WorkspaceId"] == workspace_id)
    return body


def _owner(body: dict[str, Any]) -> dict[str, str]:
    return {"UserId": body["Creator"], "UserKp": body["Creator"], "UserName": "emulator"}
