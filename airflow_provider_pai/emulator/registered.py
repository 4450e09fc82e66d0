"""What the operations on models and on versions share: labels, pages, and what is too new to be shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from .errors import invalid, not_found
from .paging import read_page
from .parameters import Query, RequestBody
from .records import dumps
from .routes import Call, Service, answer_both

DOCUMENTS = ("Metrics", "InferenceSpec", "TrainingSpec", "ExtraInfo")

Body = dict[str, Any]


def model(service: Service, model_id: str) -> Body:
    """A stored model."""
    for body in service.account.state.models(model_id):
        return body
    raise not_found("Model", model_id)


def shown_version(service: Service, body: Body) -> Body:
    """A version as answers have it."""
    as_text = service.quirks.version_metrics == "text"
    documents = {name: dumps(body[name]) if as_text else body[name] for name in DOCUMENTS}
    shown = {**body, **documents, "Labels": pairs(body["Labels"])}
    if service.quirks.version_uri == "encoded":
        shown["Uri"] = quote(body["Uri"], safe=":/")
    if service.quirks.version_pending == "left_out" and body["ApprovalStatus"] == "Pending":
        del shown["ApprovalStatus"]
    return shown


def given(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that a request has."""
    return {name: value for name, value in fields.items() if value is not None}


def pairs(labels: dict[str, str]) -> list[dict[str, str]]:
    """Labels as PAI writes them."""
    return [{"Key": key, "Value": value} for key, value in labels.items()]


def still_hidden(hidden: dict[Any, int], key: Any) -> bool:
    """Tell whether something is too new to be shown, and count this request."""
    left = hidden.get(key, 0)
    if left:
        hidden[key] = left - 1
    return left > 0


def holds(text: str | None, labels: dict[str, str]) -> bool:
    """Tell whether a key or a value of labels holds a text."""
    return not text or any(text in part for pair in labels.items() for part in pair)


def labelling(service: Service, body: RequestBody) -> Callable[[Body], None]:
    """What an operation does that sets labels."""
    labels = body.labels(service.quirks.label_characters)
    if labels is None:
        raise invalid("Labels", "it is required")

    def label(stored: Body) -> None:
        kept = stored["Labels"] if service.quirks.registry_labels == "kept" else {}
        stored["Labels"] = {**kept, **labels}

    return label


def unlabelling(query: Query) -> Callable[[Body], None]:
    """What an operation does that removes labels."""
    query.required("LabelKeys")
    keys = query.items("LabelKeys")

    def unlabel(stored: Body) -> None:
        stored["Labels"] = {key: value for key, value in stored["Labels"].items() if key not in keys}

    return unlabel


def page(
    service: Service,
    call: Call,
    noun: str,
    found: list[Body],
    name: str,
    shown: Callable[[Service, Body], Body],
) -> str:
    """One page by PageNumber and PageSize (10), in the order of creation, oldest first by default."""
    query, quirks = call.query, service.quirks
    part = read_page(query, quirks)
    query.choice("SortBy", ("GmtCreateTime",), "")
    descending = query.choice("Order", ("ASC", "DESC"), "ASC") == "DESC" and quirks.order == "honoured"
    # Sorting is stable, so insertion order breaks ties in the direction of the order.
    found = found[::-1] if descending else found
    column = name if quirks.order == "by_name" else "GmtCreateTime"
    found.sort(key=lambda body: str(body[column]), reverse=descending)
    chosen = [shown(service, body) for body in found[part.offset : part.offset + part.limit]]
    total = {"TotalCount": len(found)} if quirks.total_count == "given" else {}
    return answer_both(call, **{noun: chosen}, **total)
