"""Who waits for what: questions, their subscribers, and the updates that a poll sends them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Hashable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from airflow_provider_pai.api import PaiError

__all__ = ["Question", "Questions", "Subscription", "UnforeseenError", "Update"]


class UnforeseenError(PaiError):
    """A poll failed through a mistake of this provider, which must not end all waits."""

    transient = True
    retryable = True


class Update(msgspec.Struct, frozen=True):
    """What a poll brought for a question: an answer, news, or an error.

    ``complete`` marks an answer: all that was ``found``, in the question's order. Otherwise ``found`` is what
    newly matches, or has changed. With neither ``found`` nor ``error`` a poll succeeded after one that
    failed.
    """

    found: Any = None
    complete: bool = False
    error: PaiError | None = None


class Subscription:
    """A subscriber's queue of updates; ``None`` in it says to subscribe anew, to another workspace.

    Assign to ``pending`` the ids of runs that match but do not meet rules for metrics yet: values may be
    logged to them at any time, so where the newest page does not show them PAI is asked each interval.

    :param interval: seconds between polls that the subscriber wants.
    :param follows_connection: whether the workspace is the one that the connection names.
    """

    def __init__(self, interval: float, *, follows_connection: bool) -> None:
        self.interval = interval
        self.follows_connection = follows_connection
        self.pending: Collection[str] = ()
        self.answered = False
        self.queue: asyncio.Queue[Update | None] = asyncio.Queue()


class Question:
    """What one or more subscribers want to know.

    :param workspace_id: of which workspace; ``None`` is the default one.
    :param subject: with the workspace it is equal for all questions that one poll answers.
    :param key: equal for equal questions.
    """

    def __init__(self, workspace_id: str | None, subject: Hashable, key: Hashable) -> None:
        self.workspace_id = workspace_id
        self.topic = workspace_id, subject
        self.key = key
        self.subscriptions: list[Subscription] = []
        self.failed = False
        """Whether the last update that its subscribers received is an error."""

    def add(self, subscription: Subscription) -> None:
        """Add a subscriber."""
        self.subscriptions.append(subscription)

    def send(self, update: Update) -> None:
        """Send an update to all subscribers."""
        self.failed = update.error is not None
        for subscription in self.subscriptions:
            subscription.answered |= update.complete
            subscription.queue.put_nowait(update)

    def stop_asking(self) -> None:
        """Cancel the query that is under way for this question alone."""


Each = TypeVar("Each", bound=Question)


class Questions(Generic[Each]):
    """All questions of one poller; equal ones are one."""

    def __init__(self) -> None:
        self.interval = float("inf")
        self._by_key: dict[Hashable, Each] = {}

    def __iter__(self) -> Iterator[Each]:
        return iter(list(self._by_key.values()))

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, question: Each, subscription: Subscription) -> Each:
        """Add a subscriber to a question, and return the question that equal ones share."""
        question = self._by_key.setdefault(question.key, question)
        question.add(subscription)
        self.interval = min(self.interval, subscription.interval)
        return question

    def remove(self, question: Each, subscription: Subscription) -> None:
        """Remove a subscriber, and a question that has none left."""
        question.subscriptions.remove(subscription)
        if not question.subscriptions:
            question.stop_asking()
            del self._by_key[question.key]
        if subscription.interval <= self.interval:
            left = (each.interval for question in self for each in question.subscriptions)
            self.interval = min(left, default=float("inf"))

    def fail(self, error: PaiError) -> None:
        """Send all subscribers the error of a poll."""
        for question in self:
            question.send(Update(error=error))
