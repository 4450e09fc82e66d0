"""What the triggers share: their arguments, and the updates of a poll that they share with others."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Mapping
from datetime import datetime
from typing import Any, cast

import msgspec

from airflow_provider_pai.api import PaiError, PaiUsageError, RunQuery
from airflow_provider_pai.waiting.client import shared_client
from airflow_provider_pai.waiting.poller import subscribe
from airflow_provider_pai.waiting.questions import Question, Subscription, Update

__all__ = ["PollingTrigger"]

QUIET_SECONDS = 3600.0
"""After so long without an update a trigger hears that nothing is new, to say that it is still waiting."""


class PollingTrigger:
    """A trigger that waits for the updates of a shared poll; its arguments are its attributes."""

    pai_conn_id: str
    region: str | None
    poke_interval: float

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes an equal trigger in another process: plain JSON, and no secret."""
        kwargs = {name: getattr(self, name) for name in _parameters(cast("Any", type(self)))}
        for name, value in kwargs.items():
            if isinstance(value, Mapping):
                kwargs[name] = dict(sorted(value.items()))  # Airflow compares their text
            elif isinstance(value, datetime):
                kwargs[name] = value.isoformat()
        return f"{type(self).__module__}.{type(self).__qualname__}", kwargs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PollingTrigger) and self.serialize() == other.serialize()

    def __hash__(self) -> int:
        return hash(str(self.serialize()))

    def check_interval(self) -> None:
        """Refuse an interval that would make everybody poll without a pause.

        :raises PaiUsageError: with what to write instead.
        """
        interval: object = self.poke_interval
        if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not 0 < interval < 1e9:
            raise PaiUsageError(f"poke_interval={interval!r} must be a number of seconds above 0.")

    async def updates(
        self, query: RunQuery, enough: int | None, *, news_only: bool = False
    ) -> AsyncGenerator[tuple[Update, Subscription], None]:
        """Yield what concerns a question, for ever; a connection that cannot be read is a failed poll.

        The workspace is the query's own, or else the one that the connection names at any time.
        """
        async with shared_client(self.pai_conn_id, self.region) as client:
            while True:
                follows = query.workspace_id is None
                subscription = Subscription(self.poke_interval, follows_connection=follows)
                try:
                    workspace_id = query.workspace_id or (await client.settings()).workspace_id
                except PaiError as error:
                    yield Update(error=error), subscription
                    await asyncio.sleep(self.poke_interval)
                    continue
                located = msgspec.structs.replace(query, workspace_id=workspace_id)
                question = Question(located, enough, news_only=news_only)
                async with subscribe(client, workspace_id, question, subscription):
                    while (update := await _next(subscription)) is not None:
                        yield update, subscription


async def _next(subscription: Subscription) -> Update | None:
    # Not asyncio.wait_for: before Python 3.12 it loses a cancellation that comes together with an update.
    loop = asyncio.get_running_loop()
    quiet = loop.call_later(QUIET_SECONDS, subscription.queue.put_nowait, Update())
    try:
        return await subscription.queue.get()
    finally:
        quiet.cancel()


@functools.cache
def _parameters(trigger: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(trigger).parameters)
