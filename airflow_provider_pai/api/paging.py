"""Walk a listing page by page, losing nothing and returning nothing twice.

The token is opaque: it is echoed, and 0, an empty text or no token at all ends the walk. Pages may be
empty, TotalCount may be missing, and the token may come as a text (FACTS 5).

**While a walk goes on, runs come and go.** A run inserted before the place that was reached repeats one
that was read: repeats are dropped by id. A run deleted there makes the service skip one that was never
read. A skip shows in TotalCount: it falls, or, where insertions hide the fall, it does not rise by as many
as were inserted. Such a walk is done again, and only what is new is returned. What this cannot notice: a
skip while the service tells no TotalCount, one that is hidden by a run inserted in the very second in
which the walk began, one hidden by a label set late at the same moment, and, in a walk from the oldest that
is left early, one hidden by a run inserted between the same two pages.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import msgspec

from airflow_provider_pai.api.errors import PaiPagingError
from airflow_provider_pai.api.flow import Flow, Request, exchange
from airflow_provider_pai.api.models import Page

__all__ = ["MAX_PAGES", "MAX_WALKS", "PAGE_SIZE", "Walk"]

PAGE_SIZE = 100
MAX_PAGES = 10_000
"""Pages one listing may take, all its walks together."""
MAX_WALKS = 5
"""How often one listing is walked at the most, because runs were deleted meanwhile."""

Item = TypeVar("Item")


class Tally:
    """What one walk has counted, to tell whether the service can have skipped anything."""

    def __init__(self) -> None:
        self.fell = False
        self.found_new = False
        self._pages = 0
        self._taken = 0
        self._began: datetime | None = None
        self._first_total = 0
        self._total: int | None = None
        self._surely_inserted = 0
        self._maybe_inserted = 0

    def open_page(self, total: int | None, date: datetime | None) -> None:
        """Note a page's TotalCount; ``date`` is the server's clock, to the second."""
        self._pages += 1
        if self._pages == 1:
            self._began = date
            self._first_total = total or 0
        if total is not None:
            self.fell |= self._total is not None and total < self._total
            self._total = total

    def take(self, created: datetime | None, *, new: bool) -> None:
        """Note an item that this walk had not seen; ``new`` if no earlier walk had either."""
        self._taken += 1
        self.found_new |= new
        if created is not None and self._began is not None and created >= self._began:
            self._maybe_inserted += 1
            self._surely_inserted += created >= self._began + timedelta(seconds=1)

    def maybe_inserted(self, created: datetime) -> bool:
        """Whether an item can have come while the walk went on."""
        return self._began is not None and created >= self._began

    @property
    def adds_up(self) -> bool:
        """Whether a whole walk took as many as were there and as were inserted meanwhile."""
        if self._pages == 1 or self._total is None or self._began is None:
            return True
        grown = self._total - self._first_total
        return self._taken == self._total and self._surely_inserted <= grown <= self._maybe_inserted


class Walk(Generic[Item]):
    """One listing under way. Ask for :meth:`next_page` until :attr:`done`.

    ``identity`` tells items apart and ``created`` gives an item's time of creation. ``direction`` is 1
    where the items come oldest first, -1 for newest first, 0 for neither. Only ``wanted`` items are
    returned, and the walk stops after ``most`` of them. ``beyond`` tells that neither an item nor any that
    follows it is wanted; it is believed only while the service keeps that order.
    No more than one page is held, and the ids.
    """

    def __init__(
        self,
        request: Request,
        page: type[Page],
        *,
        identity: Callable[[Item], object],
        created: Callable[[Item], datetime | None],
        direction: int,
        wanted: Callable[[Item], bool] = lambda _: True,
        beyond: Callable[[Item], bool] = lambda _: False,
        most: int | None = None,
    ) -> None:
        self.done = False
        self.walks = 0
        self._request = request
        self._page = page
        self._identity = identity
        self._created = created
        self._direction = direction
        self._wanted = wanted
        self._beyond = beyond
        self._most = most
        self._pages = 0
        self._seen: dict[object, int] = {}  # which walk saw an item last
        self._begin()

    def _begin(self) -> None:
        self.walks += 1
        self._token = ""
        self._tokens: set[str] = set()
        self._in_order: bool | None = None  # not known before two times differ
        self._last: datetime | None = None
        self._found = 0
        self._tally = Tally()

    def next_page(self) -> Flow[list[Item]]:
        """Ask for the next page; return those of its items that are wanted and were not returned before.

        :raises PaiPagingError: a token came twice, or the listing passed one of this module's limits.
        """
        self._pages += 1
        if self._pages > MAX_PAGES:
            raise PaiPagingError(
                f"{self._request.action} has not come to an end after {MAX_PAGES} pages; narrow the query "
                "or ask for larger pages."
            )
        request = self._request
        if self._token:
            request = msgspec.structs.replace(request, query={**request.query, "PageToken": self._token})
        page, response = yield from exchange(request, self._page)
        self._tally.open_page(page.total_count, response.date)
        new = [item for item in page.items if self._take(item)]
        self._advance(page)
        return new

    def rest(self) -> Flow[list[Item]]:
        """Ask for all pages that are left and return their items in one list."""
        items: list[Item] = []
        while not self.done:
            items += yield from self.next_page()
        return items

    def _take(self, item: Item) -> bool:
        created = self._created(item)
        if created is not None and not self._tally.maybe_inserted(created):
            if self._last is not None and created != self._last and self._in_order is not False:
                self._in_order = (created > self._last) == (self._direction > 0)
            self._last = created
        key = self._identity(item)
        seen_in = self._seen.get(key)
        if seen_in == self.walks:
            return False
        self._seen[key] = self.walks
        self._tally.take(created, new=seen_in is None)
        wanted = self._wanted(item)
        self._found += wanted
        return wanted and seen_in is None

    def _advance(self, page: Page) -> None:
        token = page.next_token
        enough = self._most is not None and self._found >= self._most
        if enough or (self._in_order and page.items and self._beyond(page.items[-1])):
            self._finish(doubtful=False)
        elif not token:
            # Newest first, an insertion moves everything on by as much as a deletion moves it back.
            compensated = self._direction < 0 and self._in_order
            self._finish(doubtful=not compensated and not self._tally.adds_up)
        elif token in self._tokens:
            raise PaiPagingError(
                f"{self._request.action} answered with the page token {token!r} a second time, so the "
                f"listing would never end (request id {page.request_id or 'not given'}). List again later, "
                "or ask for larger pages."
            )
        else:
            self._tokens.add(token)
            self._token = token

    def _finish(self, *, doubtful: bool) -> None:
        tally = self._tally
        # Numbers that never add up are the service's own way of counting: a second walk settles it.
        doubtful &= self.walks == 1 or tally.found_new
        if self.walks < MAX_WALKS and (tally.fell or doubtful):
            self._begin()
        elif tally.fell or doubtful:
            raise PaiPagingError(
                f"{self._request.action}: runs came, were deleted or lost their label each time the listing "
                f"was read, {MAX_WALKS} times, so some may be missing. Narrow the query, or list again later."
            )
        else:
            self.done = True
