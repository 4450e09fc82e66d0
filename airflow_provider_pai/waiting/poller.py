"""One poll for everybody who waits for the same.

A poller owns a task that belongs to no trigger. Each interval it queries PAI, and sends each subscriber what
concerns them. Each kind of poller has its own query: the runs of a workspace with the same labels
(``run_poller.py``), or the versions of a model (``registry/poller.py``).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Generic
from weakref import WeakKeyDictionary

from airflow_provider_pai.api import PaiError
from airflow_provider_pai.waiting.client import SharedClient, apart
from airflow_provider_pai.waiting.questions import Each, Questions, Subscription, UnforeseenError

__all__ = ["Poller", "subscribe"]

log = logging.getLogger(__name__)

GATHERING_SECONDS = 1.0
"""How long the first poll waits for others to subscribe, such as all waits of a restarted triggerer."""


class Poller(ABC, Generic[Each]):
    """Polls for all subscribers of one topic."""

    questions: Questions[Each]

    def __init__(self, client: SharedClient, question: Each) -> None:
        self._client = client
        self._topic = question.topic
        self._workspace_id = question.workspace_id
        self._subscribed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @abstractmethod
    async def poll(self, seconds_left: Callable[[], float]) -> None:
        """Ask PAI, and send its questions what concerns them.

        :param seconds_left: how long until the next poll.
        :raises PaiError: the poll failed; every subscriber receives the error.
        """

    def under_way(self) -> list[asyncio.Task[Any]]:
        """Return the tasks of requests beside the poll."""
        return []

    def add(self, question: Each, subscription: Subscription) -> Each:
        """Add a subscriber to a question; the first one starts the polls."""
        question = self.questions.add(question, subscription)
        self._subscribed.set()
        if self._task is None:
            self._start()
        return question

    async def close(self) -> None:
        """Stop, and wait until nothing of it is left."""
        self._closed = True
        left = [task for task in (self._task, *self.under_way()) if task is not None]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)
        for task in left:
            if not task.cancelled():
                task.exception()  # nobody is left to receive it

    def _start(self) -> None:
        self._task = apart(self._run())
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Start the polls again if they ended although somebody waits, who would wait for ever."""
        if not self._closed:
            error = None if task.cancelled() else task.exception()
            log.error("The polls for %s ended and are started again.", self._topic, exc_info=error)
            self._start()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(min(GATHERING_SECONDS, self.questions.interval / 2))
        # Pollers that started together go their own ways from the second poll on.
        share = random.random()
        while True:
            started = clock()
            left = functools.partial(self._seconds_left, started, share)
            self._subscribed.clear()
            try:
                self._send_away((await self._client.settings()).workspace_id)
                await self.poll(left)
            except PaiError as error:
                self.questions.fail(error)
            except Exception as error:
                log.exception("A poll failed with an unexpected error.")
                self.questions.fail(UnforeseenError(f"{type(error).__name__}: {error}"))
            while (seconds := left()) > 0:  # whoever subscribes may want a shorter interval
                # Not asyncio.wait_for: before Python 3.12 it may lose a cancellation.
                due = asyncio.get_running_loop().call_later(seconds, self._subscribed.set)
                try:
                    await self._subscribed.wait()
                finally:
                    due.cancel()
                self._subscribed.clear()
            share = 1.0

    def _seconds_left(self, started: float, share: float) -> float:
        return started + self.questions.interval * share - asyncio.get_running_loop().time()

    def _send_away(self, workspace_id: str | None) -> None:
        """End the subscriptions that follow the connection, where it names another workspace now."""
        if workspace_id != self._workspace_id:
            for question in self.questions:
                for subscription in question.subscriptions:
                    if subscription.follows_connection:
                        subscription.queue.put_nowait(None)


_pollers: WeakKeyDictionary[SharedClient, dict[object, Poller[Any]]] = WeakKeyDictionary()


@asynccontextmanager
async def subscribe(
    client: SharedClient,
    make_poller: Callable[[SharedClient, Each], Poller[Each]],
    question: Each,
    subscription: Subscription,
) -> AsyncIterator[None]:
    """Send a subscriber what concerns a question, over the poll of all whose questions have its topic."""
    of_client = _pollers.setdefault(client, {})
    key = make_poller, question.topic
    poller = of_client.get(key)
    if poller is None:
        poller = of_client[key] = make_poller(client, question)
    question = poller.add(question, subscription)
    try:
        yield
    finally:
        poller.questions.remove(question, subscription)
        if not poller.questions:
            del of_client[key]
            if not of_client:
                _pollers.pop(client, None)
            await poller.close()
