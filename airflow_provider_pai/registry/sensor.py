"""The sensor that waits for somebody's decision about a model's version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._base import PaiOperator
from airflow_provider_pai._compat import AirflowSkipException
from airflow_provider_pai.api.errors import PaiRejectedError
from airflow_provider_pai.registry.condition import (
    QUESTION,
    ModelVersions,
    VersionCondition,
    read_versions,
    with_version,
)
from airflow_provider_pai.waiting.sensor import WaitingSensor

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context

__all__ = ["PaiModelVersionSensor"]


class PaiModelVersionSensor(WaitingSensor):
    """Wait until a version of a model is approved, in PAI's console or by another task.

    Takes ``pai_conn_id`` and ``region`` of :class:`~airflow_provider_pai._base.PaiOperator`, the arguments of
    :class:`~airflow_provider_pai.waiting.sensor.WaitingSensor` (``poke_interval``, ``timeout``, ``mode``,
    ``deferrable``, ``fault_tolerance``, …), and, all templated:

    :param model_id: the model, such as ``"{{ ti.xcom_pull('register').model_id }}"``.
    :param model_name: the model's name, instead of its id; the model need not exist yet. If several models
        of this name have versions the task fails.
    :param version_name: the version, such as ``"{{ ti.xcom_pull('register').version_name }}"``, which has to
        exist. Without it any version of the model ends the wait.
    :param newer_than: only a version that was registered after the version of this name ends the wait.
    :param labels: only a version that carries these labels ends the wait; as a dict or as
        ``"key:value,key:value"``.
    :param approval: the awaited approval: ``Approved``, ``Rejected`` or ``Pending``.
    :param on_rejected: what to do once all versions that match were rejected: ``fail`` this task, without a
        retry, ``skip`` it, or ``wait`` for another version or another decision.
    :param workspace_id: overrides the connection's workspace, in which a name is looked up.
    :return: ``{"model_name", "model_id", "version_name", "approval_status", "uri", "run_id",
        "version_description", "labels", "metrics"}`` of the version; of several, the newest.
    :raises PaiUsageError: when the DAG is parsed: arguments that make no sense to PAI or contradict each
        other.

    All deferred waits for versions of the same model share one poll, which reads 100 versions in a request.
    """

    question = (*QUESTION, "on_rejected")
    result = "version"
    trigger_class = "airflow_provider_pai.triggers.PaiModelVersionTrigger"
    template_fields: Sequence[str] = (
        *PaiOperator.template_fields,
        *("model_id", "model_name", "version_name", "newer_than", "labels", "approval", "on_rejected"),
        "workspace_id",
    )
    template_fields_renderers = {"labels": "json"}  # noqa: RUF012 - Airflow's own way
    ui_color = "#e8f0dc"

    def __init__(
        self,
        *,
        model_id: str | None = None,
        model_name: str | None = None,
        version_name: str | None = None,
        newer_than: str | None = None,
        labels: Mapping[str, str] | str | None = None,
        approval: str = "Approved",
        on_rejected: str = "fail",
        workspace_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_id = model_id
        self.model_name = model_name
        self.version_name = version_name
        self.newer_than = newer_than
        self.labels = labels
        self.approval = approval
        self.on_rejected = on_rejected
        self.workspace_id = workspace_id
        self.check_parsed()

    def _check_parameters(self) -> None:
        known = self.known(self.question)
        for name in ("model_id", "model_name", "version_name", "newer_than"):
            if getattr(self, name) is not None:
                known.setdefault(name, STAND_INS[name])
        VersionCondition.of(**known)
        super()._check_parameters()

    @cached_property
    def condition(self) -> VersionCondition:
        """What ends the wait; fixed when the task starts."""
        return VersionCondition.of(**self.given(self.question))

    def find(self) -> ModelVersions:
        """Return the model's versions."""
        self.workspace_id = self.hook.named_workspace(self.workspace_id)  # from the first poll on
        client = self.hook.client()
        flow = read_versions(
            model_id=self.model_id, model_name=self.model_name, workspace_id=self.workspace_id
        )
        return client.run(with_version(client.run(flow), self.condition.named))

    def tell(self, context: Context, met: Any) -> None:
        """Let the task's button lead to PAI's console, and note the version for OpenLineage."""
        super().tell(context, met)
        self.note(self.hook, versions_read=[met])

    def met_by(self, found: ModelVersions) -> dict[str, Any] | None:
        """Return the version once it has the approval, or ``None``."""
        try:
            return self.condition.met_by(found)
        except PaiRejectedError as error:
            if self.on_rejected == "skip":
                raise AirflowSkipException(str(error)) from error
            raise

    def failed(self, event: Mapping[str, Any]) -> Exception:
        """Return what ends this task, as the trigger's event says."""
        if event["kind"] == PaiRejectedError.__name__ and self.on_rejected == "skip":
            return AirflowSkipException(event["error"])
        return super().failed(event)

    def summary(self, met: Mapping[str, Any]) -> str:
        """Return what was found, for people."""
        return (
            f"the version {met['version_name']} of {self.condition.model}, which is {met['approval_status']}"
        )


STAND_INS = {"model_id": "any", "model_name": "any", "version_name": "1.0.0", "newer_than": "1.0.0"}
"""Stand for what only the running task knows."""
