"""The methods of :class:`~airflow_provider_pai.hooks.PaiHook` for models and their versions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from airflow_provider_pai import api
from airflow_provider_pai._verbs import RunsFlows, verb
from airflow_provider_pai.api.arguments import check_filters
from airflow_provider_pai.api.registry import ModelFilters

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from airflow_provider_pai.api.query import Labels
    from airflow_provider_pai.api.registry import ModelFields

__all__ = ["RegistryMethods"]


class RegistryMethods(RunsFlows):
    """What the hook can do with PAI's model registry."""

    get_model = verb(api.get_model)
    update_model = verb(api.update_model)
    set_model_labels = verb(api.set_model_labels)
    delete_model_labels = verb(api.delete_model_labels)
    delete_model = verb(api.delete_model)
    create_model_version = verb(api.create_model_version)
    get_model_version = verb(api.get_model_version)
    list_model_versions = verb(api.list_model_versions)
    update_model_version = verb(api.update_model_version)
    set_model_version_labels = verb(api.set_model_version_labels)
    delete_model_version_labels = verb(api.delete_model_version_labels)
    delete_model_version = verb(api.delete_model_version)
    register_model_version = verb(api.register_model_version)
    set_model_version_approval = verb(api.set_model_version_approval)

    def create_model(
        self,
        name: str,
        *,
        workspace_id: str | None = None,
        labels: Labels | None = None,
        **fields: Unpack[ModelFields],
    ) -> str:
        """Create a model in this hook's workspace, or the default one, and return its id.

        A task that may run twice takes :meth:`get_or_create_model`. Fields: model_description, model_doc,
        domain, task, model_type, origin, accessibility, extra_info.
        """
        make = functools.partial(api.create_model, name, labels=labels, **fields)
        return self._in_workspace(make, workspace_id)

    def get_or_create_model(
        self,
        name: str,
        *,
        workspace_id: str | None = None,
        labels: Labels | None = None,
        **fields: Unpack[ModelFields],
    ) -> str:
        """Return the id of the model of exactly this name, and create it where there is none.

        In this hook's workspace, or the default one. Tasks that do this at the same time get the same id. A
        model that exists stays as it is: ``labels`` and the fields of :meth:`create_model` are for a new one.
        If PAI has several of that name, this returns the one that has versions, or the oldest. If PAI shows a
        new model late, this waits for up to a minute.

        :raises PaiUsageError: several models of the name have versions.
        """
        make = functools.partial(api.get_or_create_model, name, labels=labels, **fields)
        return self._in_workspace(make, workspace_id)

    def list_models(self, *, page_size: int = 100, **filters: Unpack[ModelFilters]) -> list[api.Model]:
        """Return the models of this hook's workspace, or the default one, that match, oldest first.

        Filters: workspace_id, name (exactly), labels (all of them), domain, task, model_type, origin. Leave
        one out to ask for any; ``None`` and ``{}`` are refused.
        """
        check_filters(filters, ModelFilters.__annotations__)
        workspace_id = filters.pop("workspace_id", None)
        make = functools.partial(api.list_models, page_size=page_size, **filters)
        return self._in_workspace(make, workspace_id)
