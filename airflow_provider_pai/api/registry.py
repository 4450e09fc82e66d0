"""Flows for the models of PAI's registry. Their versions: :mod:`~airflow_provider_pai.api.model_versions`.

Source: the vendor's API pages of AIWorkSpace 2021-02-04. Each flow names its page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_provider_pai.api.arguments import check_filters, check_keywords
from airflow_provider_pai.api.by_name import get_or_create, missing_as, oldest
from airflow_provider_pai.api.errors import PaiModelNotFoundError, PaiUsageError
from airflow_provider_pai.api.flow import Flow, Request, call, exchange
from airflow_provider_pai.api.model_parameters import check_model_name, chosen, document
from airflow_provider_pai.api.model_records import CreatedModel, MaybeModel, Model, ModelPage, found
from airflow_provider_pai.api.model_versions import list_model_versions
from airflow_provider_pai.api.paging import PAGE_SIZE
from airflow_provider_pai.api.parameters import pairs, path, required, text, write
from airflow_provider_pai.api.query import Labels, parse_labels
from airflow_provider_pai.api.registry_requests import (
    acknowledged,
    check_changes,
    create_labels,
    delete_labels,
    listing_by_number,
    missing,
    pascal,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "ModelFields",
    "ModelFilters",
    "create_model",
    "delete_model",
    "delete_model_labels",
    "get_model",
    "get_or_create_model",
    "list_models",
    "set_model_labels",
    "the_model",
    "update_model",
]


class ModelFields(TypedDict, total=False):
    """What describes a model besides its name. ``accessibility`` is PRIVATE (PAI's default) or PUBLIC."""

    model_description: str | None
    model_doc: str | None
    domain: str | None
    task: str | None
    model_type: str | None
    origin: str | None
    accessibility: str | None
    extra_info: Mapping[str, Any] | None


class ModelFilters(TypedDict, total=False):
    """The keywords that narrow :func:`list_models`. One that is there was meant."""

    workspace_id: str
    name: str
    labels: Labels
    domain: str
    task: str
    model_type: str
    origin: str


def create_model(
    name: str, *, workspace_id: str, labels: Labels | None = None, **fields: Unpack[ModelFields]
) -> Flow[str]:
    """Create a model and return its id (CreateModel).

    ``name`` has 1 to 127 characters. Fields: model_description, model_doc, domain (such as nlp), task (such
    as text-classification), model_type, origin, accessibility (PRIVATE, which is PAI's default, or PUBLIC),
    extra_info (a dict).
    """
    body = {
        "ModelName": check_model_name(name),
        "WorkspaceId": required("workspace_id", workspace_id),
        "Labels": None if labels is None else pairs(parse_labels(labels)),
        **_model_fields(fields),
    }
    return _model_id(write("POST", "CreateModel", path("models"), body))


def _model_id(request: Request) -> Flow[str]:
    created = yield from call(request, CreatedModel)
    return created.model_id


def _model_fields(fields: ModelFields) -> dict[str, Any]:
    check_keywords(fields, ModelFields.__annotations__)
    texts = ("model_description", "model_doc", "domain", "task", "model_type", "origin")
    return {
        **{pascal(name): text(name, fields.get(name)) for name in texts},
        "Accessibility": chosen("accessibility", fields.get("accessibility")),
        "ExtraInfo": document("extra_info", fields.get("extra_info")),
    }


def get_or_create_model(
    name: str, *, workspace_id: str, labels: Labels | None = None, **fields: Unpack[ModelFields]
) -> Flow[str]:
    """Return the id of the model of exactly this name in a workspace; create it where there is none.

    Tasks that do this at the same time get the same id: where PAI refuses the second creation, that task
    looks the name up, for up to a minute, because PAI may show a new model late. Should PAI hold several
    models of the name, the one that has versions is meant, or the oldest while none has. A model that exists
    stays as it is: ``labels`` and the fields of :func:`create_model` are for a new one.

    :raises PaiError: the one by which the creation failed, where no model of the name shows after it.
    :raises PaiUsageError: several models of the name have versions.
    """
    creation = create_model(name, workspace_id=workspace_id, labels=labels, **fields)
    return get_or_create(
        lambda: list_models(workspace_id=workspace_id, name=name),
        creation,
        identity=lambda model: model.model_id,
        choose=the_model,
    )


def the_model(found: list[Model]) -> Flow[Model]:
    """Return the one that is meant of some models of the same name (ListModelVersions, where there are more).

    Tasks that create a model at the same time may leave several, if PAI admits that, and all use the oldest.
    So the one with versions is meant, or the oldest while no model has any.

    :raises PaiUsageError: several have versions.
    """
    used: list[Model] = []
    for model in found if len(found) > 1 else ():
        if (yield from list_model_versions(model.model_id)):
            used.append(model)
    if len(used) > 1:
        ids = ", ".join(model.model_id for model in used)
        raise PaiUsageError(
            f"{len(used)} models named {used[0].model_name!r} have versions: {ids}. A sensor or a trigger "
            "takes the model_id of one of them; to register a version, rename the others in PAI."
        )
    return (yield from oldest(used or found))


def get_model(model_id: str) -> Flow[Model]:
    """Return one model, with its labels and its latest version (GetModel).

    :raises PaiModelNotFoundError: there is none, or it was created less than a minute ago.
    """
    request = Request(action="GetModel", path=path("models", model_id))
    model, response = yield from missing_as(PaiModelNotFoundError, exchange(request, MaybeModel))
    if not (model.model_id and model.model_name):
        raise missing("GetModel", f"there is no model {model_id!r}", response.request_id)
    return found(model, Model)


def update_model(model_id: str, *, name: str | None = None, **fields: Unpack[ModelFields]) -> Flow[None]:
    """Change a model's name or the fields of :func:`create_model` (UpdateModel). Others stay as they are."""
    body = {"ModelName": None if name is None else check_model_name(name), **_model_fields(fields)}
    check_changes("update_model", body, "name or one of the fields")
    yield from acknowledged(write("PUT", "UpdateModel", path("models", model_id), body))


def set_model_labels(model_id: str, labels: Labels) -> Flow[None]:
    """Add or change these labels and keep all others (GetModel, CreateModelLabels).

    The whole set is sent, because PAI does not say whether it keeps labels that are not.
    """
    wanted = parse_labels(labels)
    model = yield from get_model(model_id)
    yield from create_labels("CreateModelLabels", path("models", model_id), {**model.labels, **wanted})


def delete_model_labels(model_id: str, keys: str | Sequence[str]) -> Flow[None]:
    """Remove labels from a model, one key or several (DeleteModelLabels)."""
    yield from delete_labels("DeleteModelLabels", path("models", model_id), keys)


def delete_model(model_id: str) -> Flow[None]:
    """Delete a model (DeleteModel). Delete its versions first: PAI does not say what becomes of them."""
    yield from acknowledged(write("DELETE", "DeleteModel", path("models", model_id)))


def list_models(*, page_size: int = PAGE_SIZE, **filters: Unpack[ModelFilters]) -> Flow[list[Model]]:
    """Return the models that match, oldest first (ListModels).

    Filters: workspace_id, name (exactly), labels (all of them), domain, task, model_type, origin. Leave one
    out to ask for any. Every model that comes back is checked, because PAI may match a name in part.

    :raises PaiUsageError: an unknown filter, or one that holds nothing.
    """
    check_filters(filters, ModelFilters.__annotations__)
    exact = {
        "workspace_id": text("workspace_id", filters.get("workspace_id")),
        "model_name": text("name", filters.get("name")),
        **{name: text(name, filters.get(name)) for name in ("domain", "task", "model_type", "origin")},
    }
    request = Request(action="ListModels", path=path("models"))
    return listing_by_number(request, ModelPage, "model_id", exact, filters.get("labels"), page_size)
