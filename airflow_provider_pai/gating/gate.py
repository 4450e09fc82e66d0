"""The gate: a task that checks metrics, and decides which tasks run after it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_pai._base import FILTERS, RunFilterOperator, is_later
from airflow_provider_pai._compat import AirflowFailException, BranchMixIn, skip_instances
from airflow_provider_pai._xcom import small_enough
from airflow_provider_pai.api.errors import PaiError, PaiUsageError
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.api.parameters import whole_number
from airflow_provider_pai.gating.given import flat, run_of
from airflow_provider_pai.gating.history import HISTORY_KEY, gate_history
from airflow_provider_pai.gating.rules import MetricRule, MetricRules, parse_rules
from airflow_provider_pai.gating.verdict import Histories, MissingBaseline, Selection, Verdict, judge
from airflow_provider_pai.links import VERDICT_KEY, PaiVerdictLink, console_url, verdict_url
from airflow_provider_pai.ui.plugin import HAS_PAGE

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context

__all__ = ["PaiRunGateOperator"]

NARROWING = [name for name in FILTERS if name not in ("workspace_id", "order_by")]
CHOICES = {"missing_baseline": ("fail", "pass"), "on_fail": ("skip", "fail")}
FOLLOW = ("follow_if_passed", "follow_if_failed")
NEWEST_FIRST = "GmtCreateTime DESC"
CANNOT_SKIP = (
    "the gate is mapped, and Airflow does not reliably skip what follows a mapped task: tasks could run that "
    "the gate has to stop. Write on_fail='fail' without follow_if_passed and follow_if_failed, and let a "
    "task with trigger_rule='all_done' hand on the runs that passed. docs/gating.md shows it: 'Gating each "
    "of several runs'."
)


class PaiRunGateOperator(RunFilterOperator, BranchMixIn):
    """Let the DAG continue only if runs are good enough, and say why.

    Takes the filters of :class:`~airflow_provider_pai._base.RunFilterOperator` except ``order_by``, and the
    following. All are templated.

    :param metrics: what the metrics must be, ``{"accuracy": ">= 0.9", "loss": "< baseline * 0.95"}``; the
        grammar is that of :mod:`airflow_provider_pai.gating.rules`. Several rules for a metric go in a list.
    :param runs: the runs to judge, instead of filters: another task's output (runs of the sensor or the
        list, or run ids), or ids. The gate judges runs as that task pushed them, and looks ids up in PAI.
    :param baseline_labels: the labels of the baseline runs, such as ``"champion:true"``. A rule with
        ``baseline`` must hold against every baseline run.
    :param missing_baseline: what a rule with ``baseline`` does while no run carries these labels:
        ``"fail"``, or ``"pass"``, which lets the first champion through.
    :param select: which runs are judged: the ``"newest"`` by creation time, ``"all"``, ``"any"``, or the best
        by a metric, ``"highest accuracy"`` or ``"lowest log_loss"``. The checks come newest run first, and of
        equally good runs the newest is chosen.
    :param on_fail: what to do if the gate did not pass: ``"skip"`` the tasks directly downstream (those
        further down follow their trigger rules), or ``"fail"`` this task, without a retry. A mapped gate
        cannot skip, and needs ``"fail"`` if a task is downstream.
    :param follow_if_passed: ids of the only tasks or task groups directly downstream that run if the gate
        passed; by default all of them run.
    :param follow_if_failed: ids of the tasks or task groups directly downstream that run if the gate did
        not pass. Needs ``follow_if_passed``.
    :param max_runs: how many runs the gate judges at most, and how many baselines there may be. If there are
        more, the task fails, so that none is overlooked. With filters ``"newest"`` always asks for one run.
    :return: ``Verdict.to_dict()``: passed, reason, select, run, baseline_run_ids and checks, whether the
        gate passed or not. See :mod:`airflow_provider_pai.gating.verdict`.
    :raises PaiUsageError: when the DAG is parsed: a text that is not a rule, or parameters that contradict
        each other, or a gate in a mapped task group that would have to skip.

    Teardown tasks are never skipped.
    """

    template_fields: Sequence[str] = (
        *(name for name in RunFilterOperator.template_fields if name != "order_by"),
        *("metrics", "runs", "baseline_labels", "missing_baseline", "select", "on_fail"),
        *("follow_if_passed", "follow_if_failed", "max_runs"),
    )
    template_fields_renderers = {  # noqa: RUF012 - Airflow's own way
        **RunFilterOperator.template_fields_renderers,
        "metrics": "json",
        "runs": "json",
    }
    operator_extra_links = (*RunFilterOperator.operator_extra_links, *([PaiVerdictLink()] * HAS_PAGE))
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
        max_runs: int | str = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metrics = metrics
        self.runs = runs
        self.baseline_labels = baseline_labels
        self.missing_baseline = missing_baseline
        self.select = select
        self.on_fail = on_fail
        self.follow_if_passed = follow_if_passed
        self.follow_if_failed = follow_if_failed
        self.max_runs = max_runs
        self._follows = [name for name in FOLLOW if getattr(self, name) is not None]
        self._asks = runs is None  # also if the other task pushes None
        self._ordered = "order_by" in kwargs
        self.check_parsed()

    def _check_parameters(self) -> None:
        super()._check_parameters()
        narrowing = [name for name in NARROWING if getattr(self, name) is not None]
        if narrowing and not self._asks:
            raise PaiUsageError(
                f"runs and {narrowing[0]} contradict each other: give runs, or filters to ask for them."
            )
        if self._asks and not narrowing:
            raise PaiUsageError(
                f"the gate has no runs to judge: give runs, or one of {', '.join(NARROWING)}."
            )
        if self._ordered:
            raise PaiUsageError("the gate has no order_by: select says which of the runs are judged.")
        self._check_settings(is_later)
        written = self.metrics
        if isinstance(written, Mapping) and is_later(written):
            written = {metric: rule for metric, rule in written.items() if not is_later(rule)}
        if not is_later(written) and (written or written == self.metrics):
            self._rules(written)

    def _check_settings(self, later: Callable[[Any], bool] = lambda _: False) -> None:
        """Refuse settings that make no sense, except those that only the running task knows."""
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices and not later(value):
                raise PaiUsageError(f"{name}={value!r} must be {choices[0]!r} or {choices[1]!r}.")
        if self.follow_if_failed is not None and (self.on_fail == "fail" or self.follow_if_passed is None):
            raise PaiUsageError("follow_if_failed goes with follow_if_passed, and not with on_fail='fail'.")
        for name in self._follows:
            if not later(getattr(self, name)):
                self._ids(name)
        if not later(self.select):
            Selection.parse(self.select)
        if not later(self.max_runs):
            self._most()
        if self._may_skip and self.get_closest_mapped_task_group() is not None:
            raise PaiUsageError(CANNOT_SKIP)

    def _ids(self, name: str) -> list[str]:
        """Return the ids in ``follow_if_passed`` or ``follow_if_failed``, which was given."""
        given = getattr(self, name)
        ids = [given] if isinstance(given, str) else list(given) if isinstance(given, Collection) else [given]
        if not all(isinstance(one, str) for one in ids):
            raise PaiUsageError(f"{name}={given!r} must be the id of a task or task group, or a list of ids.")
        return ids

    def _most(self) -> int:
        is_digits = isinstance(self.max_runs, str) and self.max_runs.strip().isdecimal()
        return int(whole_number("max_runs", int(self.max_runs) if is_digits else self.max_runs))

    @property
    def _may_skip(self) -> bool:
        return self.on_fail == "skip" or self.follow_if_passed is not None

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
            self._check_settings()
            self._check_skipping(context)
            self._check_followers()
            runs = self._found() if self._asks else self._given()
            baselines = self._baselines()
            histories: Histories = {}
            verdict = self._judge(runs, baselines, histories)
            what = f"A verdict with {len(verdict.checks)} checks"
            small_enough(verdict.to_dict(), what, "Lower max_runs, or select one run.")
            chosen = verdict.run and verdict.run["run_id"]
            self.push_link(context, [run for run in runs if run.run_id == chosen])
            self.note(self.hook, read=runs, verdict=verdict)
        outcome = "passed" if verdict.passed else "did not pass"
        self.log.info("The gate %s: %s.\n\n%s\n", outcome, verdict.reason, verdict.table())
        if "ti" in context and self.do_xcom_push:  # Airflow 3 skips by an exception, so nothing is returned
            context["ti"].xcom_push("return_value", verdict.to_dict())
            if HAS_PAGE:
                self._keep_history(context, verdict, [*runs, *baselines], histories)
        if not verdict.passed and self.on_fail == "fail":
            raise AirflowFailException(f"The gate did not pass: {verdict.reason}.")
        branch = "follow_if_passed" if verdict.passed else "follow_if_failed"
        if (branch in self._follows or not verdict.passed) and self.downstream_task_ids:
            self._follow(context, self._ids(branch) if branch in self._follows else [])
        return verdict.to_dict()

    def _follow(self, context: Context, followed: Sequence[str]) -> None:
        teardowns = [task.task_id for task in self.downstream_list if task.is_teardown]
        try:
            self.do_branch(context, [*followed, *teardowns])
        except Exception as signal:  # Airflow 3 skips by an exception that holds the tasks
            if hasattr(signal, "tasks"):
                signal.tasks = [*signal.tasks, *self._mapped_instances(context, signal.tasks)]
            raise
        kept = {*teardowns, *followed}
        for group in filter(None, map(self.dag.task_group_dict.get, followed)):
            kept |= {task.task_id for task in group.roots}
        skipped = [task.task_id for task in self.downstream_list if task.task_id not in kept]
        if skipped:
            skip_instances(context, skipped)

    def _mapped_instances(
        self, context: Context, skipped: Sequence[tuple[str, int]]
    ) -> list[tuple[str, int]]:
        """Return the mapped instances of tasks that are skipped, which exist where their number is known.

        Airflow names the task alone. 3.0 and 3.1 would then run the instances.
        """
        ti: Any = context["ti"]
        mapped = {task.task_id for task in self.downstream_list if task.get_needs_expansion()}
        return [
            (task_id, index)
            for task_id, _ in skipped
            if task_id in mapped
            for index in range(ti.get_ti_count(dag_id=ti.dag_id, task_ids=[task_id], run_ids=[ti.run_id]))
        ]

    def _check_skipping(self, context: Context) -> None:
        """Refuse a gate that cannot skip, even for good runs: else only the first bad run would show it."""
        ti: Any = context.get("ti")
        if ti is None or ti.map_index < 0 or not self._may_skip:
            return
        # The DAG's own task: in Airflow 2 the instance of a mapped task does not know what is downstream.
        task: Any = self.dag.get_task(self.task_id)
        if not all(downstream.is_teardown for downstream in task.downstream_list):
            raise PaiUsageError(CANNOT_SKIP)

    def _check_followers(self) -> None:
        for followed in [followed for name in self._follows for followed in self._ids(name)]:
            group = self.dag.task_group_dict.get(followed)
            first = {task.task_id for task in group.roots} if group else {followed}
            if first.isdisjoint(self.downstream_task_ids):
                raise PaiUsageError(
                    f"the gate cannot follow {followed!r}, which is not directly downstream. Downstream are: "
                    f"{', '.join(sorted(self.downstream_task_ids)) or 'none'}."
                )

    def _baselines(self) -> list[Run]:
        if not any(rule.baseline for rule in self._rules(self.metrics)):
            return []
        baselines = self._list(labels=self.baseline_labels, **self.given(["workspace_id"]))
        self.note(self.hook, read=baselines)
        return baselines

    def _judge(self, runs: list[Run], baselines: list[Run], histories: Histories) -> Verdict:
        flow = judge(
            runs,
            self._rules(self.metrics),
            baselines=baselines,
            select=self.select,
            missing_baseline=self.missing_baseline,
            sought=self._sought(),
            histories=histories,
        )
        return self.hook.client().run(flow)

    def _keep_history(
        self, context: Context, verdict: Verdict, runs: list[Run], histories: Histories
    ) -> None:
        """Push what the page "PAI gates" shows beside the verdict, and let the gate's button lead there."""
        try:
            settings, urls = self.hook.settings, {}
            with suppress(PaiError):  # the connection's console_url may not be one
                urls = {run.run_id: console_url([run], settings.region, settings.console_url) for run in runs}
            kept = self.hook.client().run(gate_history(verdict, runs, histories, urls))
            context["ti"].xcom_push(HISTORY_KEY, kept)
            setattr(self, VERDICT_KEY, verdict_url(context["ti"]))
        except Exception:  # it only decorates
            self.log.warning("The page of gates does not show this verdict.", exc_info=True)

    def _sought(self) -> str:
        if not self._asks:
            return "runs is empty"
        asked = {name: value for name, value in self.filters().items() if name != "order_by"}
        if isinstance(self.labels, Mapping):
            asked["labels"] = ",".join(f"{key}:{value}" for key, value in self.labels.items())
        given = [f"{name}={str(value)!r}" for name, value in asked.items() if value is not None]
        return f"no run matches {', '.join(given)}"

    def _found(self) -> list[Run]:
        asked = {name: value for name, value in self.filters().items() if name != "order_by"}
        if self.select == "newest":
            return self.hook.list_runs(**asked, order_by=NEWEST_FIRST, max_runs=1)
        return self._list(**asked)

    def _list(self, **asked: Any) -> list[Run]:
        return self._bounded(self.hook.list_runs(**asked, order_by=NEWEST_FIRST, max_runs=self._most() + 1))

    def _given(self) -> list[Run]:
        return self._bounded(
            [self.hook.get_run(run) if isinstance(run, str) else run_of(run) for run in flat(self.runs)]
        )

    def _bounded(self, runs: list[Run]) -> list[Run]:
        if len(runs) > self._most():
            raise PaiUsageError(
                f"there are more than {self.max_runs} runs; narrow the filters, or raise max_runs."
            )
        return runs
