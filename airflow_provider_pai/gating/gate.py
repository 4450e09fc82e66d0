"""The gate: a task that checks metrics, and decides which tasks run after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_pai._base import FILTERS, RunFilterOperator, is_later
from airflow_provider_pai._compat import AirflowFailException, BranchMixIn
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.gating.rules import MetricRule, MetricRules, parse_rules
from airflow_provider_pai.gating.verdict import MissingBaseline, Selection, Verdict, judge

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context

__all__ = ["PaiRunGateOperator"]

NARROWING = [name for name in FILTERS if name not in ("workspace_id", "order_by")]
NEWEST_FIRST = "GmtCreateTime DESC"


class PaiRunGateOperator(RunFilterOperator, BranchMixIn):
    """Let the DAG continue only if runs are good enough, and say why.

    Takes the filters of :class:`~airflow_provider_pai._base.RunFilterOperator` but ``order_by``, and:

    :param metrics: what the metrics must be, ``{"accuracy": ">= 0.9", "loss": "< baseline * 0.95"}``; the
        grammar is that of :mod:`airflow_provider_pai.gating.rules`. Several rules for a metric go in a list.
    :param runs: the runs to judge, instead of filters: another task's output (runs of the sensor or the
        list, or run ids), or ids. The gate judges runs as that task pushed them, and looks ids up in PAI.
    :param baseline_labels: the labels of the baseline runs, such as ``"champion:true"``. A rule with
        ``baseline`` must hold against every baseline run.
    :param missing_baseline: what a rule with ``baseline`` does while no run carries these labels:
        ``"fail"``, or ``"pass"``, which lets the first champion through.
    :param select: which runs are judged: the ``"newest"``, ``"all"``, ``"any"``, or the best by a metric,
        ``"highest accuracy"`` or ``"lowest log_loss"``.
    :param on_fail: what to do if the gate did not pass: ``"skip"`` the tasks directly downstream (those
        further down follow their trigger rules), or ``"fail"`` this task, without a retry.
    :param follow_if_passed: ids of the only tasks or task groups directly downstream that run if the gate
        passed; by default all of them run.
    :param follow_if_failed: ids of the tasks or task groups directly downstream that run if the gate did
        not pass. Needs ``follow_if_passed``.
    :param max_runs: how many runs the gate judges at most, and how many baselines there may be. More fail
        the task.
    :return: ``Verdict.to_dict()``: passed, reason, select, run, baseline_run_ids and checks, whether the
        gate passed or not. See :mod:`airflow_provider_pai.gating.verdict`.
    :raises PaiUsageError: when the DAG is parsed: a text that is not a rule, or parameters that contradict
        each other.

    Teardown tasks are never skipped.
    """

    template_fields: Sequence[str] = (
        *(name for name in RunFilterOperator.template_fields if name != "order_by"),
        *("metrics", "runs", "baseline_labels"),
    )
    template_fields_renderers = {  # noqa: RUF012 - Airflow's own way
        **RunFilterOperator.template_fields_renderers,
        "metrics": "json",
        "runs": "json",
    }
    ui_color = "#fde2c8"
    inherits_from_skipmixin = True  # so that Airflow 3 skips tasks again that are cleared

    def __init__(
        self,
        *,
        metrics: MetricRules,
        runs: Any = None,
        baseline_labels: Mapping[str, str] | str | None = None,
        missing_baseline: MissingBaseline = "fail",
        select: str = "newest",
        on_fail: Literal["skip", "fail"] = "skip",
        follow_if_passed: str | Sequence[str] | None = None,
        follow_if_failed: str | Sequence[str] | None = None,
        max_runs: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metrics = metrics
        self.runs = runs
        self.baseline_labels = baseline_labels
        self.missing_baseline = missing_baseline
        self.select = select
        self.on_fail = on_fail
        self.follow_if_passed = _ids(follow_if_passed)
        self.follow_if_failed = _ids(follow_if_failed)
        self.max_runs = max_runs
        self._asks = runs is None  # also if the other task pushes None
        self._check_parameters(kwargs)

    def _check_parameters(self, given: Mapping[str, Any]) -> None:
        narrowing = [name for name in NARROWING if getattr(self, name) is not None]
        if narrowing and not self._asks:
            raise PaiUsageError(
                f"runs and {narrowing[0]} contradict each other: give runs, or filters to ask for them."
            )
        if self._asks and not narrowing:
            raise PaiUsageError(
                f"the gate has no runs to judge: give runs, or one of {', '.join(NARROWING)}."
            )
        if "order_by" in given:
            raise PaiUsageError("the gate has no order_by: select says which of the runs are judged.")
        for name, choices in (("missing_baseline", ("fail", "pass")), ("on_fail", ("skip", "fail"))):
            if getattr(self, name) not in choices:
                raise PaiUsageError(
                    f"{name}={getattr(self, name)!r} must be {choices[0]!r} or {choices[1]!r}."
                )
        if self.follow_if_failed is not None and (self.on_fail == "fail" or self.follow_if_passed is None):
            raise PaiUsageError("follow_if_failed goes with follow_if_passed, and not with on_fail='fail'.")
        Selection.parse(self.select)
        written = self.metrics
        if isinstance(written, Mapping) and is_later(written):
            written = {metric: rule for metric, rule in written.items() if not is_later(rule)}
        if not is_later(written) and (written or written == self.metrics):
            self._rules(written)

    def _rules(self, metrics: MetricRules) -> list[MetricRule]:
        rules = parse_rules(metrics)
        for rule in rules:
            if rule.baseline and self.baseline_labels is None:
                raise PaiUsageError(
                    f"metrics[{rule.metric!r}]: {str(rule)!r} needs a baseline: name its runs with "
                    "baseline_labels, such as 'champion:true'."
                )
        return rules

    def execute(self, context: Context) -> dict[str, Any]:
        """Judge the runs, log and push the verdict, and skip or fail as it says."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            self._check_followers()
            runs = self._found() if self._asks else self._given()
            verdict = self._judge(runs)
            chosen = verdict.run and verdict.run["run_id"]
            self.push_link(context, [run for run in runs if run.run_id == chosen])
        outcome = "passed" if verdict.passed else "did not pass"
        self.log.info("The gate %s: %s.\n\n%s\n", outcome, verdict.reason, verdict.table())
        if "ti" in context and self.do_xcom_push:  # Airflow 3 skips by an exception, so nothing is returned
            context["ti"].xcom_push("return_value", verdict.to_dict())
        if not verdict.passed and self.on_fail == "fail":
            raise AirflowFailException(f"The gate did not pass: {verdict.reason}.")
        followed = self.follow_if_passed if verdict.passed else self.follow_if_failed or []
        if followed is not None and self.downstream_task_ids:
            teardowns = [task.task_id for task in self.downstream_list if task.is_teardown]
            self.do_branch(context, [*followed, *teardowns])
        return verdict.to_dict()

    def _check_followers(self) -> None:
        for followed in (*(self.follow_if_passed or ()), *(self.follow_if_failed or ())):
            if followed not in self.downstream_task_ids and followed not in self.dag.task_group_dict:
                raise PaiUsageError(
                    f"the gate cannot follow {followed!r}, which is not directly downstream. Downstream are: "
                    f"{', '.join(sorted(self.downstream_task_ids)) or 'none'}."
                )

    def _judge(self, runs: list[Run]) -> Verdict:
        rules = self._rules(self.metrics)
        baselines: list[Run] = []
        if any(rule.baseline for rule in rules):
            baselines = self._list(workspace_id=self.workspace_id, labels=self.baseline_labels)
        flow = judge(
            runs, rules, baselines=baselines, select=self.select, missing_baseline=self.missing_baseline
        )
        return self.hook.client().run(flow)

    def _found(self) -> list[Run]:
        asked = {name: value for name, value in self.filters().items() if name != "order_by"}
        if self.select == "newest":
            return self.hook.list_runs(**asked, order_by=NEWEST_FIRST, max_runs=1)
        return self._list(**asked)

    def _list(self, **asked: Any) -> list[Run]:
        return self._bounded(self.hook.list_runs(**asked, order_by=NEWEST_FIRST, max_runs=self.max_runs + 1))

    def _given(self) -> list[Run]:
        return self._bounded(
            [self.hook.get_run(run) if isinstance(run, str) else _run_of(run) for run in _flat(self.runs)]
        )

    def _bounded(self, runs: list[Run]) -> list[Run]:
        if len(runs) > self.max_runs:
            raise PaiUsageError(
                f"there are more than {self.max_runs} runs; narrow the filters, or raise max_runs."
            )
        return runs


def _ids(followed: str | Sequence[str] | None) -> list[str] | None:
    return [followed] if isinstance(followed, str) else None if followed is None else list(followed)


def _flat(runs: Any) -> Iterator[str | Mapping[str, Any]]:
    """Yield single runs from the output of one task, of several tasks, or of a mapped one."""
    if isinstance(runs, str) and runs.lstrip().startswith(("[", "{")):
        raise PaiUsageError("runs came as text; write runs=task.output instead of a template.")
    if isinstance(runs, (str, Mapping)):
        yield runs
    elif isinstance(runs, Iterable):
        for part in runs:
            yield from _flat(part)
    elif runs is not None:
        raise PaiUsageError(f"runs holds {runs!r}, which is neither a run nor the id of one.")


def _run_of(record: Mapping[str, Any]) -> Run:
    """Return the run that a record describes in its compact form, ``Run.to_dict()``."""
    try:
        return Run.from_dict(record)
    except (AttributeError, TypeError, ValueError):  # PaiUsageError is a ValueError
        raise PaiUsageError(
            f"runs holds a record with {', '.join(map(str, record)) or 'nothing'}, which is not a run: give "
            "the output of PaiRunSensor or PaiListRunsOperator (without output_path), or run ids."
        ) from None
