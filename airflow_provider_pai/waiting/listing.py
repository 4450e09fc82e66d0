"""What the newest pages of ListRuns showed, kept from poll to poll.

Pages come newest first. A page is the truth about the time between its first run and its last: what was
known there and is not on the page has gone. Pages that were read earlier are kept, because ``TotalCount``
tells whether they still hold: it counts the whole listing, so ``TotalCount`` less the runs in here is the
number of runs that lie *further back*. While that number stays what it was, nothing changed further back.
What this cannot tell: changes that cancel out, such as one label that is set and another that is removed.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import Collection, Iterator
from datetime import datetime, timedelta, timezone

from airflow_provider_pai.api import Run, RunQuery
from airflow_provider_pai.api.models import RunPage
from airflow_provider_pai.api.paging import PAGE_SIZE

__all__ = [
    "EARLIEST",
    "LATEST",
    "MOST_PAGES",
    "NEWEST_FIRST",
    "Key",
    "Listing",
    "ReadingBack",
    "keys_of_query",
    "keys_of_run",
]

NEWEST_FIRST = "GmtCreateTime DESC"
MOST_PAGES = 50
"""How many pages a listing holds, which bounds its memory: 5,000 runs."""
EARLIEST = datetime.min.replace(tzinfo=timezone.utc)
LATEST = datetime.max.replace(tzinfo=timezone.utc)
_AFTER_EARLIEST = EARLIEST + timedelta(seconds=1)  # a run without a creation time does not end a listing
_INDEXED = ("name", "source_id", "experiment_id")


Key = tuple[str, str] | None
"""A filter for which runs are indexed, and its value; ``None`` for all runs."""


def keys_of_query(query: RunQuery) -> list[Key]:
    """Return where in an index to look for runs that match a query: its most selective filter."""
    if query.run_ids:
        return [("run_id", run_id) for run_id in query.run_ids]
    for name in _INDEXED:
        if (value := getattr(query, name)) is not None:
            return [(name, value)]
    return [None]


def keys_of_run(run: Run) -> Iterator[Key]:
    """Yield every key under which a query that this run matches may look."""
    yield "run_id", run.run_id
    for name in _INDEXED:
        if (value := getattr(run, name)) is not None:
            yield name, value
    yield None


class Listing:
    """All runs that were created after ``since``, as they were when their page was read."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.since = LATEST
        self.total: int | None = None
        """TotalCount of the newest page."""
        self._accepted: int | None = None
        self.in_order = True
        """False once the service listed in another order than it was asked for."""
        self._order: list[tuple[datetime, str]] = []
        self._index: dict[Key, dict[str, Run]] = {}
        self._read_at: dict[str, int] = {}

    def take_newest(self, page: RunPage, poll: int) -> list[Run]:
        """Take in the newest page, read at a poll, and return the runs that are new or changed."""
        self.total = page.total_count
        known = self._order[-1][0] if self._order else LATEST
        bottom = self.reach(page, LATEST)
        news = self._take(page, poll, LATEST)
        if self._accepted is None or bottom == EARLIEST:
            self.accept()
        if known < bottom:  # what lies between this page and the older ones is not known
            self.forget_below(bottom)
        return news

    def forget_below(self, moment: datetime) -> None:
        """Forget the runs that were created before a moment: something may have changed among them."""
        if self.in_order and moment > self.since:
            self._drop([run_id for created, run_id in self._order if created < moment])
            self.since = moment

    def take_next(
        self, page: RunPage, poll: int, above: datetime, border: Collection[str], *, adjoins: bool
    ) -> list[Run]:
        """Take in the page that follows ``above``, the last creation time of the page before it.

        ``border`` holds the runs of just that time that were read before. ``adjoins`` says that surely no run
        was skipped between the two pages.
        """
        return self._take(page, poll, above, border, adjoins=adjoins)

    def _take(
        self,
        page: RunPage,
        poll: int,
        above: datetime,
        border: Collection[str] = (),
        *,
        adjoins: bool = True,
    ) -> list[Run]:
        times = [_created(run) for run in page.runs]
        unknown_above = any(
            time > above and run.run_id not in self.runs for time, run in zip(times, page.runs, strict=True)
        )
        if times != sorted(times, reverse=True) or unknown_above or not self.in_order:
            return self._take_unordered(page, poll, above)
        below = self.reach(page, above)
        start = 0 if below == EARLIEST else bisect.bisect_right(self._order, (below, "\uffff"))
        if adjoins or not times:
            end = bisect.bisect_right(self._order, (above, "\uffff"))
        else:
            end = bisect.bisect_left(self._order, (times[0], ""))
        read = {*border, *(run.run_id for run in page.runs)}
        self._drop([run_id for _, run_id in self._order[start:end] if run_id not in read])
        # What lies further back than the listing reached was there before, as far as anybody can tell.
        deeper = {
            run.run_id for run in page.runs if run.run_id not in self.runs and _created(run) <= self.since
        }
        if self._accepted is not None:
            self._accepted -= len(deeper)
        # Sent nevertheless: whether one of them is new cannot be known.
        news = [run for run in page.runs if self.runs.get(run.run_id) != run]
        for run in reversed(page.runs):  # of equal times the older first, as PAI lists them
            self._put(run, poll)
        self.since = min(self.since, below)
        self._trim()
        return news

    def _take_unordered(self, page: RunPage, poll: int, above: datetime) -> list[Run]:
        """Keep one page alone, where the service does not list in the order that it was asked for."""
        news = [run for run in page.runs if self.runs.get(run.run_id) != run]
        self.in_order = False
        self._drop(list(self.runs))
        for run in reversed(page.runs):
            self._put(run, poll)
        self.since = LATEST if page.next_token or above != LATEST else EARLIEST
        return news

    def reach(self, page: RunPage, above: datetime = LATEST) -> datetime:
        """Return after which creation time everything is known, once the pages down to this one are read."""
        if not page.next_token:
            return EARLIEST
        if not self.in_order:
            return LATEST
        return max(_created(page.runs[-1]), _AFTER_EARLIEST) if page.runs else above

    def is_newer(self, page: RunPage) -> bool:
        """Tell whether there may be runs between a page and the newest run in here."""
        return bool(self._order) and self.in_order and self.reach(page) > self._order[-1][0]

    @property
    def further_back(self) -> int | None:
        """How many runs lie further back by TotalCount, or ``None`` if PAI sends none."""
        if self.total is None:
            return None
        return self.total - (len(self.runs) if self.in_order else 0)

    @property
    def discrepancy(self) -> int | None:
        """By how many runs TotalCount differs from what is known; ``None`` if PAI sends none.

        0 means that nothing changed further back than the pages that were read just now.
        """
        if self.further_back is None or self._accepted is None:
            return None
        return self.further_back - self._accepted

    def explains(self, at_first: int) -> bool:
        """Tell whether what was found since makes up for a :attr:`discrepancy` that there was at first.

        What was labelled while pages were read may be among it. What is missing instead then shows as a
        discrepancy of the next newest page.
        """
        left = self.discrepancy
        return left is not None and (left <= 0 < at_first or at_first < 0 <= left)

    def accept(self) -> None:
        """Take the number of runs further back as it is now for known."""
        self._accepted = self.further_back

    def covers(self, query: RunQuery, enough: int | None, since: datetime | None = None) -> bool:
        """Tell whether the runs in here, created after ``since``, hold the first ``enough`` that match."""
        since = self.since if since is None else since
        if since == EARLIEST or (query.window[0] or EARLIEST) > since:
            return True
        if enough is None or query.order_by != NEWEST_FIRST:
            return False
        return sum(_created(run) > since for run in self.matching(query)) >= enough

    def matching(self, query: RunQuery) -> list[Run]:
        """Return the runs in here that match a query, in its order."""
        found = list(filter(query.check(), self._indexed(query)))
        query.sort(found)
        return found

    def _indexed(self, query: RunQuery) -> list[Run]:
        return [run for key in keys_of_query(query) for run in self._index.get(key, {}).values()]

    def answer(self, query: RunQuery, enough: int | None, since_poll: int) -> list[Run] | None:
        """Return what PAI would answer to a query now, or ``None`` where this cannot tell.

        A run that was read before ``since_poll`` may have changed since, so PAI has to be asked. So it has to
        be where a run may or may not match, which fails the question.
        """
        if not self.covers(query, enough) or any(map(query.undecided, self._indexed(query))):
            return None
        found = self.matching(query)[:enough]
        return None if any(self._read_at[run.run_id] < since_poll for run in found) else found

    def compare(self, query: RunQuery, answer: list[Run]) -> None:
        """Forget what PAI's own answer to a query, read over several pages, does not name.

        Either the run has gone, or PAI skipped it because another run went while the pages were read. In the
        second case subscribers receive it as new once a page shows it.
        """
        named = {run.run_id for run in answer}
        gone = [run.run_id for run in self.matching(query) if run.run_id not in named]
        self._drop(gone)
        if self._accepted is not None:
            self._accepted += len(gone)

    def was_read(self, run_id: str, poll: int) -> bool:
        """Tell whether a run was on a page that was read at a poll, or later."""
        return self._read_at.get(run_id, -1) >= poll

    def pages_to(self, query: RunQuery, enough: int | None) -> float:
        """Return how many of the newest pages answer a query, as far as is known."""
        start = query.window[0] or EARLIEST
        if not self.in_order:
            return float("inf")
        if start > self.since or self.since == EARLIEST:
            return _pages(len(self._order) - bisect.bisect_left(self._order, (start, "")) + 1)
        if start != EARLIEST:
            return _pages(len(self._order)) + 1  # the next may show it
        if enough is not None and query.order_by == NEWEST_FIRST and keys_of_query(query) == [None]:
            return _pages(enough) + 1
        return float("inf") if self.total is None else _pages(self.total)

    def _put(self, run: Run, poll: int) -> None:
        known = self.runs.get(run.run_id)
        if known is not None and (_created(known), *keys_of_run(known)) != (_created(run), *keys_of_run(run)):
            self._drop([run.run_id])
            known = None
        if known is None:
            bisect.insort(self._order, (_created(run), run.run_id))
        self.runs[run.run_id] = run
        self._read_at[run.run_id] = poll
        for key in keys_of_run(run):
            self._index.setdefault(key, {})[run.run_id] = run

    def _drop(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            run = self.runs.pop(run_id)
            del self._read_at[run_id]
            del self._order[bisect.bisect_left(self._order, (_created(run), run_id))]
            for key in keys_of_run(run):
                of_key = self._index[key]
                del of_key[run_id]
                if not of_key:
                    del self._index[key]

    def _trim(self) -> None:
        surplus = len(self._order) - MOST_PAGES * PAGE_SIZE
        if surplus <= 0:
            return
        oldest = self._order[:surplus]
        self._drop([run_id for _, run_id in oldest])
        self.since = max(self.since, oldest[-1][0], _AFTER_EARLIEST)
        if self._accepted is not None:
            self._accepted += surplus


class ReadingBack:
    """Pages that are read one after another, from the newest on; it may take several intervals."""

    def __init__(
        self,
        newest: RunPage,
        below: datetime,
        *,
        sign: bool,
        discrepancy: int,
        changed: bool,
    ) -> None:
        self.pages = 0
        self.below = below
        """Everything that was created after this was read."""
        self.border: set[str] = set()
        """The runs read that were created at ``below``: the next page may hold more of that moment."""
        self.passed(newest, below)
        self.sign = sign
        """Whether TotalCount says that something changed, or somebody new waits."""
        self.discrepancy = discrepancy
        """By how many runs that have not been found it changed."""
        self.found_all = False
        """Whether all that changed was found."""
        self.changed = changed
        """Whether something changed, or may have, that the newest page does not show."""
        self.task: asyncio.Task[RunPage] | None = None

    def passed(self, page: RunPage, below: datetime) -> None:
        """Note a page that was read, and how far back everything was read with it."""
        at_border = {run.run_id for run in page.runs if run.gmt_create_time == below}
        self.border = at_border | (self.border if below == self.below else set())
        self.pages += 1
        self.below = below
        self.token = page.next_token
        self.total = page.total_count


def _pages(runs: int) -> int:
    return -(-runs // PAGE_SIZE)


def _created(run: Run) -> datetime:
    return run.gmt_create_time or EARLIEST
