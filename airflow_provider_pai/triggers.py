"""Triggers: wait for runs in the triggerer.

All triggers of a triggerer on the same connection, workspace and labels share one poll
(:mod:`airflow_provider_pai.waiting`), and the same condition decides as in the worker.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._base import QUESTION
from airflow_provider_pai._compat import BaseTrigger, task_success, trigger_event
from airflow_provider_pai.api import PaiError, Run
from airflow_provider_pai.gating.rules import MetricRules
from airflow_provider_pai.links import console_url, link_key
from airflow_provider_pai.waiting.client import shared_client
from airflow_provider_pai.waiting.condition import RunCondition, check_narrow, interval_seconds
from airflow_provider_pai.waiting.trigger import QUIET_SECONDS, PollingTrigger

__all__ = ["PaiRunEventTrigger", "PaiRunTrigger", "pai_run_asset"]

if TYPE_CHECKING:
    from airflow_provider_pai.waiting.events import PaiRunEventTrigger, pai_run_asset


def __getattr__(name: str) -> Any:
    # Only when it is asked for: Airflow 2 has no asset watchers.
    if name in ("PaiRunEventTrigger", "pai_run_asset"):
        from airflow_provider_pai.waiting import events

        return getattr(events, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class PaiRunTrigger(PollingTrigger, BaseTrigger):
    """Fire once, when the awaited runs are there or the wait can no longer succeed.

    Its arguments are those of :class:`~airflow_provider_pai.sensors.PaiRunSensor`, as plain JSON and without
    any secret. The event's payload is ``{"status": "met", "runs": [...]}``, or ``{"status": "failed",
    "error": text, "permanent": bool}``.

    :param fault_tolerance: failed polls in a row that end the wait; ``None`` waits on through all of them.
    :param failed_polls: how many polls in a row had failed when the wait came here.
    :param end_task: let a met condition end the task here, without a worker.
    :param do_xcom_push: whether such a task pushes its runs.
    """

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

    async def run(self) -> AsyncIterator[Any]:
        """Fire when the awaited runs are there."""
        try:
            condition = self.condition()
        except PaiError as error:
            yield _failed(error)
            return
        self.log.info("Waiting for %s, polled every %g s.", condition.describe(), self.poke_interval)
        failed_polls, progress, said_at = self.failed_polls, "no answer yet", time.monotonic()
        async with aclosing(self.updates(condition.query, condition.enough)) as updates:
            async for update, subscription in updates:
                if update.error is not None:
                    failed_polls += 1
                    self.log.warning("Poll failed, %d in a row: %s", failed_polls, update.error)
                    if not update.error.transient or failed_polls == self.fault_tolerance:
                        yield _failed(update.error)
                        return
                    continue
                failed_polls = 0
                runs = update.runs or []
                if update.runs is not None:
                    before, progress = progress, condition.progress(runs)
                    if progress != before:
                        self.log.info(progress)
                        said_at = time.monotonic()
                    try:
                        met = condition.met_by(runs)
                    except PaiError as error:  # they are too large for XCom
                        yield _failed(error)
                        return
                    if met is not None:
                        yield await self._met(met)
                        return
                    subscription.pending = [run.run_id for run in runs] if self.metrics else ()
                if time.monotonic() - said_at >= QUIET_SECONDS:
                    self.log.info("Still waiting: %s.", progress)
                    said_at = time.monotonic()

    def condition(self) -> RunCondition:
        """Return what ends the wait.

        :raises PaiUsageError: as the sensor would.
        """
        self.poke_interval = interval_seconds(self.poke_interval)
        given = self.given(QUESTION)
        check_narrow(self.labels, self.run_id)
        return RunCondition.of(**given)

    async def _met(self, runs: list[dict[str, Any]]) -> Any:
        if not self.end_task:
            return trigger_event({"status": "met", "runs": runs})
        xcoms: dict[str, Any] = {"return_value": runs} if self.do_xcom_push else {}
        try:
            async with shared_client(self.pai_conn_id, self.region) as client:
                settings = await client.settings()
            xcoms[link_key()] = console_url([Run.from_dict(runs[0])], settings.region, settings.console_url)
        except Exception:
            self.log.warning("The task gets no PAI button.", exc_info=True)
        return await task_success(self.task_instance, xcoms)


def _failed(error: PaiError) -> Any:
    return trigger_event(
        {"status": "failed", "error": f"{type(error).__name__}: {error}", "permanent": not error.transient}
    )
