"""How much goes to XCom: it is stored in Airflow's database, and sent whole to each reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from airflow_provider_pai.api.errors import PaiUsageError

__all__ = ["XCOM_BYTES", "batches", "fits_event", "small_enough"]

XCOM_BYTES = 1024 * 1024
"""How large a value may be, as JSON; events that go to Airflow's database obey it too."""

T = TypeVar("T")


def small_enough(value: T, what: str, advice: str) -> T:
    """Return a value that may go to XCom.

    :raises PaiUsageError: it is too large; the text ends with the advice.
    """
    size = _size(value)
    if size > XCOM_BYTES:
        raise PaiUsageError(
            f"{what} would be {size:,} bytes of JSON, more than the {XCOM_BYTES:,} that go to XCom. {advice}"
        )
    return value


def fits_event(value: Any) -> bool:
    """Tell whether a value is small enough for an event, with what the event says around it."""
    return _size(value) <= XCOM_BYTES - 100


def batches(records: Iterable[dict[str, Any]], most: int) -> Iterator[list[dict[str, Any]]]:
    """Yield records that each fit an event in lists that do, of at most ``most``."""
    batch: list[dict[str, Any]] = []
    size = 0
    for record in records:
        more = _size(record) + 2
        if batch and (len(batch) == most or size + more > XCOM_BYTES - 100):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += more
    if batch:
        yield batch


def _size(value: Any) -> int:
    return len(json.dumps(value))
