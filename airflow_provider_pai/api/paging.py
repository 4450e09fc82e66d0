"""Read a listing page by page, losing nothing and returning nothing twice.

The page token is opaque: the paginator sends it back unchanged. 0, an empty text or no token ends the
listing. Pages may be empty, TotalCount may be missing, and the token may be a text. Some listings have page
numbers in place of tokens: :class:`NumberedPaginator` walks them by the same rules.

**Runs are created and deleted while a listing is read.** A run inserted before the place that was reached
makes PAI repeat a run: repeats are dropped by id. A run deleted there makes PAI skip a run. TotalCount shows
that: it falls, or, where insertions hide the fall, it rises by fewer than were inserted. Then the paginator
starts another pass over the listing and returns only the runs that are new. It cannot notice these skips: any
skip while PAI sends no TotalCount; one hidden by a run that was inserted in the very second in which the pass
began; one hidden by a label that was set late at the same moment; and, where a pass from the oldest end stops
early, one hidden by a run that was inserted between the same two pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import msgspec

from airflow_provider_pai.api.errors import PaiPagingError, PaiResponseError
from airflow_provider_pai.api.flow import Flow, Request, Response, exchange
from airflow_provider_pai.api.models import Page

__all__ = ["MAX_PAGES", "MAX_PASSES", "PAGE_SIZE", "NumberedPaginator", "Paginator"]

PAGE_SIZE = 100
MAX_PAGES = 10_000
"""How many pages one listing may take, all its passes together."""
MAX_PASSES = 5
"""How often one listing is read at most, because runs were deleted meanwhile."""

Item = TypeVar("Item")


class Tally:
    """The counts of one pass, which show whether PAI can have skipped a run."""

    def __init__(self) -> None:
        self.fell = False
        self.found_new = False
        self.brought_something = False
        """Whether the last page held an item that this pass had not seen."""
        self.began: datetime | None = None
        """The server's clock on the first page: what was created from then on may have been inserted."""
        self._pages = 0
        self._taken = 0
        self._first_total = 0
        self._total: int | None = None
        self._surely_inserted = 0
        self._maybe_inserted = 0

    def open_page(self, total: int | None, date: datetime | None) -> None:
        """Count a page; ``date`` is the server's clock, to the second."""
        self._pages += 1
        if self._pages == 1:
            self.began = date
            self._first_total = total or 0
        if total is not None:
            self.fell |= self._total is not None and total < self._total
            self._total = total

    def take(self, times: list[datetime | None], *, new: bool) -> None:
        """Count the items of a page that this pass had not seen, by their times of creation.

        ``new`` if no earlier pass had seen one of them either.
        """
        self._taken += len(times)
        self.brought_something = bool(times)
        self.found_new |= new
        if self.began is not None:
            maybe = [time for time in times if time is not None and time >= self.began]
            self._maybe_inserted += len(maybe)
            self._surely_inserted += sum(time >= self.began + timedelta(seconds=1) for time in maybe)

    @property
    def missing(self) -> int | None:
        """How many items PAI says there are, beyond those that were taken."""
        return None if self._total is None else max(0, self._total - self._taken)

    @property
    def grown(self) -> int:
        """By how many items TotalCount has risen since the first page."""
        return 0 if self._total is None else self._total - self._first_total

    @property
    def adds_up(self) -> bool:
        """Whether a whole pass found as many items as there were and as were inserted meanwhile."""
        if self._pages == 1 or self._total is None or self.began is None:
            return True
        return self._taken == self._total and self._surely_inserted <= self.grown <= self._maybe_inserted


class Paginator(Generic[Item]):
    """Reads one listing. Call :meth:`next_page` until :attr:`done`.

    ``identity`` returns what identifies an item; without it, its place in the listing does. ``created``
    returns its time of creation. ``direction`` is 1 where the items come oldest first, -1 for newest first, 0
    for another order. Only ``wanted`` items are returned, and the paginator stops after ``most`` of them.
    ``beyond`` says that neither an item nor any that follows it is wanted; it counts only while PAI keeps
    that order.
    The paginator holds the ids of all items, but no more than one page of items.
    """

    def __init__(
        self,
        request: Request,
        page: type[Page],
        *,
        identity: Callable[[Item], object] | None,
        created: Callable[[Item], datetime | None],
        direction: int,
        wanted: Callable[[Item], bool] = lambda _: True,
        beyond: Callable[[Item], bool] = lambda _: False,
        most: int | None = None,
    ) -> None:
        self.done = False
        self.passes = 0
        self._request = request
        self._page = page
        self._identity = identity
        self._created = created
        self._direction = direction
        self._wanted = wanted
        self._beyond = beyond
        self._most = most
        self._pages = 0
        self._returned = 0
        self._seen: dict[object, int] = {}  # the last pass that saw an item
        self._begin()

    def _begin(self) -> None:
        self.passes += 1
        self._token = ""
        self._tokens: set[str] = set()
        self._in_order: bool | None = None  # not known before two times differ
        self._last: datetime | None = None
        self._found = 0
        self._tally = Tally()
        self._place = 0

    def next_page(self) -> Flow[list[Item]]:
        """Ask for the next page, and return its items that are wanted and were not returned before.

        :raises PaiPagingError: a token came twice, or the listing passed one of this module's limits.
        """
        new = yield from self._next_page()
        if self._most is not None:
            new = new[: self._most - self._returned]
        self._returned += len(new)
        return new

    def rest(self) -> Flow[list[Item]]:
        """Ask for all remaining pages, and return their items in one list.

        There may be more than ``most``: what only a second pass finds comes last, and may belong first.
        """
        items: list[Item] = []
        while not self.done:
            items += yield from self._next_page()
        return items

    def _next_page(self) -> Flow[list[Item]]:
        self._pages += 1
        if self._pages > MAX_PAGES:
            raise PaiPagingError(
                f"{self._request.action} has not ended after {MAX_PAGES} pages; narrow the query "
                "or ask for larger pages."
            )
        query = {**self._request.query, **self._next_place()}
        page, response = yield from exchange(msgspec.structs.replace(self._request, query=query), self._page)
        self._tally.open_page(page.total_count, response.date)
        new = self._take(page.items)
        self._advance(page, response)
        return new

    def _next_place(self) -> dict[str, str]:
        """Return the parameters that name the next page."""
        return {"PageToken": self._token} if self._token else {}

    def _take(self, items: list[Item]) -> list[Item]:
        """Return the items of a page that are wanted and were not returned before."""
        times = list(map(self._created, items))
        self._note_order(times)
        places = range(self._place, self._place + len(items))
        keys: Iterable[object] = places if self._identity is None else map(self._identity, items)
        self._place += len(items)
        seen, wanted = self._seen, self._wanted
        taken, new, any_new = [], [], False
        for item, key, created in zip(items, keys, times, strict=True):
            seen_in = seen.get(key)
            if seen_in == self.passes:
                continue
            seen[key] = self.passes
            taken.append(created)
            any_new |= seen_in is None
            if wanted(item):
                self._found += 1
                if seen_in is None:
                    new.append(item)
        self._tally.take(taken, new=any_new)
        return new

    def _note_order(self, times: list[datetime | None]) -> None:
        """Note whether PAI keeps the order. Items that may have been inserted meanwhile do not tell."""
        began, last, rising = self._tally.began, self._last, self._direction > 0
        for created in times:
            if created is None or (began is not None and created >= began):
                continue
            if last is not None and created != last and self._in_order is not False:
                self._in_order = (created > last) == rising
            last = created
        self._last = last

    def _advance(self, page: Page, response: Response) -> None:
        enough = self._most is not None and self._found >= self._most
        if enough or (self._in_order and page.items and self._beyond(page.items[-1])):
            self._finish(doubtful=False)
        else:
            self._turn(page, response)

    def _turn(self, page: Page, response: Response) -> None:
        """Note which page comes next, or that this was the last one."""
        token = page.next_token
        if not token:
            # Newest first, an insertion moves all items forward by as much as a deletion moves them back.
            compensated = self._direction < 0 and self._in_order
            self._finish(doubtful=not compensated and not self._tally.adds_up)
        elif token in self._tokens:
            raise PaiPagingError(
                f"{self._request.action} answered with the page token {token!r} a second time, so the "
                f"listing would never end (request id {page.request_id or 'not given'}). List again later, "
                "or ask for larger pages."
            )
        elif not _is_text(token):
            raise PaiResponseError(
                f"{self._request.action}: the page token {token!r} is not valid text and cannot be sent back",
                status=response.status,
                request_id=response.request_id,
            )
        else:
            self._tokens.add(token)
            self._token = token

    def _finish(self, *, doubtful: bool) -> None:
        tally = self._tally
        # Counts that never add up are this service's own way to count: a second pass without news settles it.
        doubtful &= self.passes == 1 or tally.found_new
        if self.passes < MAX_PASSES and (tally.fell or doubtful):
            self._begin()
        elif tally.fell or doubtful:
            raise PaiPagingError(
                f"{self._request.action}: records came, were deleted or lost their label each of the "
                f"{MAX_PASSES} times that the listing was read, so some may be missing. Narrow the query, or "
                "list again later."
            )
        else:
            self.done = True


class NumberedPaginator(Paginator[Item]):
    """Reads a listing that has page numbers and no token.

    PAI may grant smaller pages than asked for, and TotalCount may be missing, so a page ends the listing only
    if it is empty, or if it is short and as many items as TotalCount says were read. Where a page brings
    nothing new although items are missing, PAI ignores the number, which is an error.
    """

    def _begin(self) -> None:
        super()._begin()
        self._number = 1
        self._repeats = 0

    def _next_place(self) -> dict[str, str]:
        return {"PageNumber": str(self._number)}

    def _turn(self, page: Page, response: Response) -> None:
        tally, size = self._tally, int(self._request.query["PageSize"])
        self._repeats += not tally.brought_something
        if not page.items or (len(page.items) < size and tally.missing == 0):
            self._finish(doubtful=not tally.adds_up)
        elif tally.brought_something or 0 < self._repeats <= tally.grown:
            self._number += 1  # where PAI ignores the order, insertions repeat whole pages
        elif tally.missing:
            raise PaiPagingError(
                f"{self._request.action} answered page {self._number} with what came before, so the listing "
                f"would never end (request id {page.request_id or 'not given'}). List again later, or ask "
                "for larger pages."
            )
        else:
            self._finish(doubtful=False)


def _is_text(token: str) -> bool:
    try:
        token.encode()
    except UnicodeEncodeError:  # one half of a surrogate pair, which JSON can spell
        return False
    return True
