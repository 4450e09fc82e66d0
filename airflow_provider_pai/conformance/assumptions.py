"""An assumption about PAI, and the finding of its check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.conformance.scene import Scene

__all__ = [
    "AS_ASSUMED",
    "DIFFERENT",
    "NOT_DECIDABLE",
    "Assumption",
    "Finding",
    "as_assumed",
    "assumption",
    "different",
]

AS_ASSUMED, DIFFERENT, NOT_DECIDABLE = "as assumed", "different", "not decidable"


@dataclass(frozen=True)
class Finding:
    """The result of one check: one of the three verdicts, and what PAI showed."""

    verdict: str
    seen: str


def as_assumed(seen: str) -> Finding:
    """Return a finding after which nobody needs to change anything."""
    return Finding(AS_ASSUMED, seen)


def different(seen: str) -> Finding:
    """Return a finding after which a setting must be changed, or a limit of the provider matters."""
    return Finding(DIFFERENT, seen)


@dataclass(frozen=True)
class Assumption:
    """One row of ``docs/fidelity.md``, and its check."""

    name: str
    question: str
    assumed: str
    """What the provider assumes, and does."""
    setting: str
    """What to change if PAI behaves in another way."""
    check: Callable[[Scene], Flow[Finding]]


def assumption(
    question: str, *, assumed: str, setting: str = "Nothing."
) -> Callable[[Callable[[Scene], Flow[Finding]]], Assumption]:
    """Turn a flow into the check of an assumption. The assumption has the flow's name."""
    return lambda check: Assumption(check.__name__, question, assumed, setting, check)
