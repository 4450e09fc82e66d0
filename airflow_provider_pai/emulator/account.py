"""The contents of one Alibaba Cloud account, as a test arranges them: workspaces, experiments and runs, and
by `models` the model registry.

This module validates nothing: a test may store what the API would refuse. The operations validate.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from .clock import Clock, from_iso, iso
from .errors import not_found
from .models import RegisteredModels
from .records import OWNER_ID, Label, StoredMetric, StoredRun
from .state import State

T = TypeVar("T")
DEFAULT_WORKSPACE = "145883"
SECOND_WORKSPACE = "145884"
_IMPLIED_EXPERIMENT = "experiments"


class Account(RegisteredModels):
    """Workspaces, experiments, runs and models. Any thread may call every method.

    A new account has two workspaces: "145883", the default, and "145884".
    """

    def __init__(self, db: str | Path = ":memory:") -> None:
        self.state = State(db)
        self.clock = Clock()
        if not self.state.workspaces():
            self.add_workspace("evaluation", workspace_id=DEFAULT_WORKSPACE, is_default=True)
            self.add_workspace("research", workspace_id=SECOND_WORKSPACE)

    def add_workspace(self, name: str, *, workspace_id: str | None = None, is_default: bool = False) -> str:
        """Add a workspace and return its id, which has digits only."""
        if workspace_id is None:
            taken = {workspace["WorkspaceId"] for workspace in self.state.workspaces()}
            drawn = iter(lambda: str(200000 + secrets.randbelow(700000)), "")
            workspace_id = next(number for number in drawn if number not in taken)
        now = self.clock.iso()
        self.state.put_workspace(
            {
                "WorkspaceId": workspace_id,
                "WorkspaceName": name,
                "DisplayName": name,
                "Description": f"The {name} workspace of the emulator",
                "Status": "ENABLED",
                "EnvTypes": ["prod"],
                "Creator": OWNER_ID,
                "IsDefault": is_default,
                "GmtCreateTime": now,
                "GmtModifiedTime": now,
            }
        )
        return workspace_id

    def add_experiment(
        self,
        name: str | None = None,
        *,
        workspace_id: str | None = None,
        accessibility: str = "PRIVATE",
        artifact_uri: str = "",
        labels: dict[str, str] | None = None,
    ) -> str:
        """Add an experiment and return its id. Without a workspace it goes to the default one."""
        experiment_id = _new_id("exp")
        now = self.clock.iso()
        body = {
            "ExperimentId": experiment_id,
            "WorkspaceId": workspace_id or self.workspace_id,
            "Name": name or experiment_id,
            "Accessibility": accessibility,
            "ArtifactUri": artifact_uri,
            "TensorboardLogUri": "",
            "OwnerId": OWNER_ID,
            "UserId": OWNER_ID,
            "Labels": [],
            "GmtCreateTime": now,
            "GmtModifiedTime": now,
        }
        _set_labels(body, labels or {}, now)
        self.state.add_experiment(body)
        return experiment_id

    def label_experiment(self, experiment_id: str, labels: dict[str, str]) -> None:
        """Set `labels` on an experiment and keep its others.

        :raises RefusedError: the experiment does not exist. The two methods below raise it too.
        """
        self.edit_experiment(experiment_id, lambda body: _set_labels(body, labels, body["GmtModifiedTime"]))

    def edit_experiment(self, experiment_id: str, edit: Callable[[dict[str, Any]], None]) -> None:
        """Let `edit` change an experiment's body, PAI's own JSON, in one transaction."""

        def edit_and_date(body: dict[str, Any]) -> None:
            body["GmtModifiedTime"] = self.clock.iso()
            edit(body)

        if not self.state.edit_experiment(experiment_id, edit_and_date):
            raise not_found("Experiment", experiment_id)

    def delete_experiment(self, experiment_id: str) -> None:
        """Delete an experiment and its runs."""
        if not self.state.delete_experiment(experiment_id):
            raise not_found("Experiment", experiment_id)

    def add_run(
        self,
        name: str | None = None,
        *,
        experiment_id: str | None = None,
        workspace_id: str | None = None,
        labels: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
        metrics: dict[str, float] | None = None,
        source_type: str | None = None,
        source_id: str | None = None,
        gmt_create_time: str | datetime | None = None,
    ) -> str:
        """Add a run and return its id.

        :param experiment_id: by default an experiment of the workspace, which is created if necessary.
        :param gmt_create_time: ISO 8601 or a datetime; by default now.
        """
        (run_id,) = self.add_runs(
            1,
            name=name,
            experiment_id=experiment_id,
            workspace_id=workspace_id,
            labels=labels,
            params=params,
            metrics=metrics,
            source_type=source_type,
            source_id=source_id,
            gmt_create_time=gmt_create_time,
        )
        return run_id

    def add_runs(
        self,
        n: int,
        *,
        name: str | Callable[[int], str] | None = None,
        experiment_id: str | None = None,
        workspace_id: str | None = None,
        labels: dict[str, str] | Callable[[int], dict[str, str]] | None = None,
        params: dict[str, str] | Callable[[int], dict[str, str]] | None = None,
        metrics: dict[str, float] | Callable[[int], dict[str, float]] | None = None,
        source_type: str | None = None,
        source_id: str | Callable[[int], str] | None = None,
        gmt_create_time: str | datetime | Callable[[int], str | datetime] | None = None,
    ) -> list[str]:
        """Add `n` runs in one transaction and return their ids.

        A parameter that is a function is called with the index of each run, 0 to n - 1. By default the
        creation times are a millisecond apart, and the last one is now.
        """
        experiment_id, workspace_id = self._home(experiment_id, workspace_id)
        now = self.clock.now()
        run_ids = [_new_id("run") for _ in range(n)]

        def runs() -> Iterator[StoredRun]:
            for index, run_id in enumerate(run_ids):
                given = _at(gmt_create_time, index)
                created = iso(from_iso(given) if given else now - (n - 1 - index) / 1000)
                run = StoredRun(
                    run_id=run_id,
                    workspace_id=workspace_id,
                    experiment_id=experiment_id,
                    name=_at(name, index) or run_id,
                    created=created,
                    modified=created,
                    source_type=source_type or "",
                    source_id=_at(source_id, index) or "",
                    params=dict(_at(params, index) or {}),
                )
                run.labels = {
                    key: Label(value, created, created) for key, value in (_at(labels, index) or {}).items()
                }
                run.metrics = {
                    key: StoredMetric(key, value, 0, int(now * 1000))
                    for key, value in (_at(metrics, index) or {}).items()
                }
                yield run

        self.state.add_runs(runs())
        return run_ids

    def label_run(self, run_id: str, labels: dict[str, str]) -> None:
        """Set `labels` on a run and keep its others.

        :raises RefusedError: the run does not exist. The methods below raise it too.
        """
        self.edit_run(run_id, lambda run: run.label(labels, run.modified))

    def unlabel_run(self, run_id: str, key: str) -> None:
        """Remove a label from a run. A label that it does not carry is not an error."""
        self.edit_run(run_id, lambda run: run.labels.pop(key, None))

    def measure_run(self, run_id: str, metrics: dict[str, float], *, step: int | None = None) -> None:
        """Log metrics, as LogRunMetrics does, with the time of the emulator's clock."""
        timestamp = int(self.clock.now() * 1000)
        self.log_metrics(
            run_id, [StoredMetric(key, value, step or 0, timestamp) for key, value in metrics.items()]
        )

    def log_metrics(self, run_id: str, metrics: list[StoredMetric]) -> None:
        """Add to a run's history, and to its last values."""

        def measure(run: StoredRun) -> None:
            for metric in metrics:
                run.measure(metric)

        self.edit_run(run_id, measure, metrics)

    def edit_run(
        self, run_id: str, edit: Callable[[StoredRun], object], logged: list[StoredMetric] | None = None
    ) -> None:
        """Let `edit` change a run, and add `logged` to its history, in one transaction."""

        def edit_and_date(run: StoredRun) -> None:
            run.modified = self.clock.iso()
            edit(run)

        if not self.state.edit_run(run_id, edit_and_date, logged or []):
            raise not_found("Run", run_id)

    def delete_run(self, run_id: str) -> None:
        """Delete a run."""
        if not self.state.delete_run(run_id):
            raise not_found("Run", run_id)

    def runs(self, labels: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """The stored runs, in the order of insertion, under PAI's field names.

        `Labels`, `Params` and `Metrics` are dicts here (key to value), which are easier to compare.

        :param labels: only the runs that carry all of these.
        """
        found = [_plain(StoredRun.parse(rendered)) for rendered in self.state.runs()]
        return [run for run in found if (labels or {}).items() <= run["Labels"].items()]

    def _home(self, experiment_id: str | None, workspace_id: str | None) -> tuple[str, str]:
        if experiment_id is None:
            workspace_id = workspace_id or self.workspace_id
            for body in self.state.experiments(workspace_id):
                if body["Name"] == _IMPLIED_EXPERIMENT:
                    return body["ExperimentId"], workspace_id
            return self.add_experiment(_IMPLIED_EXPERIMENT, workspace_id=workspace_id), workspace_id
        experiment = self.state.experiment(experiment_id)
        if experiment is None:
            raise not_found("Experiment", experiment_id)
        return experiment_id, experiment["WorkspaceId"]


def _set_labels(body: dict[str, Any], labels: dict[str, str], now: str) -> None:
    entries = {entry["Key"]: entry for entry in body["Labels"]}
    for key, value in labels.items():
        entries[key] = {
            "ExperimentId": body["ExperimentId"],
            "Key": key,
            "Value": value,
            "GmtCreateTime": entries.get(key, {}).get("GmtCreateTime", now),
            "GmtModifiedTime": now,
        }
    body["Labels"] = list(entries.values())


def _new_id(noun: str) -> str:
    return f"{noun}-{secrets.token_hex(9)}"


def _at(value: T | Callable[[int], T] | None, index: int) -> Any:
    return value(index) if callable(value) else value


def _plain(run: StoredRun) -> dict[str, Any]:
    return {
        "RunId": run.run_id,
        "Name": run.name,
        "WorkspaceId": run.workspace_id,
        "ExperimentId": run.experiment_id,
        "SourceType": run.source_type,
        "SourceId": run.source_id,
        "GmtCreateTime": run.created,
        "GmtModifiedTime": run.modified,
        "Labels": {key: label.value for key, label in run.labels.items()},
        "Params": run.params,
        "Metrics": {key: metric.value for key, metric in run.metrics.items()},
    }
