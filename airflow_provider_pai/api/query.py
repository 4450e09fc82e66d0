"""A query for runs: its labels and times as PAI writes them, and the client's own check of every run.

PAI's filter is an optimisation; :meth:`RunQuery.matches` decides. The API page leaves open how names match,
how a label with several colons splits, and what ``GmtCreateTime`` compares. So every run that comes back is
checked here, and a filter that PAI might read differently is not sent.

Source: the vendor's page for ListRuns; which characters a label may have, from its page on tagging.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, TypedDict, cast

import msgspec

from airflow_provider_pai.api.arguments import (
    check_given,
    check_keywords,
    check_no_dict_as_text,
    check_text,
    encodable,
    of_native_rendering,
    parse_run_ids,
)
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.models import Run

__all__ = [
    "Labels",
    "RunFilters",
    "RunQuery",
    "check_keywords",
    "check_text",
    "encodable",
    "format_time",
    "parse_labels",
    "parse_order",
    "parse_time",
]

Labels = Mapping[str, str] | str
Moment = datetime | str

LABEL_BYTES = 128
NO_LENGTH = (
    " A data interval has no length in a DAG run that was started by hand or by an asset, and in Airflow 3 "
    "under a cron schedule (CronTriggerTimetable): use midnight() of airflow_provider_pai.windows."
)
ORDER_FIELDS = ("GmtCreateTime", "Name")


class RunFilters(TypedDict, total=False):
    """The keywords of :class:`RunQuery`, for signatures that pass them on. One that is there was meant."""

    run_id: str | Sequence[str]
    workspace_id: str | int
    experiment_id: str
    name: str
    source_type: str
    source_id: str
    labels: Labels
    created_after: Moment
    created_before: Moment
    order_by: str
    verbose: bool


def parse_labels(labels: Labels) -> dict[str, str]:
    """Return labels as a dict with sorted keys, from a dict or the API's own ``"key:value,key:value"``.

    In a string the first colon ends the key; a key that holds a colon needs the dict form.

    :raises PaiUsageError: a label that PAI does not allow, a value that is not a text, or a key with two
        values.
    """
    if not isinstance(labels, (str, Mapping)):
        raise PaiUsageError(
            f"labels={labels!r} is a {type(labels).__name__}; write a dict or a text such as 'key:value'."
        )
    check_no_dict_as_text("labels", labels)
    pairs = _split_labels(labels) if isinstance(labels, str) else list(labels.items())
    for key, value in pairs:
        _check_label(key, value)
    wanted = dict(sorted(pairs))
    for key, value in pairs:
        if wanted[key] != value:
            raise PaiUsageError(
                f"Label {key!r} is given twice, as {value!r} and as {wanted[key]!r}: no run carries both."
            )
    return wanted


def _split_labels(text: str) -> list[tuple[str, str]]:
    pairs = []
    for part in text.split(","):
        key, colon, value = part.partition(":")
        if not colon:
            raise PaiUsageError(
                f"Label {part!r} in {text!r} has no ':'. Write labels as 'key:value', several with ',' "
                "between them, as in 'is_evaluation:true,LLM_evaluation:true'."
            )
        pairs.append((key.strip(), value.strip()))
    return pairs


def _check_label(key: Any, value: Any) -> None:
    for what, text in (("key", key), ("value", value)):
        if text is None:
            raise PaiUsageError(
                f"The {what} of label {key!r} is None. Labels are text: check the task or "
                "template it came from."
            )
        if not isinstance(text, str):
            raise PaiUsageError(
                f"The {what} of label {key!r} is {text!r}, a {type(text).__name__}. Labels are text: "
                f"write {str(text).lower()!r}.{of_native_rendering(text)}"
            )
        if "," in text or "=" in text:
            raise PaiUsageError(
                f"The {what} {text!r} of a label holds ',' or '=', which PAI does not allow in labels. "
                "Write labels as 'key:value', several with ',' between them, or as a dict."
            )
        if len(encodable(f"The {what} of a label", text)) > LABEL_BYTES:
            raise PaiUsageError(
                f"The {what} {text!r} of a label is longer than {LABEL_BYTES} bytes; shorten it."
            )
    if not key:
        raise PaiUsageError(f"A label with the value {value!r} has no key. Write it as 'key:value'.")


def parse_time(time: Moment, name: str) -> datetime:
    """Return a time in UTC from an aware datetime or an ISO 8601 text with an offset.

    :raises PaiUsageError: a naive time, or a text that is not a time.
    """
    parsed: object = time
    if isinstance(time, str):
        import pendulum

        try:
            # The word "now" would mean another moment in every poll.
            parsed = None if time == "now" else pendulum.parse(time, tz=None)
        except Exception:  # not ValueError alone: pendulum has TypeError for "0:", and IndexError for "/"
            parsed = None
    if not isinstance(parsed, datetime):
        raise PaiUsageError(f"{name}={time!r} is not a time. Write one such as '2025-10-20T08:30:00Z'.")
    if parsed.utcoffset() is None:
        raise PaiUsageError(
            f"{name}={time!r} has no time zone, so it could mean two moments. Write '2025-10-20T08:30:00Z' "
            "or pass an aware datetime such as pendulum.datetime(2025, 10, 20, tz='UTC')."
        )
    try:
        return datetime.fromtimestamp(parsed.timestamp(), timezone.utc)
    except (ValueError, OverflowError):
        raise PaiUsageError(f"{name}={time!r} is outside the years 1 to 9999 in UTC.") from None


def format_time(time: datetime) -> str:
    """Return a time as the API writes it: ``2021-01-30T12:51:33.028Z``."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_order(order_by: str) -> str:
    """Return ``order_by`` with a direction for every field, since PAI's defaults differ by parameter."""
    parts = []
    for part in str(order_by).split(","):
        field, _, direction = " ".join(part.split()).partition(" ")
        direction = direction.upper() or "ASC"
        if field not in ORDER_FIELDS or direction not in ("ASC", "DESC"):
            raise PaiUsageError(
                f"order_by={order_by!r}: {part.strip()!r} is not an order. Runs can be ordered by "
                "GmtCreateTime and Name, each ASC or DESC: 'GmtCreateTime DESC,Name ASC'."
            )
        parts.append(f"{field} {direction}")
    return ",".join(parts)


class RunQuery(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which runs to list, in which order.

    A run must meet every condition. ``run_id`` names the runs themselves, one or several. ``name`` and the
    other ids are compared exactly; the run must carry each label with its value; ``created_after <=
    gmt_create_time < created_before``. Without ``workspace_id`` PAI
    answers for the default workspace. ``verbose`` says whether runs come with labels, params and metrics.

    Labels may be a dict or ``"key:value,key:value"``, and times ``datetime`` objects or ISO 8601 texts. They
    are kept as a sorted dict and in UTC, and run ids as a tuple without repeats, so that equal queries are
    equal objects.

    :raises PaiUsageError: a condition that cannot be asked. The text says what to write instead.
    """

    run_id: tuple[str, ...] | str | None = None
    workspace_id: str | None = None
    experiment_id: str | None = None
    name: str | None = None
    source_type: str | None = None
    source_id: str | None = None
    labels: dict[str, str] | str | None = None
    created_after: datetime | str | None = None
    created_before: datetime | str | None = None
    order_by: str = "GmtCreateTime ASC"
    verbose: bool = True

    def __post_init__(self) -> None:
        set_ = msgspec.structs.force_setattr
        if isinstance(self.workspace_id, int) and not isinstance(self.workspace_id, bool):
            set_(self, "workspace_id", str(self.workspace_id))  # ids are digits: in JSON a number
        if self.run_id is not None:
            set_(self, "run_id", parse_run_ids(self.run_id))
        for name in _EXACT:
            check_text(name, getattr(self, name))
        if not isinstance(self.verbose, bool):
            raise PaiUsageError(f"verbose={self.verbose!r} must be True or False.")
        if self.labels is not None:
            set_(self, "labels", parse_labels(self.labels))
            check_given("labels", self.labels)
        for name in ("created_after", "created_before"):
            if getattr(self, name) is not None:
                set_(self, name, parse_time(getattr(self, name), name))
        start, end = self.window
        if start is not None and end is not None and start >= end:
            raise PaiUsageError(
                f"created_after={start} is not before created_before={end}: no run could match."
                f"{NO_LENGTH if start == end else ''}"
            )
        set_(self, "order_by", parse_order(self.order_by))

    @classmethod
    def of(cls, **filters: Any) -> RunQuery:
        """Make a query from keywords. A keyword that is there was meant, so ``None`` is refused.

        :raises PaiUsageError: also for an unknown keyword, with the nearest known one in its text.
        """
        check_keywords(filters, cls.__struct_fields__)
        for name, value in filters.items():
            if value is None:
                check_given(name, value)
        return cls(**filters)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The ids of the wanted runs; none where any run may match."""
        return cast("tuple[str, ...]", self.run_id or ())

    @property
    def label_items(self) -> list[tuple[str, str]]:
        """The wanted labels, sorted by key."""
        return list(cast("dict[str, str]", self.labels or {}).items())

    @property
    def window(self) -> tuple[datetime | None, datetime | None]:
        """The start of the wanted creation times, and their end, which is not wanted itself; in UTC."""
        return cast("datetime | None", self.created_after), cast("datetime | None", self.created_before)

    @property
    def needs_details(self) -> bool:
        """Whether the answer must carry labels: because the caller wants them, or to check them."""
        return self.verbose or bool(self.labels)

    def parameters(self) -> dict[str, str]:
        """Return the query parameters with which PAI can narrow the answer.

        Times are left out, and so are labels that hold a colon or begin or end with a space: the API page
        does not say how PAI reads them.
        """
        wire = {wire_name: getattr(self, name) for name, wire_name in _EXACT.items()}
        plain = [
            f"{key}:{value}"
            for key, value in self.label_items
            if ":" not in key + value and (key, value) == (key.strip(), value.strip())
        ]
        wire["Labels"] = ",".join(plain)
        wire["OrderBy"] = self.order_by
        wire["Verbose"] = "true" if self.needs_details else "false"
        return {name: value for name, value in wire.items() if value}

    def matches(self, run: Run) -> bool:
        """Tell whether a run meets every condition of this query."""
        return self.check()(run)

    def check(self) -> Callable[[Run], bool]:
        """Return :meth:`matches` as a function for many runs, which checks only what is asked for."""
        run_ids, labels = frozenset(self.run_ids), self.label_items
        exact = [(name, wanted) for name in _EXACT if (wanted := getattr(self, name)) is not None]
        start, end = self.window

        def matches(run: Run) -> bool:
            if run_ids and run.run_id not in run_ids:
                return False
            for key, value in labels:
                if run.labels.get(key) != value:
                    return False
            for name, wanted in exact:
                if getattr(run, name) != wanted:
                    return False
            return (start is None and end is None) or _within(run.gmt_create_time, start, end)

        return matches

    def undecided(self, run: Run) -> bool:
        """Tell whether a run may match or not: a window is asked for, and it has no creation time."""
        if run.gmt_create_time is not None or not any(self.window):
            return False
        return msgspec.structs.replace(self, created_after=None, created_before=None).matches(run)

    def sort(self, runs: list[Run]) -> None:
        """Sort runs in place by this query's order. Equal ones keep their order."""
        for part in reversed(self.order_by.split(",")):
            field, direction = part.split(" ")
            key = _SORT_KEYS[field]
            runs.sort(key=key, reverse=direction == "DESC")


_EXACT = {
    "workspace_id": "WorkspaceId",
    "experiment_id": "ExperimentId",
    "name": "Name",
    "source_type": "SourceType",
    "source_id": "SourceId",
}
_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_SORT_KEYS = {
    "GmtCreateTime": lambda run: run.gmt_create_time or _EPOCH,
    "Name": lambda run: run.name or "",
}


def _within(time: datetime | None, start: datetime | None, end: datetime | None) -> bool:
    return time is not None and (start is None or start <= time) and (end is None or time < end)
