"""How often this process may ask PAI: one limit for everything that talks to the same account.

PAI's quota for ListRuns is 50 requests in 3 seconds for a region and main account. A triggerer takes
``[pai] max_requests`` of them, in two lanes that never wait for one another: a third for polls of the newest
page, and two thirds for all that goes beyond. What is asked without a sign that anything changed takes no
more than ``[pai] read_back_share`` of ``max_requests``.

A key does not say to which account it belongs, so all connections to the same region count as one account,
whatever their keys, inside a VPC and outside.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from airflow_provider_pai._compat import setting

__all__ = ["QUOTA_SECONDS", "Lane", "RateLimit", "rate_limit"]

log = logging.getLogger(__name__)

QUOTA_SECONDS = 3.0
"""The window of PAI's quota."""
MAX_REQUESTS = 24
READ_BACK_SHARE = 0.6


class Lane:
    """So many requests in any :data:`QUOTA_SECONDS`; each takes a slot of the lane ``within`` too."""

    def __init__(self, slots: int, within: Lane | None = None) -> None:
        self.slots = max(1, slots)
        self._free = asyncio.Semaphore(self.slots)
        self._within = within

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot for one request. It is free again when PAI's quota no longer counts the request."""
        await self._free.acquire()
        asked = False
        try:
            if self._within is not None:
                async with self._within.slot():
                    asked = True
                    yield
            else:
                asked = True
                yield
        finally:
            if asked:
                # Counted from the answer: only PAI knows when the request arrived and began to count.
                asyncio.get_running_loop().call_later(QUOTA_SECONDS, self._free.release)
            else:
                self._free.release()


class RateLimit:
    """The lanes of one account.

    :param max_requests: requests in any :data:`QUOTA_SECONDS`.
    :param read_back_share: the share of them for queries without a sign that anything changed.
    """

    def __init__(self, max_requests: int, read_back_share: float) -> None:
        self.polls = Lane(max_requests // 3)
        self.beyond = Lane(max_requests - self.polls.slots)
        self.without_a_sign = Lane(
            min(int(max_requests * read_back_share), self.beyond.slots), within=self.beyond
        )


_limits: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, RateLimit]] = WeakKeyDictionary()


def rate_limit(endpoint: str) -> RateLimit:
    """Return the limit for everything in this event loop that talks to the account of an endpoint."""
    account = endpoint.replace("aiworkspace-vpc.", "aiworkspace.")
    of_loop = _limits.setdefault(asyncio.get_running_loop(), {})
    if account not in of_loop:
        of_loop[account] = RateLimit(
            int(_number("max_requests", MAX_REQUESTS, 2, 1000)),
            _number("read_back_share", READ_BACK_SHARE, 0, 1),
        )
    return of_loop[account]


def _number(name: str, default: float, least: float, most: float) -> float:
    text = setting(name, str(default))
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        log.error("[pai] %s=%r must be a number from %g to %g; %g is used.", name, text, least, most, default)
        return default
    return number
