"""The questions about runs of one poller, and what is open about each."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import msgspec

from airflow_provider_pai.api import Run, RunQuery
from airflow_provider_pai.waiting.listing import Key, keys_of_query, keys_of_run
from airflow_provider_pai.waiting.questions import Question, Questions, Subscription, Update

__all__ = ["RunQuestion", "RunQuestions"]


class RunQuestion(Question):
    """Which runs match a query, and what is open about it. One poll serves a workspace and labels.

    :param enough: how many of the first matching runs an answer holds; ``None`` for all.
    :param news_only: after the first answer, send only the runs that newly match or have changed.
    """

    def __init__(self, query: RunQuery, enough: int | None = None, *, news_only: bool = False) -> None:
        key = msgspec.json.encode((query, enough, news_only))
        super().__init__(query.workspace_id, tuple(query.label_items), key)
        self.query = query
        self.enough = enough
        self.news_only = news_only
        self.due = True
        """It has to be answered anew: somebody subscribed, or matching runs came or changed."""
        self.doubted = False
        """Something may have changed that no page has shown yet."""
        self.task: asyncio.Task[None] | None = None
        """Asks PAI just this question, or waits for its slot to do so."""
        self.sign = False
        """Whether PAI is asked because something changed, and not because something may have changed."""
        self.in_flight = False
        self._nothing_matched = False

    @property
    def open(self) -> bool:
        """Whether PAI has to be asked about it."""
        return self.due or self.doubted

    def add(self, subscription: Subscription) -> None:
        """Add a subscriber. If no run matched so far, it receives that at once, without a query."""
        super().add(subscription)
        if self._nothing_matched and not self.due:
            subscription.answered = True
            subscription.queue.put_nowait(Update(found=[], complete=True))
        else:
            self.due = True

    def send(self, update: Update) -> None:
        """Send an update to all subscribers."""
        if update.complete:
            self._nothing_matched = not update.found
        super().send(update)

    def answer(self, runs: list[Run]) -> None:
        """Send the answer, and stop asking for it."""
        self.due = self.doubted = False
        self.stop_asking()
        self.send(Update(found=runs, complete=True))

    def tell(self, runs: list[Run]) -> None:
        """Send runs that newly match, or query PAI where all that match are wanted."""
        if self.news_only and not self.due and all(each.answered for each in self.subscriptions):
            self._nothing_matched = False
            self.send(Update(found=runs))
        else:
            self.due = True

    def settle(self) -> None:
        """Note that nothing is open after a poll, and say so where it failed before."""
        if not self.in_flight:
            self.stop_asking()
            if self.failed:
                self.send(Update())

    def stop_asking(self) -> None:
        """Cancel the query that is under way for this question."""
        if self.task is not None:
            self.task.cancel()
            self.task, self.in_flight = None, False


class RunQuestions(Questions[RunQuestion]):
    """The questions of one poller, indexed by their filters."""

    def __init__(self) -> None:
        super().__init__()
        self._by_filter: dict[Key, dict[Hashable, RunQuestion]] = {}

    def add(self, question: RunQuestion, subscription: Subscription) -> RunQuestion:
        """Add a subscriber to a question, and return the question that equal ones share."""
        question = super().add(question, subscription)
        for filter_ in keys_of_query(question.query):
            self._by_filter.setdefault(filter_, {})[question.key] = question
        return question

    def remove(self, question: RunQuestion, subscription: Subscription) -> None:
        """Remove a subscriber, and a question that has none left."""
        super().remove(question, subscription)
        if not question.subscriptions:
            for filter_ in keys_of_query(question.query):
                of_filter = self._by_filter[filter_]
                del of_filter[question.key]
                if not of_filter:
                    del self._by_filter[filter_]

    def tell(self, news: list[Run]) -> None:
        """Pass new or changed runs to the questions that they concern."""
        concerned: dict[Hashable, list[Run]] = {}
        for run in news:
            for filter_ in keys_of_run(run):
                for key, question in self._by_filter.get(filter_, {}).items():
                    if question.query.matches(run) or question.query.undecided(run):
                        concerned.setdefault(key, []).append(run)
        for key, runs in concerned.items():
            self._by_key[key].tell(runs)
