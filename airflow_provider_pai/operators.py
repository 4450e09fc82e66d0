"""Operators over PAI's runs and its model registry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._base import RunFilterOperator
from airflow_provider_pai._compat import object_storage_path
from airflow_provider_pai._xcom import small_enough
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.links import PaiRunLink
from airflow_provider_pai.registry.operators import (
    PaiRegisterModelVersionOperator,
    PaiSetModelVersionApprovalOperator,
)
from airflow_provider_pai.tracking.operators import (
    PaiCreateExperimentOperator,
    PaiCreateRunOperator,
    PaiLogRunMetricsOperator,
    PaiPromoteRunOperator,
    PaiUpdateRunOperator,
)

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context
    from airflow_provider_pai.api import Run
    from airflow_provider_pai.gating.approval import PaiApprovalOperator
    from airflow_provider_pai.gating.gate import PaiRunGateOperator

__all__ = [
    "PaiApprovalOperator",
    "PaiCreateExperimentOperator",
    "PaiCreateRunOperator",
    "PaiListRunsOperator",
    "PaiLogRunMetricsOperator",
    "PaiPromoteRunOperator",
    "PaiRegisterModelVersionOperator",
    "PaiRunGateOperator",
    "PaiRunLink",
    "PaiSetModelVersionApprovalOperator",
    "PaiUpdateRunOperator",
]


def __getattr__(name: str) -> Any:
    # Only when it is asked for: Airflow 3.0 loads all of its models and an HTTP library for any branch.
    if name == "PaiRunGateOperator":
        from airflow_provider_pai.gating import gate

        return gate.PaiRunGateOperator
    if name == "PaiApprovalOperator":  # before Airflow 3.1 there is none
        from airflow_provider_pai.gating import approval

        return approval.PaiApprovalOperator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class PaiListRunsOperator(RunFilterOperator):
    """List runs and push them to XCom, ready to map over.

    Takes the filters of :class:`~airflow_provider_pai._base.RunFilterOperator`, and:

    :param verbose: False leaves labels, params and metrics out, unless labels are asked for.
    :param page_size: how many runs one request asks for; templated.
    :param max_runs: list at most this many, the first in ``order_by``: the oldest ones, by default.
        ``order_by="GmtCreateTime DESC"`` lists the newest. If more runs match, the log says so. Templated.
    :param output_path: write the runs there as JSON Lines instead, to any path Airflow's object storage
        knows (``oss://pai_default@bucket/runs.jsonl``, ``file:///…``); templated. If writing fails, nothing
        is left there; what was there before stays where the path is of ``oss://``.
    :return: ``[run.to_dict(), …]``, or ``{"path": output_path, "count": number of runs}``.
    :raises PaiUsageError: the list is too large for XCom and no ``output_path`` is given.
    """

    template_fields: Sequence[str] = (
        *RunFilterOperator.template_fields,
        *("page_size", "max_runs", "output_path"),
    )

    def __init__(
        self,
        *,
        verbose: bool = True,
        page_size: int | str = 100,
        max_runs: int | str | None = None,
        output_path: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.verbose = verbose
        self.page_size = page_size
        self.max_runs = max_runs
        self._max_runs_given = max_runs is not None
        self.output_path = output_path
        self.check_parsed()

    def _check_parameters(self) -> None:
        super()._check_parameters()
        if hasattr(self.verbose, "resolve") or isinstance(self.verbose, str):
            raise PaiUsageError(f"verbose={self.verbose!r} must be True or False; it is not templated.")

    def execute(self, context: Context) -> list[dict[str, Any]] | dict[str, Any]:
        """List, and push the runs or where they were written."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            most = _number(self.max_runs)
            if self._max_runs_given and most is None:
                raise PaiUsageError(
                    "max_runs is None. Leave it out to list all, or check where it came from."
                )
            asked: dict[str, Any] = {
                "verbose": self.verbose,
                "page_size": _number(self.page_size),
                # One more than is pushed: if it comes, more runs match.
                "max_runs": most + 1 if type(most) is int and most > 0 else most,
                **self.filters(),
            }
            if self.output_path is not None:
                return self._write(self.output_path, self.hook.iter_runs(**asked), most, context)
            runs = self.hook.list_runs(**asked)
            more = most is not None and len(runs) > most
            runs = runs[:most]
            self.push_link(context, runs)
            self._log_count("Found", len(runs), more, "")
            return small_enough(
                [run.to_dict() for run in runs],
                f"{len(runs)} runs",
                "Give output_path to write them to object storage, narrow the filters, or set max_runs or "
                "verbose=False.",
            )

    def _log_count(self, verb: str, count: int, more: bool, to: str) -> None:
        self.log.info("%s %d run%s%s.", verb, count, "" if count == 1 else "s", to)
        if more:
            self.log.info(
                "More runs match than max_runs=%s; these are the first in the order %r. For others raise "
                "max_runs, narrow the filters, or change order_by.",
                self.max_runs,
                self.order_by,
            )

    def _write(
        self, output_path: str, runs: Iterator[Run], most: int | None, context: Context
    ) -> dict[str, Any]:
        path = object_storage_path(output_path)
        if path.protocol in ("file", "local", ""):
            path.parent.mkdir(parents=True, exist_ok=True)
        count = 0
        opened = path.open("wb")
        try:
            with opened as file:
                for run in islice(runs, most):
                    if count == 0:
                        self.push_link(context, [run])
                    file.write(json.dumps(run.to_dict(), ensure_ascii=False).encode() + b"\n")
                    count += 1
                more = next(runs, None) is not None
        except BaseException:
            self._remove_half(path)
            raise
        if count == 0:
            self.push_link(context, [])
        self.note(self.hook, files_written=[output_path])
        self._log_count("Wrote", count, more, f" to {output_path}")
        return {"path": output_path, "count": count}

    def _remove_half(self, path: Any) -> None:
        """Remove what was written before an error, which nobody must take for a list. The error stays."""
        try:
            if not getattr(path.fs, "whole_or_not_at_all", False):
                path.unlink(missing_ok=True)
        except Exception as error:
            self.log.warning(
                "Half a list may be left at %s, which could not be removed (%s).", path, type(error).__name__
            )


def _number(value: Any) -> Any:
    """Return the number that a template wrote as text."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value
