"""Pages: by token (PageToken, MaxResults) or by number (PageNumber, PageSize), and the order within."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import invalid
from .faults import Quirks
from .listing import Order
from .parameters import Query


@dataclass(frozen=True)
class Slice:
    """A part of a result: `limit` entries from `offset`, or none of them if `blank`."""

    offset: int
    limit: int
    blank: bool
    _quirks: Quirks

    def envelope(self, total: int) -> dict[str, Any]:
        """TotalCount and NextPageToken as the quirks say, for `total` entries."""
        fields: dict[str, Any] = {}
        if self._quirks.total_count == "given":
            fields["TotalCount"] = total
        token = self._next_token(total)
        if token:
            fields["NextPageToken"] = str(token) if self._quirks.token_type == "string" else token
        elif self._quirks.last_token == "0":
            fields["NextPageToken"] = "0" if self._quirks.token_type == "string" else 0
        elif self._quirks.last_token == "null":
            fields["NextPageToken"] = None
        return fields

    def _next_token(self, total: int) -> int:
        following = self.offset if self.blank else self.offset + self.limit
        reached = self.offset if self._quirks.empty_pages == "last" else following
        if reached >= total:
            return 0
        if self._quirks.page_token == "repeated":
            return self.limit
        position = following // self.limit if self._quirks.page_token == "index" else following
        if self._quirks.empty_pages == "between":
            # An odd token stands for the empty page before the entries of the next even token.
            return 2 * position - (not self.blank)
        return position


def read_page(query: Query, quirks: Quirks, default_size: int = 10) -> Slice:
    """Read which page the request asks for. The token wins over a number; the spec does not say."""
    token = query.integer("PageToken", least=0)
    by_token = query.integer("MaxResults", least=1)
    number = query.integer("PageNumber", least=1)
    by_number = query.integer("PageSize", least=1)
    limit = _allowed(by_token or by_number or default_size, quirks)
    if token is None and by_token is None and (number or by_number):
        return Slice(((number or 1) - 1) * limit, limit, False, quirks)
    position, blank = token or 0, False
    if quirks.empty_pages == "between":
        position, blank = (position + 1) // 2, position % 2 == 1
    return Slice(position * limit if quirks.page_token == "index" else position, limit, blank, quirks)


def _allowed(size: int, quirks: Quirks) -> int:
    if size > quirks.max_results and quirks.max_results_rule == "refuse":
        raise invalid("MaxResults", f"{size} is more than {quirks.max_results}")
    return min(size, quirks.max_results)


def read_order(query: Query, columns: dict[str, str], quirks: Quirks) -> tuple[Order, ...]:
    """Read OrderBy, or else SortBy and Order; `columns` gives the column of each field.

    By the ListRuns page OrderBy's directions default to ASC, Order to DESC, and SortBy to GmtCreateTime.
    """
    order = query.choice("Order", ("ASC", "DESC"), "DESC")
    sort_by = query.choice("SortBy", tuple(columns), "GmtCreateTime")
    order_by = query.text("OrderBy")
    terms = [_term(item, columns) for item in order_by.split(",")] if order_by else []
    if quirks.order == "ignored":
        return (Order(columns["GmtCreateTime"], True),)
    if quirks.order == "by_name":
        return (Order(columns["Name"], False),)
    return tuple(terms) or (Order(columns[sort_by], order == "DESC"),)


def _term(item: str, columns: dict[str, str]) -> Order:
    field, _, direction = item.strip().partition(" ")
    if field not in columns or direction.strip() not in ("", "ASC", "DESC"):
        raise invalid("OrderBy", f"{item.strip()!r} is not one of {', '.join(columns)} with ASC or DESC")
    return Order(columns[field], direction.strip() == "DESC")
