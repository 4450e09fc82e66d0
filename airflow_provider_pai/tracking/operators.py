"""Tasks that write to PAI: create, update, measure and promote runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_pai._base import PaiOperator, without_later
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.models import Metric, Run, last_values
from airflow_provider_pai.api.promotion import promote_run
from airflow_provider_pai.api.query import Labels, RunQuery, parse_labels
from airflow_provider_pai.api.registration import metrics_document, metrics_in
from airflow_provider_pai.tracking.identity import Place, found_or_created
from airflow_provider_pai.tracking.start import check_labels, origin_of

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context
    from airflow_provider_pai.api.operations import Params

__all__ = [
    "PaiCreateExperimentOperator",
    "PaiCreateRunOperator",
    "PaiLogRunMetricsOperator",
    "PaiPromoteRunOperator",
    "PaiUpdateRunOperator",
]


class PaiCreateExperimentOperator(PaiOperator):
    """Find the experiment of exactly this name, or create it where there is none.

    Tasks that do this at the same time get the same id, and so does a retry. Where PAI shows a new experiment
    late, the task waits for up to a minute. An experiment that exists stays as it is: what follows the
    workspace below is for a new one.

    Takes ``pai_conn_id`` and ``region`` of :class:`~airflow_provider_pai._base.PaiOperator`, and, all
    templated:

    :param name: the experiment's name, which is unique in a workspace.
    :param workspace_id: overrides the connection's workspace.
    :param artifact_uri: an OSS path, for what its runs leave behind.
    :param accessibility: ``PRIVATE``, which is PAI's default, or ``PUBLIC``.
    :param labels: as a dict or as ``"key:value,key:value"``.
    :return: the id of the experiment.
    """

    template_fields: Sequence[str] = (
        *PaiOperator.template_fields,
        *("name", "workspace_id", "artifact_uri", "accessibility", "labels"),
    )
    template_fields_renderers = {"labels": "json"}  # noqa: RUF012 - Airflow's own way

    def __init__(
        self,
        *,
        name: str,
        workspace_id: str | None = None,
        artifact_uri: str | None = None,
        accessibility: str | None = None,
        labels: Labels | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.workspace_id = workspace_id
        self.artifact_uri = artifact_uri
        self.accessibility = accessibility
        self.labels = labels
        self.check_parsed()

    def execute(self, context: Context) -> str:
        """Find or create the experiment."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        given: dict[str, Any] = self.given(["workspace_id", "artifact_uri", "accessibility", "labels"])
        with permanent_errors_fail_the_task():
            experiment_id = self.hook.get_or_create_experiment(self.name, **given)
            self.push_link(context, [])
        self.log.info("The experiment %r is %s.", self.name, experiment_id)
        return experiment_id


class PaiCreateRunOperator(PaiOperator):
    """Create a run in an experiment.

    Takes ``pai_conn_id`` and ``region`` of :class:`~airflow_provider_pai._base.PaiOperator`, and, all
    templated:

    :param experiment_id: the experiment.
    :param name: 1 to 63 of ``A-Z a-z 0-9 _ -``, beginning with a letter; by default the run's id.
    :param labels: as a dict or as ``"key:value,key:value"``.
    :param run_params: the run's params: texts, numbers, true or false. (``params`` is Airflow's own.)
    :param source_type: what kind of PAI job the run comes from: ``TrainingService`` or ``DLC``.
    :param source_id: the id of that job.
    :param reuse: find the run again that this task has created before, in an earlier try or before it was
        cleared, in the connection's workspace; that run gets the labels and the params, and keeps its others.
        So a lost answer of PAI does not lead to a second run. The run's params say where it comes from, as
        those of a tracked run do (docs/tracking.md). Not templated.
    :return: the id of the run. Without ``reuse``, a retry creates another run.

    A new experiment may take up to a minute to become visible, and until then PAI refuses a run in it: give
    the task ``retries``.
    """

    writes_runs = True
    template_fields: Sequence[str] = (
        *PaiOperator.template_fields,
        *("experiment_id", "name", "labels", "run_params", "source_type", "source_id"),
    )
    template_fields_renderers = {"labels": "json", "run_params": "json"}  # noqa: RUF012 - Airflow's own way

    def __init__(
        self,
        *,
        experiment_id: str,
        name: str | None = None,
        labels: Labels | None = None,
        run_params: Params | None = None,
        source_type: str | None = None,
        source_id: str | None = None,
        reuse: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.experiment_id = experiment_id
        self.name = name
        self.labels = labels
        self.run_params = run_params
        self.source_type = source_type
        self.source_id = source_id
        self.reuse = reuse
        self.check_parsed()

    def _check_parameters(self) -> None:
        if not isinstance(self.reuse, bool):
            raise PaiUsageError(f"reuse={self.reuse!r} must be True or False; it is not templated.")
        if self.reuse and (labels := without_later(self.labels)):
            check_labels(labels)

    def execute(self, context: Context) -> str:
        """Create the run, or find it where it is to be used again."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        source: dict[str, Any] = {"source_type": self.source_type, "source_id": self.source_id}
        fields = {"name": self.name, **source}
        with permanent_errors_fail_the_task():
            if self.reuse:
                run_id, created = self._reused(context, fields)
            else:
                given = {"labels": self.labels, "params": self.run_params, **fields}
                run_id, created = self.hook.create_run(self.experiment_id, **given), True
            self.push_link(context, [Run(run_id=run_id, experiment_id=self.experiment_id, **fields)])
        self.log.info("%s the run %s in %s.", "Created" if created else "Found", run_id, self.experiment_id)
        return run_id

    def _reused(self, context: Context, fields: dict[str, Any]) -> tuple[str, bool]:
        origin = origin_of(context)
        labels, params = check_labels(self.labels or {}), {**(self.run_params or {}), **origin.params}
        place = Place(experiment_id=self.experiment_id, workspace_id=self.hook.named_workspace())
        flow = found_or_created(
            origin.identity, place, again=origin.again, labels=labels, params=params, **fields
        )
        return self.hook.client().run(flow)


class PaiUpdateRunOperator(PaiOperator):
    """Change a run's name, labels or params. Labels and params that are not named stay as they are.

    Takes ``pai_conn_id`` and ``region`` of :class:`~airflow_provider_pai._base.PaiOperator`, and, all
    templated:

    :param run_id: the PAI run (not the DAG run).
    :param name: its new name.
    :param labels: labels to add or change, as a dict or as ``"key:value,key:value"``.
    :param run_params: params to add or change. (``params`` is Airflow's own.)
    :return: the id of the run.
    """

    writes_runs = True
    template_fields: Sequence[str] = (
        *PaiOperator.template_fields,
        *("run_id", "name", "labels", "run_params"),
    )
    template_fields_renderers = {"labels": "json", "run_params": "json"}  # noqa: RUF012 - Airflow's own way

    def __init__(
        self,
        *,
        run_id: str,
        name: str | None = None,
        labels: Labels | None = None,
        run_params: Params | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.name = name
        self.labels = labels
        self.run_params = run_params
        self.check_parsed()

    def _check_parameters(self) -> None:
        if self.name is None and self.labels is None and self.run_params is None:
            raise PaiUsageError("there is nothing to change; give name, labels or run_params.")

    def execute(self, context: Context) -> str:
        """Read the run and send all its labels and params, since PAI may drop those that are not sent."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            run = self.hook.get_run(self.run_id)
            labels = None if self.labels is None else {**run.labels, **parse_labels(self.labels)}
            params = None if self.run_params is None else {**run.params, **self.run_params}
            self.hook.update_run(self.run_id, name=self.name, labels=labels, params=params)
            written: dict[str, Any] = {"name": self.name, "labels": labels, "params": params}
            changed = {name: value for name, value in written.items() if value is not None}
            self.push_link(context, [msgspec.structs.replace(run, **changed)])
        self.log.info("Updated the run %s.", self.run_id)
        return self.run_id


class PaiLogRunMetricsOperator(PaiOperator):
    """Log one value for each metric of a run. If a value is logged twice, as by a retry, the last one counts.

    Takes ``pai_conn_id`` and ``region`` of :class:`~airflow_provider_pai._base.PaiOperator`, and, all
    templated:

    :param run_id: the PAI run (not the DAG run).
    :param metrics: ``{"accuracy": 0.93}``; a number may be text, as templates make it.
    :param step: the step all of them belong to.
    :return: the id of the run.
    """

    writes_runs = True
    template_fields: Sequence[str] = (*PaiOperator.template_fields, "run_id", "metrics", "step")
    template_fields_renderers = {"metrics": "json"}  # noqa: RUF012 - Airflow's own way

    def __init__(
        self,
        *,
        run_id: str,
        metrics: Mapping[str, float | str],
        step: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.metrics = metrics
        self.step = step
        self.check_parsed()

    def execute(self, context: Context) -> str:
        """Log the values in one request."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            if not isinstance(self.metrics, Mapping):
                raise PaiUsageError(f"metrics={self.metrics!r} is not a dict such as {{'accuracy': 0.93}}.")
            metrics = {key: _number(key, value, float) for key, value in self.metrics.items()}
            step = None if self.step is None else _number("step", self.step, int)
            self.hook.log_run_metrics(self.run_id, metrics, step=step)
            values = [Metric(key=key, value=value, step=step) for key, value in metrics.items()]
            self.push_link(context, [Run(run_id=self.run_id, metrics=values)])
        self.log.info("Logged %s to the run %s.", metrics, self.run_id)
        return self.run_id


class PaiPromoteRunOperator(PaiOperator):
    """Move a label such as ``champion:true`` to a run, so that one run always carries the label.

    The run gets the label first; then the runs that had it lose it. A retry after a failure at any point ends
    with this run alone. If only this run carries the label already, the task writes nothing. Other labels
    stay as they are. See :mod:`airflow_provider_pai.api.promotion`.

    Takes ``pai_conn_id`` and ``region`` of :class:`~airflow_provider_pai._base.PaiOperator`, and, all
    templated:

    :param run_id: the PAI run to promote, such as ``"{{ ti.xcom_pull('gate').run.run_id }}"``.
    :param labels: the labels to move, ``{"champion": "true"}`` or ``"champion:true"``.
    :param among: labels of the runs that share one champion, such as ``"model:digits"``. Without them the
        whole workspace shares one.
    :param experiment_id: the runs of this experiment share one champion.
    :return: ``{"run_id", "labels", "promoted", "demoted_run_ids"}``. The events of ``outlets`` get it too,
        and the run's metrics.
    """

    writes_runs = True
    template_fields: Sequence[str] = (
        *PaiOperator.template_fields,
        *("run_id", "labels", "among", "experiment_id"),
    )
    template_fields_renderers = {"labels": "json", "among": "json"}  # noqa: RUF012 - Airflow's own way

    def __init__(
        self,
        *,
        run_id: str,
        labels: Labels,
        among: Labels | None = None,
        experiment_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.labels = labels
        self.among = among
        self.experiment_id = experiment_id
        self.check_parsed()

    def execute(self, context: Context) -> dict[str, Any]:
        """Move the label."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            labels: Any = self.among
            among = RunQuery(labels=labels, **self.given(["experiment_id"]))
            done = self.hook.client().run(promote_run(self.run_id, self.labels, among=among))
            run = self.hook.get_run(self.run_id) if self.outlets else Run(run_id=self.run_id)
            self.push_link(context, [run])
            self.note(self.hook, written=[Run(run_id=run_id) for run_id in done.demoted_run_ids])
        if done.promoted or done.demoted_run_ids:
            demoted = ", ".join(done.demoted_run_ids) or "no run"
            self.log.info("%s carries %s now; lost by: %s.", done.run_id, done.labels, demoted)
        else:
            self.log.info("%s already carries %s, and no other run does.", done.run_id, done.labels)
        plain: dict[str, Any] = msgspec.to_builtins(done)
        self.tell_outlets(
            context, {**plain, "metrics": metrics_in(metrics_document(last_values(run.metrics))[0])}
        )
        return plain


def _number(name: str, value: Any, kind: type[int] | type[float]) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return kind(value)
    except ValueError:
        raise PaiUsageError(f"{name}={value!r} is not a number; check its template.") from None
