"""What the triggers share: their arguments, and the updates of a poll that they share with others."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import Any, ClassVar, Protocol, cast

from airflow_provider_pai._base import Arguments
from airflow_provider_pai._compat import BaseTrigger, task_success, trigger_event
from airflow_provider_pai.api import PaiError, Run
from airflow_provider_pai.links import console_url, link_key
from airflow_provider_pai.waiting.client import SharedClient, shared_client
from airflow_provider_pai.waiting.poller import Poller, subscribe
from airflow_provider_pai.waiting.questions import Each, Subscription, Update

__all__ = ["Condition", "PollingTrigger", "WaitingTrigger"]

QUIET_SECONDS = 3600.0
"""After so long without an update a trigger receives an empty one, so that it logs that it still waits."""


class PollingTrigger(Arguments):
    """A trigger that waits for the updates of a shared poll; its arguments are its attributes.

    A filter that is passed as ``None`` is refused, as it is if a template renders to ``None``.
    """

    question: ClassVar[tuple[str, ...]]
    """The arguments that say what the wait is for."""
    pai_conn_id: str
    region: str | None
    poke_interval: float

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes an equal trigger in another process: plain JSON, and no secret.

        Defaults are left out, so that a filter which was not given is not passed as ``None``.
        """
        kwargs = {}
        for name, default in _defaults(cast("Any", type(self))).items():
            value = getattr(self, name)
            if isinstance(value, Mapping):
                value = dict(sorted(value.items()))  # Airflow compares their text
            elif isinstance(value, datetime):
                value = value.isoformat()
            if value != default:
                kwargs[name] = value
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PollingTrigger) and self.serialize() == other.serialize()

    def __hash__(self) -> int:
        return hash(str(self.serialize()))

    def _given_as_none(self) -> Iterable[str]:
        return self._passed_as_none.intersection(self.question)

    async def updates(
        self,
        workspace_id: str | None,
        make_poller: Callable[[SharedClient, Each], Poller[Each]],
        make_question: Callable[[str | None], Each],
    ) -> AsyncGenerator[tuple[Update, Subscription], None]:
        """Yield what concerns a question, for ever; a connection that cannot be read is a failed poll.

        The question is asked of this workspace, or else of the one that the connection names at any time.
        """
        async with shared_client(self.pai_conn_id, self.region) as client:
            while True:
                follows = workspace_id is None
                subscription = Subscription(self.poke_interval, follows_connection=follows)
                try:
                    located = workspace_id or (await client.settings()).workspace_id
                except PaiError as error:
                    yield Update(error=error), subscription
                    await asyncio.sleep(self.poke_interval)
                    continue
                async with subscribe(client, make_poller, make_question(located), subscription):
                    while (update := await _next(subscription)) is not None:
                        yield update, subscription


class Condition(Protocol):
    """What ends a wait; the same object decides in a worker."""

    def describe(self) -> str:
        """Return what is awaited, for people."""

    def progress(self, found: Any) -> str:
        """Return how far the wait has come, for people."""

    def met_by(self, found: Any) -> Any:
        """Return what goes to XCom once it is enough, or ``None``.

        :raises PaiError: the wait cannot succeed any more.
        """

    def runs_in(self, met: Any) -> list[Run]:
        """Return the runs that were awaited; the task's button opens the first."""


class WaitingTrigger(PollingTrigger, BaseTrigger):
    """A trigger that fires once: when its condition is met, or the wait can no longer succeed.

    The event's payload is ``{"status": "met", result: …}``, or ``{"status": "failed", "error": text, "kind":
    class of the error, "permanent": bool}``. Each of them takes:

    :param fault_tolerance: failed polls in a row that end the wait; with ``None`` none do.
    :param failed_polls: how many polls in a row had failed before the wait was handed over.
    :param end_task: let a met condition end the task here, without a worker.
    :param do_xcom_push: whether a task that ends here pushes what it found.
    """

    result: ClassVar[str]
    """The event's key for what was found."""
    fault_tolerance: int | None
    failed_polls: int
    end_task: bool
    do_xcom_push: bool

    @abstractmethod
    def condition(self) -> Any:
        """Return what ends the wait.

        :raises PaiUsageError: as the sensor would.
        """

    @abstractmethod
    def updates_for(self, condition: Any) -> AsyncGenerator[tuple[Update, Subscription], None]:
        """Yield what PAI answers about the condition, for ever."""

    def pending(self, found: Any) -> Collection[str]:
        """Return the ids of the runs that were found and may meet the condition later."""
        return ()

    async def run(self) -> AsyncIterator[Any]:
        """Fire when the condition is met."""
        try:
            condition: Condition = self.condition()
        except PaiError as error:
            yield _failed(error)
            return
        self.log.info("Waiting for %s, polled every %g s.", condition.describe(), self.poke_interval)
        failed_polls, progress, said_at = self.failed_polls, "no answer yet", time.monotonic()
        async with aclosing(self.updates_for(condition)) as updates:
            async for update, subscription in updates:
                if update.error is not None:
                    failed_polls += 1
                    self.log.warning("Poll failed, %d in a row: %s", failed_polls, update.error)
                    if not update.error.transient or failed_polls == self.fault_tolerance:
                        yield _failed(update.error)
                        return
                    continue
                failed_polls = 0
                if update.found is not None:
                    try:
                        before, progress = progress, condition.progress(update.found)
                        if progress != before:
                            self.log.info(progress)
                            said_at = time.monotonic()
                        met = condition.met_by(update.found)
                    except PaiError as error:  # too large for XCom, or decided against
                        yield _failed(error)
                        return
                    if met is not None:
                        yield await self._met(condition, met)
                        return
                    subscription.pending = self.pending(update.found)
                if time.monotonic() - said_at >= QUIET_SECONDS:
                    self.log.info("Still waiting: %s.", progress)
                    said_at = time.monotonic()

    async def _met(self, condition: Condition, met: Any) -> Any:
        if not self.end_task:
            return trigger_event({"status": "met", self.result: met})
        xcoms: dict[str, Any] = {"return_value": met} if self.do_xcom_push else {}
        try:
            async with shared_client(self.pai_conn_id, self.region) as client:
                settings = await client.settings()
            xcoms[link_key()] = console_url(condition.runs_in(met), settings.region, settings.console_url)
        except Exception:
            self.log.warning("The task gets no PAI button.", exc_info=True)
        return await task_success(self.task_instance, xcoms)


def _failed(error: PaiError) -> Any:
    kind = type(error).__name__
    return trigger_event(
        {"status": "failed", "error": f"{kind}: {error}", "kind": kind, "permanent": not error.retryable}
    )


async def _next(subscription: Subscription) -> Update | None:
    # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes together with an update.
    loop = asyncio.get_running_loop()
    quiet = loop.call_later(QUIET_SECONDS, subscription.queue.put_nowait, Update())
    try:
        return await subscription.queue.get()
    finally:
        quiet.cancel()


@functools.cache
def _defaults(trigger: Any) -> dict[str, Any]:
    return {name: each.default for name, each in inspect.signature(trigger).parameters.items()}
