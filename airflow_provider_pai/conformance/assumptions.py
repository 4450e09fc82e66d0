"""What an assumption about PAI is, and what may be found."""

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
    """What came of one assumption: one of the three verdicts, and what was seen."""

    verdict: str
    seen: str


def as_assumed(seen: str) -> Finding:
    """Say that nobody needs to change anything."""
    return Finding(AS_ASSUMED, seen)


def different(seen: str) -> Finding:
    """Say that a setting must be changed, or that a limit of the provider bites."""
    return Finding(DIFFERENT, seen)


@dataclass(frozen=True)
class Assumption:
    """One row of ``docs/fidelity.md``, and its check."""

    name: str
    question: str
    assumed: str
    """What the provider takes for granted, and does."""
    setting: str
    """What to change where PAI behaves otherwise."""
    check: Callable[[Scene], Flow[Finding]]


def assumption(
    question: str, *, assumed: str, setting: str = "Nowhere."
) -> Callable[[Callable[[Scene], Flow[Finding]]], Assumption]:
    """Make a flow the check of an assumption, which is called what the flow is called."""
    return lambda check: Assumption(check.__name__, question, assumed, setting, check)
