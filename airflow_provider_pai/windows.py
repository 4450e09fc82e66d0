"""Which runs belong to a DAG run: windows of time that mean the same on every Airflow.

Imports nothing of Airflow: a window is a template, which Airflow renders when the task runs.
"""

from __future__ import annotations

__all__ = ["midnight"]

# Scheduled by 2.10 a nightly DAG run has a logical date one interval before it is due, and no `run_after`.
# Started by hand or by an asset, 3 gives it no logical date unless somebody names one, and so no interval.
_STARTED = (
    "((dag_run.run_after | default(data_interval_end)) if dag_run.run_type in ('scheduled', 'backfill')"
    " else (logical_date | default(dag_run.run_after)))"
)
_DAY = f"{_STARTED}.astimezone(dag.timezone).date()"


def midnight(days: int = 0) -> str:
    """Return a template of the midnight with which the day of a DAG run begins, or one so many days later.

    The day of a DAG run is the day, in the DAG's time zone, on which its schedule is due, or on which it is
    started by hand or by an asset; a logical date that is given by hand names another day. That is so on
    every Airflow, and stays so when a task is retried or cleared::

        created_after=midnight(), created_before=midnight(+1)  # the day of the DAG run
        created_after=midnight(-1), created_before=midnight()  # the day before, such as for a nightly report
        created_after=midnight(-7)                             # the last week, and what came since

    :param days: how many days later; negative for earlier. A day that is not 24 hours long counts as one.
    """
    time = "macros.datetime.min.time()"
    return (
        f"{{{{ macros.datetime.combine({_DAY} + macros.timedelta(days={days:d}), {time}, dag.timezone) }}}}"
    )
