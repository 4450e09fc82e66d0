"""Triggers: wait for runs in the triggerer.

On Airflow 3.3 all triggers on the same connection, workspace and labels share one poll (``watch.py``); before
it each asks for itself over one shared client. Either way the same condition decides as in the worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_pai._base import FILTERS
from airflow_provider_pai._compat import DeferralTrigger, task_success, trigger_event
from airflow_provider_pai.api import PaiError, Run, RunQuery
from airflow_provider_pai.gating.rules import MetricRules
from airflow_provider_pai.links import LINK_KEY, console_url
from airflow_provider_pai.waiting.client import SharedClient, shared_client
from airflow_provider_pai.waiting.condition import RunCondition
from airflow_provider_pai.waiting.listing import Baseline
from airflow_provider_pai.waiting.poller import Look, Seat, Snapshot, Waiter, exact_polls
from airflow_provider_pai.waiting.subscription import WatchingTrigger, open_watch

__all__ = ["PaiRunEventTrigger", "PaiRunTrigger", "pai_run_asset"]

if TYPE_CHECKING:
    from airflow_provider_pai.waiting.events import PaiRunEventTrigger, pai_run_asset


def __getattr__(name: str) -> Any:
    # Only when it is asked for: Airflow 2 has no asset watchers.
    if name in ("PaiRunEventTrigger", "pai_run_asset"):
        from airflow_provider_pai.waiting import events

        return getattr(events, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class PaiRunTrigger(WatchingTrigger, DeferralTrigger):
    """Fire once, when the awaited runs are there or the wait can no longer succeed.

    Its arguments are those of :class:`~airflow_provider_pai.sensors.PaiRunSensor`, as plain JSON and without
    any secret. The event's payload is ``{"status": "met", "runs": [...]}``, or ``{"status": "failed",
    "error": text, "lasting": bool}``.

    :param fault_tolerance: failed polls in a row that end the wait; ``None`` waits on through all of them.
    :param asked: when, by PAI's clock, the sensor asked in vain, or sooner. Where a baseline from before that
        moment still holds, and nothing newer matches, the first look asks nothing: so it is after a restart.
    :param baseline: what the sensor saw of all runs with the labels just before it asked:
        ``{"edge": a moment, "older": how many had been created up to it, "known_at": when that was so}``. It
        serves all who wait for these labels.
    :param end_task: let a met condition end the task here, without a worker.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, str] | str,
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
        min_runs: int = 1,
        max_runs: int = 100,
        metrics: MetricRules | None = None,
        poke_interval: float = 60.0,
        fault_tolerance: int | None = 10,
        end_task: bool = False,
        asked: str | None = None,
        baseline: dict[str, Any] | None = None,
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
        self.created_after = created_after
        self.created_before = created_before
        self.order_by = order_by
        self.min_runs = min_runs
        self.max_runs = max_runs
        self.metrics = metrics
        self.poke_interval = poke_interval
        self.fault_tolerance = fault_tolerance
        self.end_task = end_task
        self.asked = asked
        self.baseline = baseline

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Snapshot]) -> AsyncIterator[Any]:
        """Fire when a shared snapshot holds the awaited runs."""
        try:
            condition = self.condition()
        except PaiError as error:
            yield _failed(error)
            return
        look = Look(
            condition.query,
            msgspec.convert(self.baseline, Baseline | None),
            msgspec.convert(self.asked, datetime | None),
        )
        async with open_watch(self.serialize()[1]) as (client, watch):
            with watch.joined(Waiter(look, self.poke_interval)) as seat:
                async for event in self._wait(condition, shared_stream, client, seat):
                    yield event

    async def run(self) -> AsyncIterator[Any]:
        """Fire when this trigger's own polls find the awaited runs."""
        try:
            condition = self.condition()
        except PaiError as error:
            yield _failed(error)
            return
        async with shared_client(self.pai_conn_id, self.region) as client:
            polls = exact_polls(client, condition.query, condition.enough, self.poke_interval)
            async for event in self._wait(condition, polls, client):
                yield event

    def condition(self) -> RunCondition:
        """Return what ends the wait.

        :raises PaiUsageError: as the sensor would.
        """
        return RunCondition(
            query=RunQuery.of(
                **{name: getattr(self, name) for name in FILTERS if getattr(self, name) is not None}
            ),
            min_runs=self.min_runs,
            max_runs=self.max_runs,
            metrics=dict(self.metrics) if self.metrics is not None else None,
        )

    async def _wait(
        self,
        condition: RunCondition,
        snapshots: AsyncIterator[Snapshot],
        client: SharedClient,
        seat: Seat | None = None,
    ) -> AsyncIterator[Any]:
        concerns = condition.query.check()
        look, faults, known = True, 0, 0
        async for snapshot in snapshots:
            if snapshot.number > known:  # an answer of its own may be newer than what waited meanwhile
                look = look or snapshot.beyond or any(map(concerns, snapshot.news))
            error = snapshot.error
            if error is None and look:
                try:
                    runs, known = await _runs(condition, snapshot, seat, first=known == 0)
                    met = condition.met_by(runs)
                    if met is not None:
                        yield await self._met(met, client)
                        return
                    look = _must_look_again(condition, seat, runs)
                except PaiError as own:
                    error = own
            if error is None:
                faults = 0
                continue
            faults, look = faults + 1, True
            self.log.warning("Poll failed, %d in a row: %s", faults, error)
            if not error.transient or faults == self.fault_tolerance:
                yield _failed(error)
                return

    async def _met(self, runs: list[dict[str, Any]], client: SharedClient) -> Any:
        if not self.end_task:
            return trigger_event({"status": "met", "runs": runs})
        settings = await client.settings()
        link = console_url([Run.from_dict(runs[0])], settings.region, settings.console_url)
        return await task_success(self.task_instance, {"return_value": runs, LINK_KEY: link})


async def _runs(
    condition: RunCondition, snapshot: Snapshot, seat: Seat | None, *, first: bool
) -> tuple[list[Run], int]:
    """Return what the condition decides over, and the number of the last poll that it includes.

    It is what the snapshot shows if that is enough, else the answer to the condition's own query.
    """
    view, query = snapshot.view, condition.query
    if seat is None:
        return view.matching(query), snapshot.number
    runs = view.answer(query)
    unchanged = first and seat.waiter.look.settled_by(view, snapshot.unchanged_since)
    if runs is None and unchanged and not view.matching(query):
        runs = []  # whatever matches lies further back, and was not enough when the wait began
    if runs is not None:
        return runs, snapshot.number
    try:
        return await seat.ask(condition.enough)
    except PaiError:
        seat.look_again()
        raise


def _must_look_again(condition: RunCondition, seat: Seat | None, runs: list[Run]) -> bool:
    """Tell whether values may yet be logged to these runs, which is no news where they are old."""
    if seat is None or not runs or condition.metrics is None:
        return False
    seat.look_again()
    return True


def _failed(error: PaiError) -> Any:
    return trigger_event(
        {"status": "failed", "error": f"{type(error).__name__}: {error}", "lasting": not error.transient}
    )
