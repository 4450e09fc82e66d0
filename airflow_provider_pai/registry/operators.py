"""Tasks that write to PAI's model registry: register a version of a model, and approve or reject one."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_pai._base import PaiOperator, is_later, without_later
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.flow import begun
from airflow_provider_pai.api.model_parameters import METRICS_BYTES, check_model_name, check_uri
from airflow_provider_pai.api.models import Run, last_values
from airflow_provider_pai.api.query import Labels
from airflow_provider_pai.api.registration import (
    UNDECIDED,
    Registration,
    metrics_document,
    metrics_in,
    register_model_version,
    set_model_version_approval,
)
from airflow_provider_pai.gating.given import flat, run_of
from airflow_provider_pai.gating.verdict import Verdict
from airflow_provider_pai.registry.addresses import of_airflow, pai_uri
from airflow_provider_pai.registry.records import RUN_LABEL, version_record
from airflow_provider_pai.tracking.start import check_labels, origin_of

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context

__all__ = ["PaiRegisterModelVersionOperator", "PaiSetModelVersionApprovalOperator"]

ANYWHERE = "https://example.com/"
"""Stands for an address that only the running task knows."""
MOST_NAMED = 20
"""How many metrics a log line names."""


class PaiRegisterModelVersionOperator(PaiOperator):
    """Register a version of a model, which a person or a task then approves.

    The model is found by its name, or created. A task that is repeated, by a retry, a clear or after it was
    killed, finds its version again, by the label ``pai_run_id`` where it comes from a run, else by the label
    ``airflow_task``, and by the uri. A version that was there stays as it is, with its approval.

    Takes ``pai_conn_id`` and ``region`` of :class:`~airflow_provider_pai._base.PaiOperator`, and, all
    templated:

    :param model_name: the model's name. If several models of this name have versions the task fails.
    :param uri: where its files are: ``https://…``, ``oss://bucket.oss-cn-hangzhou.aliyuncs.com/key``, or a
        path of Airflow's object storage, ``oss://conn@bucket/key`` or an ``ObjectStoragePath``, whose
        connection has the endpoint.
    :param verdict: the output of a :class:`~airflow_provider_pai.gating.gate.PaiRunGateOperator`: the version
        comes from the run that the gate chose. If the gate did not pass, this task fails.
    :param runs: instead of a verdict, the run that the version comes from: another task's output or a run
        id. There has to be exactly one.
    :param approval: ``Pending``, or ``Approved`` or ``Rejected`` at once.
    :param version_name: such as ``1.0.0``; without it PAI counts up: 0.1.0, 0.2.0.
    :param version_description: by default the gate's reason.
    :param format_type: such as TorchScript, SavedModel or ONNX.
    :param framework_type: such as Pytorch or TensorFlow.
    :param labels: of the version, as a dict or as ``"key:value,key:value"``.
    :param workspace_id: overrides the connection's workspace.
    :return: ``{"model_name", "model_id", "version_name", "approval_status", "uri", "run_id"}``. The last is
        None where the version comes from no run.

    The version gets the run's metrics, the last value of each. Where they exceed the 8,192 bytes that PAI
    takes, the metrics of the gate's rules come first, and the log names what was left out. The events of
    ``outlets`` get what is returned, and the metrics.
    """

    template_fields: Sequence[str] = (
        *PaiOperator.template_fields,
        *("model_name", "uri", "verdict", "runs", "approval", "version_name", "version_description"),
        *("format_type", "framework_type", "labels", "workspace_id"),
    )
    template_fields_renderers = {"labels": "json", "verdict": "json", "runs": "json"}  # noqa: RUF012 - Airflow's own way

    def __init__(
        self,
        *,
        model_name: str,
        uri: Any,
        verdict: Mapping[str, Any] | None = None,
        runs: Any = None,
        approval: str = UNDECIDED,
        version_name: str | None = None,
        version_description: str | None = None,
        format_type: str | None = None,
        framework_type: str | None = None,
        labels: Labels | None = None,
        workspace_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_name = model_name
        self.uri = uri
        self.verdict = verdict
        self.runs = runs
        self.approval = approval
        self.version_name = version_name
        self.version_description = version_description
        self.format_type = format_type
        self.framework_type = framework_type
        self.labels = labels
        self.workspace_id = workspace_id
        self.check_parsed()

    def _check_parameters(self) -> None:
        if self.verdict is not None and self.runs is not None:
            raise PaiUsageError("verdict and runs contradict each other: the verdict names the run it chose.")
        if not is_later(self.model_name):
            check_model_name(self.model_name)
        uri: Any = without_later(self.uri)
        if uri is not None and not of_airflow(uri):
            check_uri(uri)
        approval: Any = self.approval
        if approval is not None and is_later(approval):
            approval = UNDECIDED
        known = {name: without_later(value) for name, value in self._fields().items()}
        begun(self._flow(ANYWHERE, {RUN_LABEL: "any"}, {**known, "approval_status": approval})("any"))

    def _fields(self) -> dict[str, Any]:
        """Return the fields that the version gets whether or not it comes from a run."""
        names = ("version_name", "version_description", "format_type", "framework_type", "labels")
        return {name: getattr(self, name) for name in names}

    def _flow(self, uri: str, found_by: dict[str, str], fields: dict[str, Any]) -> Any:
        """Return what makes the registration's flow for a model.

        :raises PaiUsageError: ``labels`` has a label that the provider sets itself.
        """
        labels = check_labels(fields["labels"] or {})
        if RUN_LABEL in labels:
            raise PaiUsageError(f"The label {RUN_LABEL!r} is set by the provider; name the run with runs.")
        if self.approval is None:
            raise PaiUsageError(
                f"approval is None. Leave it out for {UNDECIDED!r}, or check where it came from."
            )
        return functools.partial(
            register_model_version, uri=uri, found_by=found_by, **{**fields, "labels": labels}
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Register the version, or find it."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            run, first, reason = self._run()
            metrics, left = metrics_document(last_values(run.metrics), first) if run else (None, [])
            fields = {**self._fields(), "approval_status": self.approval, "metrics": metrics}
            fields["version_description"] = self.version_description or reason
            if run:
                fields |= {"source_type": "Custom", "source_id": run.run_id}
            found_by = {RUN_LABEL: run.run_id} if run else origin_of(context).identity.labels()
            flow = self._flow(pai_uri(self.uri), found_by, fields)
            begun(flow("any"))  # refuses wrong arguments before there is a model
            model_id = self.hook.get_or_create_model(self.model_name, **self.given(["workspace_id"]))
            done: Registration = self.hook.client().run(flow(model_id))
            self.push_link(context, [run] if run else [])
        self._log_outcome(model_id, done, metrics, left)
        version = done.version
        result = version_record(self.model_name, model_id, version)
        result["run_id"] = run.run_id if run else None  # an answer that was lost left the labels out
        told = {**result, "metrics": metrics_in(metrics)}
        self.tell_outlets(context, told)
        files = [version.uri] if version.uri else []
        self.note(self.hook, files_read=files, versions=[{**told, "metrics": metrics_in(version.metrics)}])
        return result

    def _run(self) -> tuple[Run | None, list[str], str | None]:
        """Return the run that the version comes from, the metrics that were judged, and the gate's reason."""
        if self.verdict is not None:
            verdict = Verdict.of(self.verdict)
            if not verdict.passed or verdict.run is None:
                raise PaiUsageError(f"The gate did not pass, so nothing is registered: {verdict.reason}.")
            self.note(self.hook, verdict=verdict)
            return run_of(verdict.run), [check.metric for check in verdict.checks], verdict.reason
        if self.runs is None:
            return None, [], None
        runs = list(flat(self.runs))
        if len(runs) != 1:
            raise PaiUsageError(
                f"runs holds {len(runs) or 'no'} runs, and a version comes from one: give one run, or map "
                "this task over them with .expand(runs=…)."
            )
        run = runs[0]
        return self.hook.get_run(run) if isinstance(run, str) else run_of(run), [], None

    def _log_outcome(
        self, model_id: str, done: Registration, metrics: dict[str, Any] | None, left: Sequence[str]
    ) -> None:
        version = done.version
        self.log.info(
            "%s the version %s of the model %r (%s), which is %s.",
            "Registered" if done.created else "Found",
            version.version_name,
            self.model_name,
            model_id,
            version.approval_status or UNDECIDED,
        )
        if left and done.created:
            self.log.warning(
                "The version lacks these metrics of the run, which are not finite numbers, or exceed the "
                "%s bytes that PAI takes: %s%s.",
                f"{METRICS_BYTES:,}",
                ", ".join(left[:MOST_NAMED]),
                f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else "",
            )
        if not done.created and metrics and metrics_in(version.metrics) not in ({}, metrics_in(metrics)):
            self.log.warning(
                "The run has other metrics now than the version %s, which was registered, and perhaps "
                "approved, before. The version stays as it is. If the model was trained again, register it "
                "under another uri.",
                version.version_name,
            )


class PaiSetModelVersionApprovalOperator(PaiOperator):
    """Approve or reject a version of a model, unless somebody else has decided about it meanwhile.

    If the version already has the requested approval, as after a retry, the task succeeds and changes
    nothing. If it has neither that nor the expected one, the task fails without a retry, and the error names
    the decision. PAI cannot change a version on a condition, so a decision that somebody makes between the
    task's reading and its writing is lost.

    Takes ``pai_conn_id`` and ``region`` of :class:`~airflow_provider_pai._base.PaiOperator`, and, all
    templated:

    :param model_id: the model, such as ``"{{ ti.xcom_pull('register').model_id }}"``.
    :param version_name: the version, such as ``"{{ ti.xcom_pull('register').version_name }}"``.
    :param approval: ``Approved``, ``Rejected``, or ``Pending`` to take a decision back.
    :param reason: is added to the version's description, after the decision.
    :param expected: the approval that the version must have before: ``Pending``, ``Approved``, ``Rejected``,
        or ``any`` to overwrite every decision.
    :return: ``{"model_id", "version_name", "approval_status", "before", "changed"}``.
    """

    template_fields: Sequence[str] = (
        *PaiOperator.template_fields,
        *("model_id", "version_name", "approval", "reason", "expected"),
    )

    def __init__(
        self,
        *,
        model_id: str,
        version_name: str,
        approval: str,
        reason: str | None = None,
        expected: str = UNDECIDED,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model_id = model_id
        self.version_name = version_name
        self.approval = approval
        self.reason = reason
        self.expected = expected
        self.check_parsed()

    def _check_parameters(self) -> None:
        approval, expected = (
            UNDECIDED if is_later(value) else value for value in (self.approval, self.expected)
        )
        begun(
            set_model_version_approval(
                "any", "any", approval, reason=without_later(self.reason), expected=expected
            )
        )

    def execute(self, context: Context) -> dict[str, Any]:
        """Set the approval."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            decision = self.hook.set_model_version_approval(
                self.model_id,
                self.version_name,
                self.approval,
                reason=self.reason,
                expected=self.expected,
            )
            self.push_link(context, [])
        self.log.info(
            "The version %s of the model %s is %s%s.",
            self.version_name,
            self.model_id,
            decision.approval_status,
            f", and was {decision.before}" if decision.changed else " already",
        )
        plain: dict[str, Any] = msgspec.to_builtins(decision)
        result = {"model_id": self.model_id, **plain}
        self.note(self.hook, versions=[result])
        return result
