"""Check arguments and turn them into parts of a request: path segments, JSON bodies, and the 15 documented
parameters of ListRuns.

Source: the vendor's API pages of AIWorkSpace 2021-02-04; for ListRuns its table "Request parameters".
docs/fidelity.md lists what they leave open.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import msgspec

from airflow_provider_pai.api.arguments import check_choice
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.flow import Request
from airflow_provider_pai.api.query import (
    ORDER_FIELDS,
    Labels,
    check_keywords,
    check_text,
    encodable,
    format_time,
    parse_labels,
    parse_order,
    parse_time,
)
from airflow_provider_pai.api.signing import percent_encode

__all__ = [
    "finite",
    "page_parameters",
    "pairs",
    "path",
    "required",
    "run_fields",
    "segment",
    "text",
    "whole_number",
    "write",
]

RUN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


def path(*segments: str) -> str:
    """Return the path of a resource, such as ``/api/v1/runs/run-1``."""
    return "/api/v1/" + "/".join(segment(part) for part in segments)


def segment(part: str) -> str:
    """Return one percent-encoded segment of a path."""
    if not isinstance(part, str) or part in ("", ".", ".."):
        raise PaiUsageError(f"{part!r} cannot be an id or a key in a path; check where it comes from.")
    encodable("The id or key", part)
    return percent_encode(part)


def write(method: str, action: str, path: str, fields: Mapping[str, Any] | None = None) -> Request:
    """Return a request that changes something; fields that are ``None`` are left out of its JSON body."""
    if fields is None:
        return Request(method=method, action=action, path=path)
    body = {name: value for name, value in fields.items() if value is not None}
    return Request(method=method, action=action, path=path, body=msgspec.json.encode(body))


def pairs(mapping: Mapping[str, str]) -> list[dict[str, str]]:
    """Return labels or params as the API's list of Key and Value."""
    return [{"Key": key, "Value": value} for key, value in mapping.items()]


def run_fields(name: str | None, labels: Labels | None, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a run that CreateRun and UpdateRun share."""
    if name is not None and not (isinstance(name, str) and RUN_NAME.fullmatch(name)):
        raise PaiUsageError(
            f"name={name!r} is not a name for a run: one has 1 to 63 of A-Z a-z 0-9 _ - and starts "
            "with a letter."
        )
    fields: dict[str, Any] = {}
    if name is not None:
        fields["Name"] = name
    if labels is not None:
        fields["Labels"] = pairs(parse_labels(labels))
    if params is not None:
        if not isinstance(params, Mapping):
            raise PaiUsageError(f"params={params!r} is a {type(params).__name__}; write a dict.")
        fields["Params"] = pairs({key: _param(key, value) for key, value in params.items()})
    return fields


def _param(key: Any, value: Any) -> str:
    required("The key of a param", key)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        encodable(f"Param {key!r}", str(value))
        return str(value)
    raise PaiUsageError(f"Param {key!r} is a {type(value).__name__}; write it as text or as a number.")


def finite(key: str, value: Any) -> float:
    """Return a metric's value. Refuse one that is not a finite number: JSON cannot carry NaN or infinity."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise PaiUsageError(f"Metric {key!r} is {value!r}; PAI takes finite numbers only. Leave it out.")
    return number


def text(name: str, value: Any) -> Any:
    """Return an optional text unchanged. Refuse an empty one and a value that is not a text."""
    check_text(name, value)
    return value


def required(name: str, value: Any) -> str:
    """Return a text that must be given."""
    if value is None:
        raise PaiUsageError(f"{name} is None; check where it comes from.")
    return str(text(name, value))


def whole_number(name: str, value: Any, least: int = 1) -> str:
    """Return the wire form of a whole number. Refuse other values, and numbers below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PaiUsageError(f"{name}={value!r} must be a whole number, at least {least}.")
    return str(value)


def _flag(name: str, value: Any) -> str:
    if not isinstance(value, bool):
        raise PaiUsageError(f"{name}={value!r} must be True or False.")
    return "true" if value else "false"


def _joined_labels(name: str, value: Any) -> str:
    return ",".join(f"{key}:{label}" for key, label in parse_labels(value).items())


def _token(name: str, value: Any) -> str:
    # Opaque: a token that came as a text goes back unchanged.
    return value if isinstance(value, str) and value else whole_number(name, value, least=0)


_PARAMETERS: dict[str, tuple[str, Callable[[str, Any], str]]] = {
    "name": ("Name", text),
    "workspace_id": ("WorkspaceId", lambda name, value: text(name, str(value))),
    "experiment_id": ("ExperimentId", text),
    "source_type": ("SourceType", text),
    "source_id": ("SourceId", text),
    "labels": ("Labels", _joined_labels),
    "verbose": ("Verbose", _flag),
    "gmt_create_time": ("GmtCreateTime", lambda name, value: format_time(parse_time(value, name))),
    "order_by": ("OrderBy", lambda _, value: parse_order(value)),
    "page_token": ("PageToken", _token),
    "max_results": ("MaxResults", whole_number),
    "page_number": ("PageNumber", whole_number),
    "page_size": ("PageSize", whole_number),
    "sort_by": ("SortBy", lambda name, value: check_choice(name, value, ORDER_FIELDS)),
    "order": ("Order", lambda name, value: check_choice(name, value, ("ASC", "DESC"))),
}
_CONTRADICTIONS = (
    (("page_token", "max_results"), ("page_number", "page_size"), "page by token or by number"),
    (("order_by",), ("sort_by", "order"), "order_by says both, and can name several fields"),
)


def page_parameters(**given: Any) -> dict[str, str]:
    """Return the wire form of any of the 15 documented parameters of ListRuns, given in snake_case.

    ``None`` leaves a parameter out. Two ways to page or to order at once are refused: the API page does not
    say which one wins.

    :raises PaiUsageError: an unknown, malformed or contradictory parameter.
    """
    check_keywords(given, _PARAMETERS)
    given = {name: value for name, value in given.items() if value is not None}
    for one, other, advice in _CONTRADICTIONS:
        first, second = ([name for name in names if name in given] for names in (one, other))
        if first and second:
            raise PaiUsageError(f"{first[0]} and {second[0]} contradict each other; give one: {advice}.")
    return {
        wire_name: encode(name, given[name])
        for name, (wire_name, encode) in _PARAMETERS.items()
        if name in given
    }
