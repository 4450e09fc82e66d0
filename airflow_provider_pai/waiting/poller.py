"""One poll for many waits: watch the newest runs with given labels.

Everybody who waits for runs of one workspace with the same labels looks at the same snapshots, whatever
else each of them asks. An interval costs one request: the newest page. What that page cannot show is told
by TotalCount (``view.py``): where it changes by more, or less, than came and went on the page, something
changed further back, for instance an old run that got its label only now. Then pages are read back to where
it changed, if an earlier poll has seen that far. If none has, everybody who waits for runs that old looks
again, for as few requests as possible: a few pages more, or each one's own exact query.

Who joins looks as well, unless a baseline, their own or another's, says that what matters to them is as it
was when they asked in vain: so a thousand waits cost hardly more than one when a triggerer starts again.

A run is noticed within one interval, however old it is. Without TotalCount, changes beyond the newest page
are looked for every :data:`BLIND_POLLS` intervals, as if there had been one. With it, every
:data:`TRUSTED_POLLS`: two changes further back may cancel out within one interval, such as one label given
and another taken away.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime

import msgspec

from airflow_provider_pai.api import PaiError, Run, RunQuery, list_runs
from airflow_provider_pai.api.flow import call
from airflow_provider_pai.api.models import RunPage
from airflow_provider_pai.api.operations import page_request
from airflow_provider_pai.api.paging import PAGE_SIZE
from airflow_provider_pai.waiting.client import SharedClient
from airflow_provider_pai.waiting.listing import LATEST, MOST_PAGES, NEWEST_FIRST, Baseline, View

__all__ = ["Look", "Seat", "Snapshot", "Waiter", "Watch", "exact_polls", "shared_watch"]

log = logging.getLogger(__name__)

BLIND_POLLS = 10
TRUSTED_POLLS = 100
GATHERING_SECONDS = 1.0
"""How long the first poll waits for others to join, such as all waits of a restarted triggerer."""


class Snapshot(msgspec.Struct, frozen=True):
    """What a poll saw: a view, what is new in it, and whether something changed further back.

    Where the poll failed, ``error`` says how, and the rest says nothing.
    """

    view: View
    number: int = 0
    news: list[Run] = []
    beyond: bool = False
    unchanged_since: datetime = LATEST
    error: PaiError | None = None


class Look(msgspec.Struct, frozen=True):
    """What somebody has to know after the next poll.

    Who ``asked`` PAI before, in vain, needs to know no more than that nothing changed since: since their
    baseline was pinned, which was just before, or since another's was, if that was before they asked.
    """

    query: RunQuery
    baseline: Baseline | None = None
    asked: datetime | None = None

    def settled_by(self, view: View, unchanged_since: datetime) -> bool:
        """Tell whether a view is enough."""
        if self.asked is None or view.covers(self.query):
            return view.covers(self.query)
        own = self.baseline is not None and view.bears_out(self.baseline)
        return own or self.asked >= unchanged_since

    def pages_missing(self, view: View) -> float:
        """Return how many more pages will be enough, as far as anything tells; else 0 or infinity."""
        if self.query.window[0] is not None:
            return 0  # the next page may reach its beginning
        if view.total is None:
            return float("inf")
        known = self.baseline.older if self.baseline is not None and view.since > self.baseline.edge else 0
        return (view.total - known) / PAGE_SIZE - view.pages


class Waiter(msgspec.Struct, frozen=True, eq=False):
    """Somebody who waits: what for, from what on, and how often they want to know."""

    look: Look
    interval: float


class Seat(msgspec.Struct, frozen=True):
    """A waiter's place at a watch."""

    watch: Watch
    waiter: Waiter

    def look_again(self) -> None:
        """Make sure that the next poll tells this waiter something, even if there is no news."""
        self.watch.looks.append(Look(self.waiter.look.query))

    async def ask(self, max_runs: int | None) -> tuple[list[Run], int]:
        """Return what the waiter's own query really finds, and the last poll that this includes."""
        return await self.watch.ask(self.waiter.look.query, max_runs)


class Watch:
    """Polls for all waiters of one workspace and label."""

    def __init__(self, client: SharedClient, query: RunQuery) -> None:
        self.users = 0
        self._client = client
        self._query = query
        self._waiters: list[Waiter] = []
        self.looks: list[Look] = []
        self._joined = asyncio.Event()
        self._view = View()
        self._number = 0
        self._unseen = 0
        self._failed = False
        self._asking: dict[bytes, asyncio.Task[tuple[list[Run], int]]] = {}

    @contextmanager
    def joined(self, waiter: Waiter) -> Iterator[Seat]:
        """Count somebody among those who wait."""
        self._waiters.append(waiter)
        self.looks.append(waiter.look)
        self._joined.set()
        try:
            yield Seat(self, waiter)
        finally:
            self._waiters.remove(waiter)

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """Poll for ever, once each interval; yield only what somebody has to know."""
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(min(GATHERING_SECONDS, self._interval() / 2))
        while True:
            started = clock()
            self._joined.clear()
            snapshot = await self._poll()
            if snapshot is not None:
                yield snapshot
            while (left := started + self._interval() - clock()) > 0:
                try:  # whoever joins may want a shorter interval
                    await asyncio.wait_for(self._joined.wait(), left)
                    self._joined.clear()
                except asyncio.TimeoutError:
                    break

    async def ask(self, query: RunQuery, max_runs: int | None) -> tuple[list[Run], int]:
        """Return what a query really finds, and the number of the last poll before it was asked.

        Equal questions that wait for their turn are asked once.

        :raises PaiError: see :mod:`airflow_provider_pai.api.errors`.
        """
        key = msgspec.json.encode((query, max_runs))
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, query, max_runs))
        return await asyncio.shield(task)  # one who stops waiting does not stop the others

    async def _ask(self, key: bytes, query: RunQuery, max_runs: int | None) -> tuple[list[Run], int]:
        async with self._client.turn():
            del self._asking[key]  # whoever asks from now on wants to know what happened since
            number = self._number
            located = await self._client.located(query)
            return await self._client.run(lambda: list_runs(located, max_runs=max_runs)), number

    def _interval(self) -> float:
        return min((waiter.interval for waiter in self._waiters), default=1.0)

    async def _poll(self) -> Snapshot | None:
        looks, self.looks = self.looks, []
        self._number += 1
        try:
            snapshot = await self._look(looks)
        except Exception as error:
            self.looks += looks
            self._failed = True
            if not isinstance(error, PaiError):
                # Raised, it would end every wait at once, and Airflow would start them all again at once.
                log.exception("A poll failed in an unforeseen way.")
                error = PaiError(f"unforeseen: {type(error).__name__}: {error}")
            return Snapshot(view=self._view, error=error)
        recovered, self._failed = self._failed, False
        return snapshot if snapshot.news or snapshot.beyond or looks or recovered else None

    async def _look(self, looks: list[Look]) -> Snapshot:
        before, now = self._view, View()
        await self._read(now)
        while before.times and before.times[0] < now.since and now.sure and now.pages < MOST_PAGES:
            await self._read(now)  # more came in one interval than a page holds
        first, head = before.pages == 0, now.pages
        self._unseen = 0 if now.whole else self._unseen + 1
        due = self._unseen >= (BLIND_POLLS if now.total is None else TRUSTED_POLLS)
        while True:
            beyond = not first and (due or not now.explains(before))
            view = now if first or beyond else now.over(before)
            wanted = [Look(waiter.look.query) for waiter in self._waiters] if beyond else looks
            baselines = [waiter.look.baseline for waiter in self._waiters] if wanted else []
            unchanged_since = view.unchanged_since(baselines)
            left = [look for look in wanted if not look.settled_by(view, unchanged_since)]
            if not self._worth_reading(view, now.pages - head, left):
                break
            await self._read(now)
        if beyond:
            self._unseen = 0
        self._view = view
        news = [] if first else now.news(before)
        return Snapshot(view, self._number, news, beyond, unchanged_since)

    async def _read(self, view: View) -> None:
        async with self._client.turn() if view.pages else nullcontext():
            query = await self._client.located(self._query)
            request = page_request(query, NEWEST_FIRST, token=view.token)
            view.add(await self._client.run(lambda: call(request, RunPage)), self._query)

    @staticmethod
    def _worth_reading(view: View, read: int, left: list[Look]) -> bool:
        """Tell whether one page after so many may spare more than one exact query, now or later."""
        if view.whole or not view.sure or view.pages >= MOST_PAGES:
            return False
        questions = len({msgspec.json.encode(look.query) for look in left})
        if questions <= read + 1:
            return False
        if questions > MOST_PAGES:
            return True  # then the next change is found in what these pages show, without so many queries
        return min(look.pages_missing(view) for look in left) <= min(questions, MOST_PAGES - view.pages)


_watches: dict[Hashable, Watch] = {}


@contextmanager
def shared_watch(key: Hashable, client: SharedClient, query: RunQuery) -> Iterator[Watch]:
    """Give the watch of a key to one more user; it is forgotten when the last one leaves."""
    key = (id(asyncio.get_running_loop()), key)
    watch = _watches.setdefault(key, Watch(client, query))
    watch.users += 1
    try:
        yield watch
    finally:
        watch.users -= 1
        if watch.users == 0:
            del _watches[key]


async def exact_polls(
    client: SharedClient, query: RunQuery, max_runs: int | None, interval: float
) -> AsyncIterator[Snapshot]:
    """Ask one waiter's own query each interval, where polls cannot be shared; every answer is news."""
    clock = asyncio.get_running_loop().time
    for number in itertools.count(1):
        started = clock()
        try:
            located = await client.located(query)
            runs = await client.run(functools.partial(list_runs, located, max_runs=max_runs))
            view = View(runs={run.run_id: run for run in reversed(runs)})
            yield Snapshot(view=view, number=number, news=runs)
        except PaiError as error:
            yield Snapshot(view=View(), error=error)
        await asyncio.sleep(max(0.0, started + interval - clock()))
