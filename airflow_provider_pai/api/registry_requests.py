"""What the requests about models and about their versions share: acknowledgements, labels, and listings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import msgspec

from airflow_provider_pai.api.by_name import missing_as, oldest_first
from airflow_provider_pai.api.errors import PaiModelNotFoundError, PaiUsageError
from airflow_provider_pai.api.flow import Acknowledgement, Flow, Request, call
from airflow_provider_pai.api.model_parameters import label_keys
from airflow_provider_pai.api.model_records import Model, ModelVersion
from airflow_provider_pai.api.models import Page
from airflow_provider_pai.api.paging import NumberedPaginator
from airflow_provider_pai.api.parameters import pairs, whole_number, write
from airflow_provider_pai.api.query import Labels, parse_labels

__all__ = [
    "acknowledged",
    "check_changes",
    "create_labels",
    "delete_labels",
    "listing_by_number",
    "missing",
    "pascal",
]

Each = TypeVar("Each", bound=Model | ModelVersion)


def pascal(name: str) -> str:
    """Return the API's name of a field."""
    return "".join(word.capitalize() for word in name.split("_"))


def check_changes(function: str, body: Mapping[str, Any], advice: str) -> None:
    """Refuse an update that changes nothing."""
    if all(value is None for value in body.values()):
        raise PaiUsageError(f"{function} was given nothing to change; give {advice}.")


def acknowledged(request: Request) -> Flow[Acknowledgement]:
    """Send a request that PAI only acknowledges.

    :raises PaiModelNotFoundError: PAI does not find the model or the version.
    """
    return missing_as(PaiModelNotFoundError, call(request, Acknowledgement))


def create_labels(action: str, target: str, labels: Mapping[str, str]) -> Flow[Acknowledgement]:
    """Send labels of the model or version at ``target``."""
    return acknowledged(write("POST", action, f"{target}/labels", {"Labels": pairs(labels)}))


def delete_labels(action: str, target: str, keys: str | Sequence[str]) -> Flow[Acknowledgement]:
    """Remove labels from the model or version at ``target``."""
    query = {"LabelKeys": label_keys(keys)}
    return acknowledged(Request(method="DELETE", action=action, path=f"{target}/labels", query=query))


def missing(action: str, message: str, request_id: str | None) -> PaiModelNotFoundError:
    """Return the error for what an answer without a record means."""
    return PaiModelNotFoundError(message, action=action, status=200, code="NotFound", request_id=request_id)


def listing_by_number(
    request: Request,
    page: type[Page],
    identity: str,
    exact: Mapping[str, str | None],
    labels: Labels | None,
    page_size: int,
) -> Flow[list[Each]]:
    """Return what a listing by page numbers holds and ``exact`` and ``labels`` match, oldest first."""
    wanted = {name: value for name, value in exact.items() if value is not None}
    wanted_labels = {} if labels is None else parse_labels(labels)
    query = {
        **{pascal(name): value for name, value in wanted.items()},
        # PAI looks for one text in all keys and values; the longest of them narrows the answer most.
        "Label": max((text for pair in wanted_labels.items() for text in pair), key=len, default=""),
        "SortBy": "GmtCreateTime",
        "Order": "ASC",
        "PageSize": whole_number("page_size", page_size),
    }

    def matches(each: Each) -> bool:
        return wanted_labels.items() <= each.labels.items() and all(
            _has(each, name, value) for name, value in wanted.items()
        )

    listing = NumberedPaginator[Each](
        msgspec.structs.replace(request, query={name: value for name, value in query.items() if value}),
        page,
        identity=attrgetter(identity),
        created=attrgetter("gmt_create_time"),
        direction=1,
        wanted=matches,
    )
    return oldest_first((yield from listing.rest()))


def _has(each: Model | ModelVersion, name: str, wanted: str) -> bool:
    value = getattr(each, name)
    if value is None:  # PAI answers for one workspace, whether or not it says so; and Custom is its default
        return name == "workspace_id" or (name, wanted) == ("source_type", "Custom")
    return bool(value == wanted)
