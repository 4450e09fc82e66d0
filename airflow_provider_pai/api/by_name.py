"""Find what has a name, or create it: tasks that do so at the same time get the same one.

PAI keeps some names unique and may show late what it has just created, and it documents neither how it
refuses a name that is taken nor how long it takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Protocol, TypeVar, cast

import msgspec

from airflow_provider_pai.api.errors import (
    PaiApiError,
    PaiAuthenticationError,
    PaiError,
    PaiNotFoundError,
    PaiPermissionError,
    PaiResponseError,
    PaiThrottledError,
    PaiTransportError,
)
from airflow_provider_pai.api.flow import Flow

__all__ = ["get_or_create", "missing_as", "oldest", "oldest_first", "says_taken"]

VISIBLE_AFTER = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each look at what PAI may show late: a minute in total."""
TAKEN = re.compile(r"already|conflict|duplicat|(?<!not )exist|in use|repeat|taken", re.IGNORECASE)
LAST = datetime.max.replace(tzinfo=timezone.utc)


class Dated(Protocol):
    """What PAI created at some time."""

    @property
    def gmt_create_time(self) -> datetime | None:
        """When, where PAI tells it."""


T = TypeVar("T")
Named = TypeVar("Named", bound=Dated)


def oldest(found: list[Named]) -> Flow[Named]:
    """Choose the oldest of several, so that everybody means the same one."""
    yield from ()
    return oldest_first(found)[0]


def get_or_create(
    search: Callable[[], Flow[list[Named]]],
    creation: Flow[str],
    *,
    identity: Callable[[Named], str],
    choose: Callable[[list[Named]], Flow[Named]] = oldest,
    after_loss: tuple[float, ...] = (0.0,),
) -> Flow[str]:
    """Return the id of what ``search`` finds by its name, and run ``creation`` where it finds nothing.

    Where PAI refuses the creation because of the name, and after a creation, search again for up to a minute.

    :param choose: which of several is meant.
    :param after_loss: the pauses before each search after a creation whose answer was lost. More than one is
        for what PAI would create a second time, because it keeps no name of it unique.
    :raises PaiError: the one by which the creation failed, where nothing of the name shows after it.
    """
    found = yield from search()
    if found:
        return identity((yield from choose(found)))
    try:
        made = yield from creation
    except PaiError as error:
        if not _may_exist(error):
            raise
        pauses = VISIBLE_AFTER if says_taken(error) else after_loss if error.transient else (0.0,)
        found = yield from _shown(search, pauses, lambda _: True)
        if not found:
            raise
        return identity((yield from choose(found)))
    found = yield from _shown(search, VISIBLE_AFTER, lambda each: identity(each) == made)
    return identity((yield from choose(found))) if found else made


def says_taken(error: PaiError) -> bool:
    """Tell whether PAI refused to create something because of its name. Which code it uses is not
    documented, so the words that any such code or message holds decide."""
    if not isinstance(error, PaiApiError) or isinstance(error, PaiNotFoundError):
        return False
    return error.status == 409 or TAKEN.search(f"{error.code} {error.message}") is not None


def _may_exist(error: PaiError) -> bool:
    """Tell whether it may exist after the creation failed: it existed, or the answer was lost."""
    if isinstance(error, PaiTransportError):
        return error.sent
    surely_not = PaiAuthenticationError, PaiPermissionError, PaiThrottledError
    return isinstance(error, (PaiApiError, PaiResponseError)) and not isinstance(error, surely_not)


def _shown(
    search: Callable[[], Flow[list[Named]]], pauses: tuple[float, ...], awaited: Callable[[Named], bool]
) -> Flow[list[Named]]:
    """Search after each pause, until ``awaited`` is true of one that is found.

    Return those that showed last. An error of PAI counts as a search that found none.
    """
    found: list[Named] = []
    for pause in pauses:
        try:
            found = yield from _after(pause, search())
        except PaiError:
            continue
        if any(map(awaited, found)):
            break
    return found


def _after(pause: float, flow: Flow[T]) -> Flow[T]:
    """Run a flow after ``pause`` seconds."""
    request = msgspec.structs.replace(next(flow), wait=pause)
    while True:
        outcome = yield request
        try:
            request = flow.send(outcome)
        except StopIteration as end:
            return cast("T", end.value)


def oldest_first(found: list[Named]) -> list[Named]:
    """Return what was found by its time of creation. Between equals PAI's own order decides."""
    return sorted(found, key=lambda each: each.gmt_create_time or LAST)


def missing_as(kind: type[PaiNotFoundError], flow: Flow[T]) -> Flow[T]:
    """Run a flow, and raise as ``kind`` what PAI does not find: it may be too new to be visible.

    :raises PaiNotFoundError: of the class that is given.
    """
    try:
        return (yield from flow)
    except PaiNotFoundError as error:
        raise kind(
            error.message,
            action=error.action,
            status=error.status,
            code=error.code,
            request_id=error.request_id,
        ) from None
