"""``@task.pai_run``: a Python task that becomes a run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_pai._compat import PythonDecoratedOperator, task_decorator_factory
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.lineage.reports import ReportsLineage
from airflow_provider_pai.links import PaiRunLink, push_link

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context
    from airflow_provider_pai.api.operations import Params
    from airflow_provider_pai.api.query import Labels

__all__ = ["pai_run_task"]

ARGUMENT = "pai_run"


class PaiRunDecoratedOperator(ReportsLineage, PythonDecoratedOperator):
    """Call a Python function while a run is open: its argument ``pai_run``.

    Takes what ``@task`` takes, and:

    :param experiment: the name of the experiment, which is created where there is none; templated.
    :param name: the run's name, by default the task's; templated.
    :param labels: the run's labels; templated.
    :param run_params: the run's params; templated.
    :param log_arguments: whether the function's arguments that are texts, numbers, true or false become
        params of the run too.
    :param scope: ``dag_run`` for one run that all tasks of a DAG run write to.
    :param strict: fail the task where logged values could not be delivered.
    :param pai_conn_id: the connection; templated.
    :return: what the function returns. The run's id goes to XCom under ``pai_run_id``.
    """

    template_fields: Sequence[str] = (
        *PythonDecoratedOperator.template_fields,
        *("experiment", "run_name", "labels", "run_params", "pai_conn_id"),
    )
    operator_extra_links = (PaiRunLink(),)
    custom_operator_name = "@task.pai_run"
    ui_color = "#fff1e6"

    def __init__(
        self,
        *,
        experiment: str,
        name: str | None = None,
        labels: Labels | None = None,
        run_params: Params | None = None,
        log_arguments: bool = True,
        scope: str = "task",
        strict: bool = False,
        pai_conn_id: str = "pai_default",
        **kwargs: Any,
    ) -> None:
        takes = inspect.signature(kwargs["python_callable"]).parameters
        if ARGUMENT not in takes and not any(each.kind == each.VAR_KEYWORD for each in takes.values()):
            raise PaiUsageError(
                f"{kwargs['python_callable'].__name__} has no argument {ARGUMENT}: add {ARGUMENT}=None, by "
                "which it gets its run."
            )
        super().__init__(**kwargs)
        self.experiment = experiment
        self.run_name = name
        self.labels = labels
        self.run_params = run_params
        self.log_arguments = log_arguments
        self.scope = scope
        self.strict = strict
        self.pai_conn_id = pai_conn_id

    def execute(self, context: Context) -> Any:
        """Open the run, call the function, and say how it ended."""
        from airflow_provider_pai.hooks import PaiHook, permanent_errors_fail_the_task

        hook = PaiHook(self.pai_conn_id)
        with permanent_errors_fail_the_task():
            run = hook.track(
                self.experiment,
                name=self.run_name,
                labels=self.labels,
                params={**self._scalars(), **(self.run_params or {})},
                scope=self.scope,
                strict=self.strict,
            )
        written = [Run(run_id=run.run_id, experiment_id=run.experiment_id)]
        push_link(self, context, hook, written)
        self.note(hook, written=written)
        with run:
            return self._call({**context, ARGUMENT: run})

    def _call(self, context: Any) -> Any:
        return super().execute(context)

    def _scalars(self) -> dict[str, Any]:
        """Return the function's arguments that a run can keep; the log names the others, once."""
        if not self.log_arguments:
            return {}
        given = (
            inspect.signature(self.python_callable).bind_partial(*self.op_args, **self.op_kwargs).arguments
        )
        kept = {name: value for name, value in given.items() if isinstance(value, (str, int, float, bool))}
        if left := [name for name in given if name not in kept and given[name] is not None]:
            self.log.info(
                "Not kept as params of the run, which are texts, numbers, true or false: %s.",
                ", ".join(left),
            )
        return kept


def pai_run_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> Any:
    """Make a task of a function that becomes a run, as ``@task.pai_run(experiment=…)``."""
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=PaiRunDecoratedOperator,
        **kwargs,
    )
