"""The trigger that waits for a model's version in the triggerer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from airflow_provider_pai.registry.condition import QUESTION, VersionCondition
from airflow_provider_pai.registry.poller import version_updates
from airflow_provider_pai.waiting.condition import interval_seconds
from airflow_provider_pai.waiting.questions import Subscription, Update
from airflow_provider_pai.waiting.trigger import WaitingTrigger

__all__ = ["PaiModelVersionTrigger"]


class PaiModelVersionTrigger(WaitingTrigger):
    """Fire once, when a version of a model has an approval or the wait can no longer succeed.

    Its arguments are those of :class:`~airflow_provider_pai.sensors.PaiModelVersionSensor`, as plain JSON and
    without any secret, and those of :class:`~airflow_provider_pai.waiting.trigger.WaitingTrigger`. The
    event's payload is ``{"status": "met", "version": {...}}``, or ``{"status": "failed", ...}``.
    """

    question = (*QUESTION, "on_rejected")
    result = "version"

    def __init__(
        self,
        *,
        model_id: str | None = None,
        model_name: str | None = None,
        version_name: str | None = None,
        newer_than: str | None = None,
        labels: Mapping[str, str] | str | None = None,
        approval: str = "Approved",
        on_rejected: str = "fail",
        pai_conn_id: str = "pai_default",
        region: str | None = None,
        workspace_id: str | None = None,
        poke_interval: float = 60.0,
        fault_tolerance: int | None = 10,
        failed_polls: int = 0,
        end_task: bool = False,
        do_xcom_push: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model_id = model_id
        self.model_name = model_name
        self.version_name = version_name
        self.newer_than = newer_than
        self.labels = labels
        self.approval = approval
        self.on_rejected = on_rejected
        self.pai_conn_id = pai_conn_id
        self.region = region
        self.workspace_id = workspace_id
        self.poke_interval = poke_interval
        self.fault_tolerance = fault_tolerance
        self.failed_polls = failed_polls
        self.end_task = end_task
        self.do_xcom_push = do_xcom_push

    def condition(self) -> VersionCondition:
        """Return what ends the wait.

        :raises PaiUsageError: as the sensor would.
        """
        self.poke_interval = interval_seconds(self.poke_interval)
        return VersionCondition.of(**self.given(self.question))

    def updates_for(self, condition: VersionCondition) -> AsyncGenerator[tuple[Update, Subscription], None]:
        """Yield what PAI says about it, for ever."""
        return version_updates(self, condition)
