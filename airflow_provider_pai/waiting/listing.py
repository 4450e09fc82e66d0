"""What the newest pages of a listing show, and what follows from them for all that they do not show.

The pages come newest first, and TotalCount counts the whole listing. So how many runs there are up to any
moment that the pages reach is known without reading them: TotalCount less what is newer. Where that number
is what it was, nothing changed further back: nobody has to look there again, and what was read there once
still holds. What this cannot tell: changes that cancel out, such as one label given and another taken away.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import TypeVar

import msgspec

from airflow_provider_pai.api import Run, RunQuery
from airflow_provider_pai.api.flow import Flow, Outcome, Response, exchange
from airflow_provider_pai.api.models import RunPage
from airflow_provider_pai.api.operations import page_request
from airflow_provider_pai.api.paging import PAGE_SIZE
from airflow_provider_pai.api.query import Labels

__all__ = [
    "LATEST",
    "MOST_PAGES",
    "NEWEST_FIRST",
    "Baseline",
    "View",
    "asked_at",
    "newest_runs",
    "pin_baseline",
]

NEWEST_FIRST = "GmtCreateTime DESC"
MOST_PAGES = 50
"""How many pages one poll may read, and how many a view holds."""
PINNED_RUNS = PAGE_SIZE // 2
"""How many of the newest runs a baseline leaves out: as many may come until one page reaches it no more."""
NEAR = timedelta(days=2)
"""How far back a window may begin for pages to show it with ease: MOST_PAGES hold 2,500 runs a day of it."""
CLOCK = timedelta(seconds=3)
"""What lies between a Date that PAI tells, in whole seconds, and any of its machines' clocks."""
_EARLIEST = datetime.min.replace(tzinfo=timezone.utc)
_BARELY = _EARLIEST + timedelta(seconds=1)  # a run without a time of creation is no end of the listing
LATEST = datetime.max.replace(tzinfo=timezone.utc)

T = TypeVar("T")


class Baseline(msgspec.Struct, frozen=True):
    """How many runs with the labels had been created up to a moment.

    This was so at ``known_at``, by PAI's clock, or sooner. Where it still is so, the answer of everybody who
    asked in vain after that still holds as well.
    """

    edge: datetime
    older: int
    known_at: datetime


class View(msgspec.Struct, dict=True):
    """What the newest pages showed.

    ``runs`` has every run with the labels that was created after ``since``, newest first, if that is
    ``sure``: not where the service did not order as it was asked, or runs went while several pages were
    read. Those in ``read`` were read just now; the others before, and nothing came or went there since.
    """

    runs: dict[str, Run] = {}
    read: set[str] = set()
    times: list[datetime] = []
    """When everything that was listed was created, newest first."""
    since: datetime = LATEST
    sure: bool = True
    counted: int | None = None
    repeats: int = 0
    pages: int = 0
    token: str = ""

    def add(self, page: RunPage, query: RunQuery) -> None:
        """Take in one more page."""
        new = [run for run in page.runs if run.run_id not in self.read]
        times = [*self.times[-1:], *map(_created, new)]
        fell = page.total_count is not None and page.total_count < (self.counted or 0)
        if times != sorted(times, reverse=True) or (self.pages > 0 and fell):
            self.sure = False
        elif times:
            self.since = max(times[-1], _BARELY)
        self.repeats += len(page.runs) - len(new)
        self.read.update(run.run_id for run in new)
        self.times += map(_created, new)
        self.runs.update({run.run_id: run for run in filter(query.check(), page.runs)})
        if not page.next_token:
            self.since = _EARLIEST
        self.counted = page.total_count if page.total_count is not None else self.counted
        self.pages += 1
        self.token = page.next_token

    def over(self, before: View) -> View:
        """Return this with what an earlier view showed further back, where :meth:`explains` holds."""
        reaches_further = self.since > before.since and self.sure and before.sure
        if not reaches_further or self.total is None or before.total is None:
            return self
        times = [*self.times[: self._newer(self.since)], *before.times[before._newer(self.since) :]]
        since = before.since
        kept = {
            run_id: run
            for run_id, run in before.runs.items()
            if _created(run) <= self.since and run_id not in self.read
        }
        if len(times) > MOST_PAGES * PAGE_SIZE:
            del times[MOST_PAGES * PAGE_SIZE :]
            since = max(times[-1], _BARELY)
            kept = {run_id: run for run_id, run in kept.items() if _created(run) > since}
        return msgspec.structs.replace(self, runs={**self.runs, **kept}, times=times, since=since)

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
        """Return the runs in here that match a query, in its order."""
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

    def answer(self, query: RunQuery) -> list[Run] | None:
        """Return what PAI would answer to a query now, or ``None`` where this cannot tell.

        A run that was read earlier still matches, but what was logged to it since is not in here.
        """
        runs = self.matching(query) if self.covers(query) else None
        return runs if runs is not None and self.read.issuperset(run.run_id for run in runs) else None

    def news(self, before: View) -> list[Run]:
        """Return the runs read just now that were not there before, or not like this."""
        return [run for run_id, run in self.runs.items() if before.runs.get(run_id) != run]

    def older(self, edge: datetime) -> int:
        """Return how many runs were created up to a moment, not before :attr:`since`."""
        assert self.total is not None
        return self.total - self._newer(edge)

    def explains(self, before: View) -> bool:
        """Tell whether TotalCount changed just by what came and went where both views look."""
        if self.whole or self.total is None or before.total is None:
            return True  # there is nothing else, or nothing that tells of it
        if not (self.sure and before.sure):
            return self.total == before.total
        edge = max(self.since, before.since)
        return self.older(edge) == before.older(edge)

    def bears_out(self, baseline: Baseline) -> bool:
        """Tell whether nothing changed further back than a baseline's edge since it was pinned."""
        if self.total is None or not self.sure or self.since > baseline.edge:
            return False
        return self.older(baseline.edge) == baseline.older

    def unchanged_since(self, baselines: Iterable[Baseline | None]) -> datetime:
        """Return since when, by PAI's clock, nothing changed further back, as far as baselines tell."""
        return min((each.known_at for each in baselines if each and self.bears_out(each)), default=LATEST)

    def _newer(self, edge: datetime) -> int:
        return bisect.bisect_left(self.times, -edge.timestamp(), key=lambda time: -time.timestamp())


def newest_runs(workspace_id: str | None, labels: Labels) -> RunQuery:
    """Return the question that all waits of a workspace with the same labels share."""
    return RunQuery(
        workspace_id=workspace_id,
        labels=labels if isinstance(labels, str) else dict(labels),
        order_by=NEWEST_FIRST,
    )


def pin_baseline(query: RunQuery) -> Flow[Baseline | None]:
    """Return what a wait for a query begins from (ListRuns, half a page).

    ``None``, unasked, where it would spare nothing: all who wait ask the same, or pages soon show the window.
    ``None`` too where PAI does not tell.
    """
    shared, start = newest_runs(query.workspace_id, query.labels or {}), query.window[0]
    near = start is not None and start > datetime.now(timezone.utc) - NEAR
    if near or msgspec.structs.replace(query, order_by=shared.order_by, verbose=shared.verbose) == shared:
        return None
    page, response = yield from exchange(page_request(shared, NEWEST_FIRST, PINNED_RUNS), RunPage)
    view = View()
    view.add(page, shared)
    if not view.sure or view.total is None or response.date is None:
        return None
    edge = view.times[-1] if view.times else _EARLIEST
    return Baseline(edge=edge, older=view.older(edge), known_at=response.date + CLOCK)


def asked_at(flow: Flow[T]) -> Flow[tuple[T, datetime | None]]:
    """Return what a flow returns, and when, by PAI's clock, the first answer was no sooner made."""
    asked: datetime | None = None
    try:
        request = next(flow)
        while True:
            outcome: Outcome = yield request
            if asked is None and isinstance(outcome, Response) and outcome.date is not None:
                asked = outcome.date - timedelta(seconds=outcome.seconds)
            request = flow.send(outcome)
    except StopIteration as ended:
        return ended.value, asked


def _created(run: Run) -> datetime:
    return run.gmt_create_time or _EARLIEST
