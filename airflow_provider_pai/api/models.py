"""PAI's records, decoded straight from the bytes of an answer.

Field names are the API's in snake_case. Unknown fields are ignored. An absent or null field is ``None``
(collections are empty). What a value of another type does: :mod:`~airflow_provider_pai.api.reading`.

Source: ListRuns, GetRun, ListRunMetrics, ListExperiment and ListWorkspaces of AIWorkSpace 2021-02-04.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, Optional, TypeVar

import msgspec
from msgspec.structs import force_setattr as set_field

from airflow_provider_pai.api.errors import PaiUsageError

__all__ = [
    "CreatedExperiment",
    "CreatedRun",
    "Experiment",
    "ExperimentPage",
    "MaybeRun",
    "Metric",
    "MetricPage",
    "Page",
    "Record",
    "Run",
    "RunPage",
    "Workspace",
    "WorkspacePage",
    "json_number",
    "last_values",
    "mapping",
    "times_to_utc",
]


class Record(msgspec.Struct, frozen=True, gc=False):
    """What the hook and the client return: one of PAI's records, or a page of them."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON, under the same names: for XCom, or to write it down.

        Times are ISO 8601 texts; a number that JSON cannot carry is the text ``NaN``, ``Infinity`` or
        ``-Infinity``.
        """
        return {name: _plain(getattr(self, name)) for name in self.__struct_fields__}

    def serialize(self) -> NoReturn:
        """Refuse to go to XCom as an object, which Airflow asks for where a task returns one.

        Airflow would write the name of the class beside the values, and a task that pulls them would load
        only classes that the installation's ``[core] allowed_deserialization_classes`` names.

        :raises PaiUsageError: always; the text says what to return instead.
        """
        raise PaiUsageError(
            f"XCom holds plain JSON, and no {type(self).__name__}: return its .to_dict(), or of a list "
            "[record.to_dict() for record in …]."
        )


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    return json_number(value) if isinstance(value, float) else value


class Pair(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """One entry of Labels or Params on the wire. A label's own RunId and times are dropped."""

    key: str
    value: str | None = None


if TYPE_CHECKING:  # the types of a finished record ...
    Items = list
    Pairs = dict[str, str]
    Time = datetime
    Value = float
else:  # ... and those on the wire, which __post_init__ converts
    Items = Optional[list[TypeVar("Item")]]  # noqa: UP045 - a subscriptable alias
    Pairs = list[Pair] | None
    Time = Annotated[datetime, msgspec.Meta(tz=True)]
    Value = float | Literal["NaN", "Infinity", "-Infinity"] | None


def mapping(pairs: Any) -> dict[str, str]:
    """Return labels or params as a dict: for ``__post_init__``."""
    if isinstance(pairs, dict):
        return pairs
    found: dict[str, str] = {}
    for pair in pairs or ():  # a comprehension is a call more until Python 3.12
        found[pair.key] = pair.value or ""
    return found


def times_to_utc(record: Any) -> None:
    """Turn a record's times to UTC: for ``__post_init__``."""
    created, modified = record.gmt_create_time, record.gmt_modified_time
    if created is not None and created.tzinfo is not timezone.utc:
        set_field(record, "gmt_create_time", _utc(created))
    if modified is not None and modified.tzinfo is not timezone.utc:
        set_field(record, "gmt_modified_time", _utc(modified))


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(timezone.utc)
    except OverflowError:
        raise ValueError("a time outside the years 1 to 9999") from None  # msgspec refuses the record


class Metric(Record, frozen=True, gc=False, rename="pascal"):
    """One logged value: ``value`` may be NaN or infinite; ``timestamp`` is what the logger sent."""

    key: str
    value: Value = math.nan
    step: int | None = None
    timestamp: int | None = None


def _numbers(metrics: Any) -> list[Metric]:
    """Return metrics whose values are numbers. Not a method of each: they are most of what is decoded."""
    for metric in metrics or ():
        if type(metric.value) is not float:
            set_field(metric, "value", math.nan if metric.value is None else float(metric.value))
    return metrics or []


def last_values(metrics: Iterable[Metric]) -> dict[str, float]:
    """Return each key's last value: that of the highest step, then timestamp, then position."""
    last: dict[str, Metric] = {}
    for metric in metrics:
        known = last.get(metric.key)
        if known is None or _moment(metric) >= _moment(known):
            last[metric.key] = metric
    return {key: metric.value for key, metric in last.items()}


def _moment(metric: Metric) -> tuple[int, int]:
    return metric.step or 0, metric.timestamp or 0


class Run(Record, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One run: an attempt at training or evaluating something.

    Labels, params and metrics are empty unless they were asked for (``Verbose=true``). A run has no status in
    PAI: labels and metrics are the only sign that it is finished.
    """

    run_id: str
    name: str | None = None
    experiment_id: str | None = None
    workspace_id: str | None = None
    source_type: str | None = None
    source_id: str | None = None
    owner_id: str | None = None
    user_id: str | None = None
    accessibility: str | None = None
    gmt_create_time: Time | None = None
    gmt_modified_time: Time | None = None
    labels: Pairs = {}
    params: Pairs = {}
    metrics: Items[Metric] = []

    def __post_init__(self) -> None:
        set_field(self, "labels", mapping(self.labels))
        set_field(self, "params", mapping(self.params))
        set_field(self, "metrics", _numbers(self.metrics))
        times_to_utc(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the compact JSON form that goes to XCom.

        The same names; times as ISO 8601 strings; ``metrics`` as ``{key: last value}``, where a value
        that JSON cannot carry is the text ``NaN``, ``Infinity`` or ``-Infinity``.
        """
        record = {name: getattr(self, name) for name in self.__struct_fields__}
        for name in ("gmt_create_time", "gmt_modified_time"):
            record[name] = record[name].isoformat() if record[name] is not None else None
        record["metrics"] = {key: json_number(value) for key, value in last_values(self.metrics).items()}
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Run:
        """Return the run that :meth:`to_dict` described, with the last value of each metric.

        :raises ValueError: a field that should hold a time or a value holds something else.
        :raises TypeError: a record without a run id.
        """
        known = {name: value for name, value in record.items() if name in cls.__struct_fields__}
        for name in ("gmt_create_time", "gmt_modified_time"):
            if known.get(name) is not None:
                known[name] = _time(known[name])
        known["metrics"] = [Metric(key, value) for key, value in (known.get("metrics") or {}).items()]
        return cls(**known)


class MaybeRun(Run, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """The answer of GetRun: a run, or, for a run that does not exist, possibly no fields at all."""

    run_id: str = ""

    @property
    def items(self) -> list[str]:
        """The run's id, or nothing."""
        return [self.run_id] if self.run_id else []

    def found(self) -> Run:
        """Return it as a run, once its id and name are known to be there."""
        return Run(**{name: getattr(self, name) for name in Run.__struct_fields__})


class CreatedRun(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer of CreateRun."""

    run_id: str


def _time(text: Any) -> datetime:
    try:
        return msgspec.convert(text, datetime)
    except msgspec.ValidationError as error:  # not a ValueError in older versions of msgspec
        raise ValueError(str(error)) from None


def json_number(value: float) -> float | str:
    """Return a number as JSON can carry it: one that is not finite becomes the text that PAI uses."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


class Page(Record, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """The answer of a list operation: the fields that all of them share. Its items are the last field.

    ``next_page_token`` is opaque: send it back unchanged. 0, an empty text and ``None`` all mean that this
    was the last page. ``total_count`` is a hint: the API page says that it may be missing.
    """

    request_id: str | None = msgspec.field(default=None, name="requestId")
    total_count: int | None = None
    next_page_token: int | str | None = None

    def __post_init__(self) -> None:
        field = self.__struct_fields__[-1]
        set_field(self, field, getattr(self, field) or [])

    @property
    def next_token(self) -> str:
        """The token to send for the next page; empty on the last one."""
        token = "" if self.next_page_token is None else str(self.next_page_token)
        return "" if token == "0" else token

    @property
    def items(self) -> list[Any]:
        """The records of this page, whatever their kind."""
        items: list[Any] = getattr(self, self.__struct_fields__[-1])
        return items


class RunPage(Page, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One page of ListRuns."""

    runs: Items[Run] = []


class MetricPage(Page, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One page of ListRunMetrics."""

    metrics: Items[Metric] = []

    def __post_init__(self) -> None:
        set_field(self, "metrics", _numbers(self.metrics))


class Experiment(Record, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One experiment: a named group of runs in a workspace."""

    experiment_id: str
    name: str | None = None
    workspace_id: str | None = None
    artifact_uri: str | None = None
    accessibility: str | None = None
    owner_id: str | None = None
    gmt_create_time: Time | None = None
    gmt_modified_time: Time | None = None
    labels: Pairs = {}

    def __post_init__(self) -> None:
        set_field(self, "labels", mapping(self.labels))
        times_to_utc(self)


class CreatedExperiment(msgspec.Struct, frozen=True, rename="pascal"):
    """The answer of CreateExperiment."""

    experiment_id: str


class ExperimentPage(Page, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One page of ListExperiment."""

    experiments: Items[Experiment] = []


class Workspace(Record, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One workspace. Its times are left out: the API documents two formats for them."""

    workspace_id: str
    workspace_name: str | None = None
    display_name: str | None = None
    description: str | None = None
    status: str | None = None
    is_default: bool | None = None


class WorkspacePage(Page, frozen=True, kw_only=True, gc=False, rename="pascal"):
    """One page of ListWorkspaces."""

    workspaces: Items[Workspace] = []
