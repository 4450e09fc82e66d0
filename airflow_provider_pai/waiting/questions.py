"""Who waits for what: the questions of all subscribers of one poller, and what is open about each."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

import msgspec

from airflow_provider_pai.api import PaiError, Run, RunQuery
from airflow_provider_pai.waiting.listing import Key, keys_of_query, keys_of_run

__all__ = ["Question", "Questions", "Subscription", "UnforeseenError", "Update"]


class UnforeseenError(PaiError):
    """A poll failed through a mistake of ours, which must not end the waits of everybody."""

    transient = True
    retryable = True


class Update(msgspec.Struct, frozen=True):
    """What a poll brought for a question: an answer, news, or an error.

    ``complete`` marks an answer: all ``runs`` that match, in the query's order. Otherwise ``runs`` are those
    that newly match, or have changed. With neither runs nor ``error`` a poll succeeded after one that failed.
    """

    runs: list[Run] | None = None
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
    """What one or more subscribers want to know, and what is open about it.

    :param enough: how many of the first matching runs an answer holds; ``None`` for all.
    :param news_only: after the first answer, the runs that newly match or have changed will do.
    """

    def __init__(self, query: RunQuery, enough: int | None = None, *, news_only: bool = False) -> None:
        self.query = query
        self.enough = enough
        self.news_only = news_only
        self.subscriptions: list[Subscription] = []
        self.due = True
        """It has to be answered anew: somebody subscribed, or matching runs came or changed."""
        self.doubted = False
        """Something may have changed that no page has shown yet."""
        self.task: asyncio.Task[None] | None = None
        """Asks PAI just this question, or waits for its slot to do so."""
        self.sign = False
        """Whether that is asked because something changed, and not because nobody can tell."""
        self.in_flight = False
        self.key = msgspec.json.encode((query, enough, news_only))
        """Equal for equal questions."""
        self._nothing_matched = False
        self._failed = False

    @property
    def open(self) -> bool:
        """Whether anything has to be asked for it."""
        return self.due or self.doubted

    def add(self, subscription: Subscription) -> None:
        """Let one more subscriber be told; what is known to be nothing need not be asked again."""
        self.subscriptions.append(subscription)
        if self._nothing_matched and not self.due:
            subscription.answered = True
            subscription.queue.put_nowait(Update(runs=[], complete=True))
        else:
            self.due = True

    def send(self, update: Update) -> None:
        """Send an update to all subscribers."""
        self._failed = update.error is not None
        if update.complete:
            self._nothing_matched = not update.runs
        for subscription in self.subscriptions:
            subscription.answered |= update.complete
            subscription.queue.put_nowait(update)

    def answer(self, runs: list[Run]) -> None:
        """Send the answer, and stop asking for it."""
        self.due = self.doubted = False
        self.stop_asking()
        self.send(Update(runs=runs, complete=True))

    def tell(self, runs: list[Run]) -> None:
        """Send runs that newly match, or have them looked up where all that match are wanted."""
        if self.news_only and not self.due and all(each.answered for each in self.subscriptions):
            self._nothing_matched = False
            self.send(Update(runs=runs))
        else:
            self.due = True

    def settle(self) -> None:
        """Note that nothing is open after a poll, and say so where it failed before."""
        if not self.in_flight:
            self.stop_asking()
            if self._failed:
                self.send(Update())

    def stop_asking(self) -> None:
        """Cancel what is being asked for it."""
        if self.task is not None:
            self.task.cancel()
            self.task, self.in_flight = None, False


class Questions:
    """All questions of one poller; equal ones are one."""

    def __init__(self) -> None:
        self.interval = float("inf")
        self._by_key: dict[bytes, Question] = {}
        self._by_filter: dict[Key, dict[bytes, Question]] = {}

    def __iter__(self) -> Iterator[Question]:
        return iter(list(self._by_key.values()))

    def __len__(self) -> int:
        return len(self._by_key)

    def add(self, question: Question, subscription: Subscription) -> Question:
        """Let somebody ask a question, and return the one that all share who ask it."""
        key = question.key
        question = self._by_key.setdefault(key, question)
        for filter_ in keys_of_query(question.query):
            self._by_filter.setdefault(filter_, {})[key] = question
        question.add(subscription)
        self.interval = min(self.interval, subscription.interval)
        return question

    def remove(self, question: Question, subscription: Subscription) -> None:
        """Let somebody leave; what nobody asks any more is forgotten."""
        question.subscriptions.remove(subscription)
        if not question.subscriptions:
            question.stop_asking()
            del self._by_key[question.key]
            for filter_ in keys_of_query(question.query):
                of_filter = self._by_filter[filter_]
                del of_filter[question.key]
                if not of_filter:
                    del self._by_filter[filter_]
        if subscription.interval <= self.interval:
            left = (each.interval for question in self for each in question.subscriptions)
            self.interval = min(left, default=float("inf"))

    def tell(self, news: list[Run]) -> None:
        """Tell those whom new or changed runs concern."""
        concerned: dict[bytes, list[Run]] = {}
        for run in news:
            for filter_ in keys_of_run(run):
                for key, question in self._by_filter.get(filter_, {}).items():
                    if question.query.matches(run) or question.query.undecided(run):
                        concerned.setdefault(key, []).append(run)
        for key, runs in concerned.items():
            self._by_key[key].tell(runs)

    def fail(self, error: PaiError) -> None:
        """Tell everybody that a poll failed."""
        for question in self:
            question.send(Update(error=error))
