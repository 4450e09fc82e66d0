"""One poll for many waits: watch the newest runs with given labels.

Everybody who waits for runs of one workspace with the same labels looks at the same snapshots, whatever
else each of them asks. An interval costs one request: the newest page. What that page cannot show is told
by TotalCount: where it changes by more, or less, than came and went on the page, something changed further
back, for instance an old run that got its label only now. Then everybody who waits for runs older than the
page looks again, for as few requests as possible: a few pages more, or each one's own exact query.

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
from collections.abc import AsyncIterator, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta, timezone

import msgspec

from airflow_provider_pai.api import PaiError, Run, RunQuery, list_runs
from airflow_provider_pai.api.flow import call
from airflow_provider_pai.api.models import RunPage
from airflow_provider_pai.api.operations import page_request
from airflow_provider_pai.api.paging import PAGE_SIZE
from airflow_provider_pai.clients import SharedClient

__all__ = ["NEWEST_FIRST", "Seat", "Snapshot", "Waiter", "Watch", "exact_polls", "shared_watch"]

log = logging.getLogger(__name__)

BLIND_POLLS = 10
TRUSTED_POLLS = 100
MOST_PAGES = 50
"""How many pages one poll may read before everybody has to ask for himself."""
GATHERING_SECONDS = 1.0
"""How long the first poll waits for others to join, such as all waits of a restarted triggerer."""
NEWEST_FIRST = "GmtCreateTime DESC"
_EARLIEST = datetime.min.replace(tzinfo=timezone.utc)
_BARELY = _EARLIEST + timedelta(seconds=1)  # a run without a time of creation is no end of the listing
_LATEST = datetime.max.replace(tzinfo=timezone.utc)


class View(msgspec.Struct, dict=True):
    """What the newest pages showed.

    ``runs`` has every run with the labels that was created after ``since``, if that is ``sure``: not where
    the service did not order as it was asked, or runs went while several pages were read.
    """

    runs: dict[str, Run] = {}
    since: datetime = _LATEST
    sure: bool = True
    counted: int | None = None
    repeats: int = 0
    pages: int = 0
    token: str = ""

    def add(self, page: RunPage, query: RunQuery) -> None:
        """Take in one more page."""
        self.repeats += sum(run.run_id in self.runs for run in page.runs)
        self.runs.update({run.run_id: run for run in filter(query.check(), page.runs)})
        times = [run.gmt_create_time or _EARLIEST for run in page.runs]
        fell = page.total_count is not None and page.total_count < (self.counted or 0)
        if times != sorted(times, reverse=True) or (self.pages > 0 and fell):
            self.sure = False
        elif times:
            self.since = max(times[-1], _BARELY)
        if not page.next_token:
            self.since = _EARLIEST
        self.counted = page.total_count if page.total_count is not None else self.counted
        self.pages += 1
        self.token = page.next_token

    @property
    def total(self) -> int | None:
        """TotalCount, less the runs that came too late to be on the page where they belong."""
        return None if self.counted is None else self.counted - self.repeats

    @functools.cached_property
    def by_experiment(self) -> dict[str | None, list[Run]]:
        """The runs of each experiment, oldest first; of equal times the older first, as PAI lists them."""
        found: dict[str | None, list[Run]] = {}
        for run in reversed(self.runs.values()):
            found.setdefault(run.experiment_id, []).append(run)
        return found

    def matching(self, query: RunQuery) -> list[Run]:
        """Return the runs that match a query, in its order."""
        experiment_id = query.experiment_id
        if experiment_id is None:
            runs = list(filter(query.check(), reversed(self.runs.values())))
        else:
            runs = list(filter(query.check(), self.by_experiment.get(experiment_id, [])))
        query.sort(runs)
        return runs

    @property
    def whole(self) -> bool:
        """Whether there is nothing that it does not show."""
        return self.sure and self.since == _EARLIEST

    def covers(self, query: RunQuery) -> bool:
        """Tell whether every run that matches a query is in here."""
        return self.whole or (self.sure and (query.window[0] or _EARLIEST) > self.since)

    def news(self, before: View) -> list[Run]:
        """Return the runs that were not there before, or not like this."""
        return [run for run_id, run in self.runs.items() if before.runs.get(run_id) != run]

    def explains(self, before: View) -> bool:
        """Tell whether TotalCount changed just by what came and went where both views look."""
        if self.whole or self.total is None or before.total is None:
            return True  # there is nothing else, or nothing that tells of it
        if not (self.sure and before.sure):
            return self.total == before.total
        edge = max(self.since, before.since)
        return self.total - before.total == self._beside(before, edge) - before._beside(self, edge)

    def _beside(self, other: View, edge: datetime) -> int:
        return sum(
            run_id not in other.runs and (run.gmt_create_time or _EARLIEST) > edge
            for run_id, run in self.runs.items()
        )


class Snapshot(msgspec.Struct, frozen=True):
    """What a poll saw: a view, what is new in it, and whether something changed further back.

    Where the poll failed, ``error`` says how, and the rest says nothing.
    """

    view: View
    number: int = 0
    news: list[Run] = []
    beyond: bool = False
    error: PaiError | None = None


class Waiter(msgspec.Struct, frozen=True, eq=False):
    """Somebody who waits: what for, and how often they want to know."""

    query: RunQuery
    interval: float


class Seat(msgspec.Struct, frozen=True):
    """A waiter's place at a watch."""

    watch: Watch
    waiter: Waiter

    def look_again(self) -> None:
        """Make sure that the next poll tells this waiter something, even if there is no news."""
        self.watch.newcomers.append(self.waiter)

    async def ask(self, max_runs: int | None) -> tuple[list[Run], int]:
        """Return what the waiter's own query really finds, and the last poll that this includes."""
        return await self.watch.ask(self.waiter.query, max_runs)


class Watch:
    """Polls for all waiters of one workspace and label."""

    def __init__(self, client: SharedClient, query: RunQuery) -> None:
        self.users = 0
        self._client = client
        self._query = query
        self._waiters: list[Waiter] = []
        self.newcomers: list[Waiter] = []
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
        seat = Seat(self, waiter)
        seat.look_again()
        self._joined.set()
        try:
            yield seat
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
        newcomers, self.newcomers = self.newcomers, []
        self._number += 1
        try:
            snapshot = await self._look(newcomers)
        except Exception as error:
            self.newcomers += newcomers
            self._failed = True
            if not isinstance(error, PaiError):
                # Raised, it would end every wait at once, and Airflow would start them all again at once.
                log.exception("A poll failed in an unforeseen way.")
                error = PaiError(f"unforeseen: {type(error).__name__}: {error}")
            return Snapshot(view=self._view, error=error)
        recovered, self._failed = self._failed, False
        return snapshot if snapshot.news or snapshot.beyond or newcomers or recovered else None

    async def _look(self, newcomers: list[Waiter]) -> Snapshot:
        before, now = self._view, View()
        newest = max((run.gmt_create_time or _EARLIEST for run in before.runs.values()), default=_LATEST)
        await self._read(now)
        while newest < now.since and now.sure and now.pages < MOST_PAGES:
            await self._read(now)  # more came in one interval than a page holds
        first = before.pages == 0
        self._unseen = 0 if now.whole else self._unseen + 1
        patience = BLIND_POLLS if now.total is None else TRUSTED_POLLS
        beyond = not first and (not now.explains(before) or self._unseen >= patience)
        if beyond:
            self._unseen = 0
        head = now.pages
        while self._worth_reading(now, head, self._waiters if beyond else newcomers):
            await self._read(now)
        self._view = now
        news = [] if first else now.news(before)
        return Snapshot(view=now, number=self._number, news=news, beyond=beyond)

    async def _read(self, view: View) -> None:
        async with self._client.turn() if view.pages else nullcontext():
            query = await self._client.located(self._query)
            request = page_request(query, NEWEST_FIRST, token=view.token)
            view.add(await self._client.run(lambda: call(request, RunPage)), self._query)

    @staticmethod
    def _worth_reading(view: View, head: int, waiters: Iterable[Waiter]) -> bool:
        """Tell whether one more page may spare more than one exact query."""
        if view.whole or not view.sure or view.pages >= MOST_PAGES:
            return False
        left = {msgspec.json.encode(waiter.query): waiter.query for waiter in waiters}
        left = {key: query for key, query in left.items() if not view.covers(query)}
        if len(left) <= view.pages - head + 1:
            return False
        pages_to_the_end = float("inf") if view.total is None else view.total / PAGE_SIZE - view.pages
        return pages_to_the_end <= len(left) or any(query.window[0] is not None for query in left.values())


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
            view = View(runs={run.run_id: run for run in reversed(runs)}, since=_EARLIEST)
            yield Snapshot(view=view, number=number, news=runs)
        except PaiError as error:
            yield Snapshot(view=View(), error=error)
        await asyncio.sleep(max(0.0, started + interval - clock()))
