"""Triggers: wait in the triggerer for runs, and for versions of models.

All triggers of a triggerer on the same connection, workspace and labels, or model, share one poll
(:mod:`airflow_provider_pai.waiting`), and the same condition decides as in the worker.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._base import QUESTION
from airflow_provider_pai.api import Run
from airflow_provider_pai.gating.rules import MetricRules
from airflow_provider_pai.registry.trigger import PaiModelVersionTrigger
from airflow_provider_pai.waiting.condition import RunCondition, check_narrow, interval_seconds
from airflow_provider_pai.waiting.questions import Subscription, Update
from airflow_provider_pai.waiting.run_poller import run_updates
from airflow_provider_pai.waiting.trigger import WaitingTrigger

__all__ = [
    "PaiModelVersionEventTrigger",
    "PaiModelVersionTrigger",
    "PaiRunEventTrigger",
    "PaiRunTrigger",
    "pai_model_asset",
    "pai_run_asset",
]

if TYPE_CHECKING:
    from airflow_provider_pai.registry.events import PaiModelVersionEventTrigger, pai_model_asset
    from airflow_provider_pai.waiting.events import PaiRunEventTrigger, pai_run_asset


def __getattr__(name: str) -> Any:
    # Only when it is asked for: Airflow 2 has no asset watchers.
    if name in ("PaiRunEventTrigger", "pai_run_asset"):
        from airflow_provider_pai.waiting import events as of_runs

        return getattr(of_runs, name)
    if name in ("PaiModelVersionEventTrigger", "pai_model_asset"):
        from airflow_provider_pai.registry import events as of_models

        return getattr(of_models, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class PaiRunTrigger(WaitingTrigger):
    """Fire once, when the awaited runs are there or the wait can no longer succeed.

    Its arguments are those of :class:`~airflow_provider_pai.sensors.PaiRunSensor`, as plain JSON and without
    any secret, and those of :class:`~airflow_provider_pai.waiting.trigger.WaitingTrigger`. The event's
    payload is ``{"status": "met", "runs": [...]}``, or ``{"status": "failed", ...}``.
    """

    question = QUESTION
    result = "runs"

    def __init__(
        self,
        *,
        labels: Mapping[str, str] | str | None = None,
        run_id: str | Sequence[str] | None = None,
        pai_conn_id: str = "pai_default",
        region: str | None = None,
        workspace_id: str | None = None,
        experiment_id: str | None = None,
        name: str | None = None,
        source_type: str | None = None,
        source_id: str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        order_by: str = "GmtCreateTime ASC",
        min_runs: int | str | None = None,
        max_runs: int | str | None = None,
        metrics: MetricRules | None = None,
        poke_interval: float = 60.0,
        fault_tolerance: int | None = 10,
        failed_polls: int = 0,
        end_task: bool = False,
        do_xcom_push: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.pai_conn_id = pai_conn_id
        self.region = region
        self.workspace_id = workspace_id
        self.experiment_id = experiment_id
        self.name = name
        self.source_type = source_type
        self.source_id = source_id
        self.labels = labels
        self.run_id = run_id
        self.created_after = created_after
        self.created_before = created_before
        self.order_by = order_by
        self.min_runs = min_runs
        self.max_runs = max_runs
        self.metrics = metrics
        self.poke_interval = poke_interval
        self.fault_tolerance = fault_tolerance
        self.failed_polls = failed_polls
        self.end_task = end_task
        self.do_xcom_push = do_xcom_push

    def condition(self) -> RunCondition:
        """Return what ends the wait.

        :raises PaiUsageError: as the sensor would.
        """
        self.poke_interval = interval_seconds(self.poke_interval)
        given = self.given(self.question)
        check_narrow(self.labels, self.run_id)
        return RunCondition.of(**given)

    def updates_for(self, condition: RunCondition) -> AsyncGenerator[tuple[Update, Subscription], None]:
        """Yield what PAI answers about the condition, for ever."""
        return run_updates(self, condition.query, condition.enough)

    def pending(self, found: list[Run]) -> list[str]:
        """Return the ids of the runs that were found and may meet rules for metrics later."""
        return [run.run_id for run in found] if self.metrics else []
