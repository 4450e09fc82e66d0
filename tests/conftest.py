"""What several test modules share: a way to run flows without IO, and the fixture ``pai_emulator``."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from airflow_provider_pai.api import Flow, Outcome, Request

settings.register_profile("suite", deadline=None, max_examples=150)
settings.register_profile("quick", deadline=None, max_examples=15)  # make test
settings.load_profile("suite")

TESTS = Path(__file__).parent
Answers = Callable[[Request], Outcome] | Iterable[Outcome]


def pytest_configure(config: pytest.Config) -> None:
    # An installed package registers its own plugin (entry point pytest11); a bare checkout cannot.
    if not config.pluginmanager.has_plugin("pai_emulator"):
        config.pluginmanager.import_plugin("airflow_provider_pai.testing")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Cases that come from a set have no order of their own, and the processes must agree on one.
        items.sort(key=lambda item: (item.location[:2], item.nodeid))
    if named := [item.nodeid for item in items if " object at 0x" in item.nodeid]:
        raise pytest.UsageError(f"{named[0]} is named after an address: give the case an id.")
    for item in items:
        if item.path.parent == TESTS and not uses_airflow(item.path):
            item.add_marker("any_airflow")


@functools.cache
def uses_airflow(module: Path) -> bool:
    """Whether a test module needs Airflow: if so it imports `airflow_db`, which must come before Airflow."""
    return re.search("^from airflow_db import", module.read_text("utf-8"), re.MULTILINE) is not None


def drive(flow: Flow[Any], answers: Answers, sent: list[Request] | None = None) -> Any:
    """Answer a flow's requests until it returns, without waiting; ``sent`` takes the requests."""
    answer = answers if callable(answers) else _one_after_another(answers)
    outcome: Any = None
    while True:
        try:
            request = flow.send(outcome)
        except StopIteration as end:
            return end.value
        if sent is not None:
            sent.append(request)
        outcome = answer(request)


def _one_after_another(outcomes: Iterable[Outcome]) -> Callable[[Request], Outcome]:
    remaining = iter(outcomes)

    def answer(request: Request) -> Outcome:
        outcome = next(remaining, None)
        assert outcome is not None, f"one request more than expected: {request}"
        return outcome

    return answer


@pytest.fixture(scope="session")
def play() -> Callable[..., Any]:
    """:func:`drive`, for modules that cannot import this one."""
    return drive
