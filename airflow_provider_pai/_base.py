"""What tasks share: their arguments, the connection, the hook and the link, and the filters for runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from numbers import Number
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._compat import AirflowFailException, BaseOperator, BaseOperatorLink
from airflow_provider_pai.api.arguments import check_given, check_no_dict_as_text
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.query import RunQuery
from airflow_provider_pai.lineage.reports import ReportsLineage
from airflow_provider_pai.links import PaiRunLink, push_link

if TYPE_CHECKING:
    from typing_extensions import Self

    from airflow_provider_pai._compat import Context
    from airflow_provider_pai.api import Run
    from airflow_provider_pai.hooks import PaiHook

__all__ = ["FILTERS", "QUESTION", "Arguments", "PaiOperator", "RunFilterOperator", "is_later"]

FILTERS = (
    *("run_id", "workspace_id", "experiment_id", "name", "source_type", "source_id", "labels"),
    *("created_after", "created_before", "order_by"),
)
QUESTION = (*FILTERS, "min_runs", "max_runs", "metrics")
"""The arguments that say what a wait is for."""
LABELS = ("labels", "among", "baseline_labels")
DICTS = (*LABELS, "metrics", "run_params", "verdict")
AS_TEXT = "text:"
"""A text that begins with it is not a Python value, so native rendering leaves it as it is."""
LABEL_OF_NONE = re.compile(r":\s*None\s*(?:,|$)")


class Arguments:
    """The arguments of a task or a trigger. A constant, a template and a task's output mean the same.

    An argument that was given must not become ``None``: the query would then match any run.
    """

    _passed_as_none: frozenset[str] = frozenset()
    _mapped = False
    _written: Mapping[str, Any] = {}
    """The arguments that were given, as they were before they were rendered."""

    def __new__(cls, *_: Any, **passed: Any) -> Self:
        """Note what is passed as ``None``: ``__init__`` cannot tell it from what is left out."""
        made = super().__new__(cls)
        nones = frozenset(name for name, value in passed.items() if value is None)
        object.__setattr__(made, "_passed_as_none", nones)
        object.__setattr__(made, "_mapped", "_airflow_from_mapped" in passed)
        return made

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Any,
        jinja_env: Any,
        seen_oids: set[int],
    ) -> None:
        if parent is self:
            values = {name: getattr(self, name, None) for name in template_fields}
            self._written = {name: value for name, value in values.items() if value is not None}
        super()._do_render_template_fields(  # type: ignore[misc]
            parent, template_fields, context, jinja_env, seen_oids
        )

    def render_template(
        self, content: Any, context: Any, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render a value. A text stays text where native rendering would make a number of it.

        ``None`` that a template wrote is ``None``, not a text.
        """
        render = super().render_template  # type: ignore[misc]
        rendered = render(content, context, jinja_env, seen_oids)
        if not isinstance(content, str):
            return rendered
        if rendered is None or isinstance(rendered, Number):
            rendered = render(AS_TEXT + content, context, jinja_env).removeprefix(AS_TEXT)
        return None if isinstance(rendered, str) and rendered == "None" != content else rendered

    def check_rendered(self) -> None:
        """Refuse what templates and other tasks must not bring.

        :raises PaiUsageError: with the argument's name, and its value.
        """
        for name in (*self._written, *self._given_as_none()):
            value = getattr(self, name)
            _check(name, value)
            rendered = isinstance(value, str) and value != self._written.get(name)
            if rendered and name in LABELS and LABEL_OF_NONE.search(value):
                raise PaiUsageError(
                    f"{name} came as {value!r}, and None is not the value of a label; check the template, or "
                    "the task that it reads."
                )

    def given(self, names: Iterable[str]) -> dict[str, Any]:
        """Return those of the arguments that were given, as they are once templates are rendered.

        :raises PaiUsageError: one that was given became ``None`` or empty.
        """
        self.check_rendered()
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def _given_as_none(self) -> Iterable[str]:
        """Return which arguments were given as ``None``."""
        return ()


class PaiOperator(ReportsLineage, Arguments, BaseOperator):
    """Base of every task that talks to PAI.

    :param pai_conn_id: the Airflow connection to use.
    :param region: overrides the connection's region; refused where the connection names a host instead.
    """

    template_fields: Sequence[str] = ("pai_conn_id", "region")
    operator_extra_links: tuple[BaseOperatorLink, ...] = (PaiRunLink(),)
    ui_color = "#fff1e6"
    writes_runs = False
    """Whether the runs that the task's button leads to were written, or read."""

    def __init__(self, *, pai_conn_id: str = "pai_default", region: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pai_conn_id = pai_conn_id
        self.region = region

    def check_parsed(self) -> None:
        """Refuse, when the DAG is parsed, what makes no sense: the last line of every constructor.

        Values that only the running task knows are checked before it executes.
        """
        with self.refusing():
            self._check_parameters()
            for name in self.template_fields:
                value = getattr(self, name, None)
                if isinstance(value, Mapping) and any(map(is_later, value)):
                    raise PaiUsageError(
                        f"{name} has a template in a key, and Airflow renders only the values of a dict. "
                        f"Build the dict in a task, and hand its output on ({name}=task.output)."
                    )
                if value is not None and not is_later(value):
                    _check(name, value)

    def _check_parameters(self) -> None:
        """Refuse what is wrong for this kind of task."""

    def known(self, names: Iterable[str]) -> dict[str, Any]:
        """Return those arguments that are known when the DAG is parsed."""
        known = {name: without_later(getattr(self, name)) for name in names}
        return {name: value for name, value in known.items() if value is not None}

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Raise what is refused.

        A worker makes a mapped task: there the error is one that Airflow does not retry.

        :raises PaiUsageError: when the DAG is parsed.
        """
        try:
            yield
        except PaiUsageError as error:
            if not self._mapped:
                raise
            raise AirflowFailException(f"PaiUsageError: {error}") from error

    def pre_execute(self, context: Context) -> None:
        """Refuse what templates and other tasks must not bring, without Airflow's retries."""
        super().pre_execute(context)
        try:
            self.check_rendered()
        except PaiUsageError as error:
            raise self._failure(f"PaiUsageError: {error}", permanent=True) from error

    def _failure(self, message: str, *, permanent: bool) -> Exception:
        """Return what ends this task."""
        return AirflowFailException(message) if permanent else PaiUsageError(message)

    def _given_as_none(self) -> Iterable[str]:
        """Return which templated arguments were mapped to ``None``; as a constant it means "left out"."""
        nones = self._passed_as_none.intersection(self.template_fields) if self._mapped else ()
        if not nones:
            return ()
        mapped: Any = self.dag.task_dict.get(self.task_id)
        return nones - getattr(mapped, "partial_kwargs", {}).keys()

    @cached_property
    def hook(self) -> PaiHook:
        """The hook, made when the task runs."""
        from airflow_provider_pai.hooks import PaiHook

        return PaiHook(self.pai_conn_id, region=self.region)

    def push_link(self, context: Any, runs: Sequence[Run]) -> None:
        """Let the task's PAI button open the first run's source, and note the runs for OpenLineage."""
        push_link(self, context, self.hook, runs)
        self.note(self.hook, **{"written" if self.writes_runs else "read": runs})

    def tell_outlets(self, context: Any, extra: Mapping[str, Any]) -> None:
        """Let the events of this task's assets say what happened."""
        for outlet in self.outlets:
            try:
                if hasattr(outlet, "uri"):  # an alias names its assets elsewhere
                    context["outlet_events"][outlet].extra.update(extra)
            except Exception:  # it only decorates
                self.log.warning("The event of %r does not say what happened.", outlet, exc_info=True)


class RunFilterOperator(PaiOperator):
    """Base of the tasks that ask for runs. All filters are templated and must all hold.

    A filter that is left out, or is ``None`` in the DAG file, asks for any. One that a template or another
    task fills with ``None``, ``{}`` or ``""`` fails the task, without a retry.

    Takes ``pai_conn_id`` and ``region`` of :class:`PaiOperator`, and:

    :param run_id: only these runs: one id or several, such as another task's output. Each is asked for by
        itself, and one that is not there fails the task.
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
        run_id: str | Sequence[str] | None = None,
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
        self.run_id = run_id
        self.workspace_id = workspace_id
        self.experiment_id = experiment_id
        self.name = name
        self.source_type = source_type
        self.source_id = source_id
        self.labels = labels
        self.created_after = created_after
        self.created_before = created_before
        self.order_by = order_by

    def _check_parameters(self) -> None:
        RunQuery.of(**self.known(FILTERS))

    def filters(self) -> dict[str, Any]:
        """Return the filters that were given, as :meth:`given` does."""
        return self.given(FILTERS)


def _check(name: str, value: Any) -> None:
    check_given(name, value)
    if name in DICTS:
        check_no_dict_as_text(name, value)


def is_later(value: Any) -> bool:
    """Tell whether only the running task knows a value: a template, or what another task hands on."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(map(is_later, value))
    return hasattr(value, "resolve") or (isinstance(value, str) and re.search(r"\{[{%#]", value) is not None)


def without_later(value: Any) -> Any:
    """Return what is known of a value when the DAG is parsed, or ``None``."""
    if isinstance(value, Mapping) and is_later(value):
        return {name: known for name, known in value.items() if not is_later(known)} or None
    return None if is_later(value) else value
