"""Check every assumption, one after another. An error in one check does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from airflow_provider_pai import api
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.conformance import answering, filtering, paging, registry, writing
from airflow_provider_pai.conformance.asking import NotDecidable
from airflow_provider_pai.conformance.assumptions import DIFFERENT, NOT_DECIDABLE, Assumption, Finding
from airflow_provider_pai.conformance.scene import Scene

__all__ = ["ASSUMPTIONS", "survey"]

_ALL = [
    item
    for module in (paging, filtering, writing, registry, answering)
    for item in vars(module).values()
    if isinstance(item, Assumption)
]
# new_experiment must run right after the experiment was created, so it comes first.
ASSUMPTIONS = sorted(_ALL, key=lambda item: item is not writing.new_experiment)
MOST_FAULTS = 3
"""The survey stops after so many faults in a row, each after the client's own retries."""


def survey(run: Callable[[Flow[Any]], Any], scene: Scene) -> Iterator[tuple[Assumption, Finding]]:
    """Yield the finding for each assumption.

    :raises PaiAuthenticationError: PAI does not accept the key, or no longer does.
    :raises PaiError: PAI does not answer.
    """
    faults = 0
    for assumption in ASSUMPTIONS:
        try:
            finding: Finding = run(assumption.check(scene))
            faults = 0
        except NotDecidable as error:
            finding = Finding(NOT_DECIDABLE, str(error))
        except api.PaiAuthenticationError:
            raise
        except api.PaiPermissionError as error:
            finding = Finding(NOT_DECIDABLE, f"no permission for {error.action}")
        except api.PaiError as error:
            faults += error.transient
            if faults == MOST_FAULTS:
                raise
            unreadable = isinstance(error, api.PaiResponseError) and not error.transient
            finding = Finding(DIFFERENT if unreadable else NOT_DECIDABLE, str(error))
        except Exception as error:  # an unforeseen answer of PAI stops no other check
            unforeseen = f"unforeseen, please report it: {type(error).__name__}: {error}"
            finding = Finding(NOT_DECIDABLE, unforeseen)
        yield assumption, finding
