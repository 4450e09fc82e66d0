"""Runs as another task hands them on: the output of one task, of several, or of a mapped one; or run ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.models import Run

__all__ = ["flat", "run_of"]


def flat(runs: Any) -> Iterator[str | Mapping[str, Any]]:
    """Yield single runs from the output of one task, of several tasks, or of a mapped one."""
    if isinstance(runs, str) and runs.lstrip().startswith(("[", "{")):
        raise PaiUsageError("runs came as text; write runs=task.output instead of a template.")
    if isinstance(runs, (str, Mapping)):
        yield runs
    elif isinstance(runs, Iterable):
        for part in runs:
            yield from flat(part)
    elif runs is not None:
        raise PaiUsageError(f"runs holds {runs!r}, which is neither a run nor a run id.")


def run_of(record: Mapping[str, Any]) -> Run:
    """Return the run that a record describes in its compact form, ``Run.to_dict()``."""
    try:
        return Run.from_dict(record)
    except (AttributeError, TypeError, ValueError):  # PaiUsageError is a ValueError
        raise PaiUsageError(
            f"runs holds a record with {', '.join(map(str, record)) or 'nothing'}, which is not a run: give "
            "the output of PaiRunSensor or PaiListRunsOperator (without output_path), or run ids."
        ) from None
