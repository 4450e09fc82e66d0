"""What tasks share: the connection, the hook and the link, and the filters of those that ask for runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._compat import BaseOperator
from airflow_provider_pai.links import LINK_KEY, PaiRunLink, console_url

if TYPE_CHECKING:
    from airflow_provider_pai.api import Run
    from airflow_provider_pai.hooks import PaiHook

__all__ = ["FILTERS", "PaiOperator", "RunFilterOperator", "is_later"]

FILTERS = (
    *("workspace_id", "experiment_id", "name", "source_type", "source_id", "labels"),
    *("created_after", "created_before", "order_by"),
)


class PaiOperator(BaseOperator):
    """Base of every task that talks to PAI.

    :param pai_conn_id: the Airflow connection to use.
    :param region: overrides the connection's region.
    """

    template_fields: Sequence[str] = ("pai_conn_id", "region")
    operator_extra_links = (PaiRunLink(),)
    ui_color = "#fff1e6"

    def __init__(self, *, pai_conn_id: str = "pai_default", region: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pai_conn_id = pai_conn_id
        self.region = region

    @cached_property
    def hook(self) -> PaiHook:
        """The hook, made when the task runs."""
        from airflow_provider_pai.hooks import PaiHook

        return PaiHook(self.pai_conn_id, region=self.region)

    def push_link(self, context: Any, runs: Sequence[Run]) -> None:
        """Let the task's PAI button open the first run's source."""
        try:
            settings = self.hook.settings
            url = console_url(runs, settings.region, settings.console_url)
            setattr(self, LINK_KEY, url)
            if "ti" in context:  # not where somebody calls execute({}) to try a task out
                context["ti"].xcom_push(LINK_KEY, url)
        except Exception:  # it only decorates
            self.log.warning("The task gets no PAI button.", exc_info=True)


class RunFilterOperator(PaiOperator):
    """Base of the tasks that ask for runs. All filters are templated and must all hold.

    Takes ``pai_conn_id`` and ``region`` of :class:`PaiOperator`, and:

    :param workspace_id: overrides the connection's workspace.
    :param experiment_id: only runs of this experiment.
    :param name: only runs of exactly this name.
    :param source_type: only runs of this kind of PAI job: ``TrainingService`` or ``DLC``.
    :param source_id: only runs of this PAI job.
    :param labels: labels a run must carry, as a dict or as ``"key:value,key:value"``.
    :param created_after: only runs created at or after this moment (aware, or ISO 8601 with an offset).
    :param created_before: only runs created before this moment.
    :param order_by: ``GmtCreateTime`` and ``Name``, each ``ASC`` or ``DESC``.
    """

    template_fields: Sequence[str] = (*PaiOperator.template_fields, *FILTERS)
    template_fields_renderers = {"labels": "json"}  # noqa: RUF012 - Airflow's own way

    def __init__(
        self,
        *,
        workspace_id: str | None = None,
        experiment_id: str | None = None,
        name: str | None = None,
        source_type: str | None = None,
        source_id: str | None = None,
        labels: Mapping[str, str] | str | None = None,
        created_after: datetime | str | None = None,
        created_before: datetime | str | None = None,
        order_by: str = "GmtCreateTime ASC",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workspace_id = workspace_id
        self.experiment_id = experiment_id
        self.name = name
        self.source_type = source_type
        self.source_id = source_id
        self.labels = labels
        self.created_after = created_after
        self.created_before = created_before
        self.order_by = order_by
        self._check_filters()

    def _check_filters(self) -> None:
        """Refuse, when the DAG is parsed, filters that cannot be meant; templates are checked at run time."""
        from airflow_provider_pai.api.query import RunQuery

        known = {name: without_later(value) for name, value in self.filters().items()}
        RunQuery.of(**{name: value for name, value in known.items() if value is not None})

    def filters(self) -> dict[str, Any]:
        """Return the filters as they are once the task's templates are rendered."""
        return {name: getattr(self, name) for name in FILTERS}


def is_later(value: Any) -> bool:
    """Tell whether only the running task knows a value: a template, or what another task hands on."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(is_later, value))
    return hasattr(value, "resolve") or (isinstance(value, str) and "{" in value)


def without_later(value: Any) -> Any:
    """Return what is known of a value when the DAG is parsed, or ``None``."""
    if isinstance(value, Mapping) and is_later(value):
        return {name: known for name, known in value.items() if not is_later(known)} or None
    return None if is_later(value) else value
