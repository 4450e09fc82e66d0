"""What a value that PAI does not promise does to an answer: nothing, where nothing is decided by it.

Answers are decoded strictly. One that does not pass is read again by this module, so that one odd record does
not hide all others:

============================================ ============================================================
field                                        a value of another kind
============================================ ============================================================
RunId, Key, the lists, NextPageToken         the answer is refused: nobody would know what was meant
ModelId, VersionName, ApprovalStatus         the answer is refused, likewise
an experiment's or workspace's own id        a number is its text; else the answer is refused
Labels, Params: Value                        a number or a boolean is its text; else the answer is refused
Step                                         1.0 and "1" are 1; else the answer is refused, since the
                                             highest step is the last
Metric Value                                 "0.9" is 0.9, 1e400 is infinite; else it is NaN, which meets
                                             no rule
GmtCreateTime                                a time without seconds is one; else it is absent, and a query
                                             for a window of time is refused (``RunQuery.undecided``)
GmtModifiedTime, Timestamp, TotalCount       "1" and 1.0 are 1; else it is absent
Metrics of a model's version, its specs      a text that is a JSON object is that object; else it is
                                             absent
LatestVersion of a model                     is read by this table; absent where it would be refused
every other text or boolean                  a number is its text, "true" is true; else it is absent
============================================ ============================================================

A field that is read as absent, or as NaN, is named in the log, once in a process.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
from datetime import datetime, timezone
from typing import Annotated, Any, TypeVar, get_args, get_origin

import msgspec

__all__ = ["read"]

log = logging.getLogger(__name__)

T = TypeVar("T")
Aware = Annotated[datetime, msgspec.Meta(tz=True)]

DECIDING = ("run_id", "key", "next_page_token", "step", "model_id", "version_name", "approval_status")
"""What is decided by these fields would be wrong without them."""
TIMES = ("gmt_create_time", "gmt_modified_time")
DOCUMENTS = ("metrics", "inference_spec", "training_spec", "extra_info")
"""JSON objects of any form. A list of metrics is not among them: it is read item by item."""
WHOLE = ("step", "timestamp", "total_count")
WITHOUT_SECONDS = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d)(Z|[+-]\d\d:?\d\d)")


def read(body: bytes, answer: type[T], action: str) -> T:
    """Return an answer that strict decoding refused.

    :raises msgspec.ValidationError: something is wrong by which something is decided.
    :raises ValueError: it is no JSON.
    """
    # Some servers write NaN as a bare word, and numbers beyond a double, although JSON knows neither.
    return msgspec.convert(_mended(answer, json.loads(body), action), answer)


def _mended(kind: Any, record: Any, action: str) -> Any:
    """Return a record as ``kind`` wants it, as far as that can be told."""
    if not isinstance(record, dict) or not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        return record
    mended = dict(record)
    for field in _fields(kind):
        if mended.get(field.encode_name) is None:
            continue
        value = mended[field.encode_name]
        item = _item_of(field.type)
        if item is not None and isinstance(value, list):
            mended[field.encode_name] = [_mended(item, each, action) for each in value]
        elif item is None:
            value = _mended(_record_in(field.type), _value(kind, field.name, value), action)
            if not _fits(value, field.type):
                if field.required or field.name in DECIDING or kind.__name__ == "Pair":
                    continue  # refused, when it is converted
                _say(action, kind.__name__, field.encode_name)
                value = None
            mended[field.encode_name] = value
    return mended


_fields = functools.cache(msgspec.structs.fields)  # it resolves the annotations anew each time


def _value(kind: type, name: str, value: Any) -> Any:
    """Return what a value of another kind can only mean."""
    if name in TIMES:
        return _time(value)
    if name in WHOLE:
        if isinstance(value, float) and value.is_integer():
            return int(value)
        return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value) else value
    if kind.__name__ == "Metric" and name == "value":
        try:
            return math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            return value
    if name in DOCUMENTS and isinstance(value, str):
        return _document(value)
    if isinstance(value, bool) and kind.__name__ == "Pair":
        return str(value).lower()
    if name == "is_default":
        return {"true": True, "false": False}.get(str(value).lower(), value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in DECIDING:
        return str(value)
    return value


def _time(value: Any) -> Any:
    if value == "":
        return None
    if isinstance(value, str):
        value = WITHOUT_SECONDS.sub(r"\1:00\2", value)
    try:
        return msgspec.convert(value, Aware).astimezone(timezone.utc)
    except (msgspec.ValidationError, OverflowError, ValueError):
        return "no time"


def _document(text: str) -> Any:
    """Return the JSON that a text holds; nothing where there is no text."""
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError):
        return False
    return True


@functools.cache
def _item_of(kind: Any) -> Any:
    """Return the kind of record in a list of records, or ``None``."""
    for part in (kind, *get_args(kind)):
        if get_origin(part) is list:
            (item,) = get_args(part)
            return _record_in(item)
    return None


@functools.cache
def _record_in(kind: Any) -> Any:
    """Return the kind of record that a field holds, or ``None``."""
    parts = (kind, *get_args(kind))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, msgspec.Struct)), None)


@functools.cache
def _say(action: str, kind: str, field: str) -> None:
    log.warning("%s: the %s of a %s cannot be read, and counts as absent.", action, field, kind)
