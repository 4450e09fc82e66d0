"""Stories: what happens in whole Airflows, of which few run at once, and which tests then look at.

A module with stories has ``VERSIONS`` and ``tell(version, airflow, pai)``, which plays one and returns what
is left of it. Its tests take ``story``, and run once for each version. The stories of a version share one
Airflow, in which they happen one after another, unless a module has ``SETTINGS`` of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from standalone import SETTINGS, whole_airflow

AT_ONCE = 3
"""How many Airflows run at once: they mostly wait."""

Told = dict[ModuleType, Any]
"""What is left of each story of an Airflow, or the error that ended it."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "story" in metafunc.fixturenames:
        metafunc.parametrize("story", metafunc.module.VERSIONS, indirect=True, scope="module")


@pytest.fixture(scope="session")
def stories(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[ModuleType, str], Future[Told]]]:
    """All stories that a test of this session wants, by module and version."""
    wanted = {
        (item.module, item.callspec.params["story"]): None
        for item in request.session.items
        if isinstance(item, pytest.Function) and "story" in item.fixturenames
    }
    together: dict[tuple[str, str], list[ModuleType]] = {}
    for module, version in wanted:
        together.setdefault((version, str(settings_of(module))), []).append(module)
    told: dict[tuple[ModuleType, str], Future[Told]] = {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (version, _), modules in together.items():
            future = pool.submit(tell, version, modules, tmp_path_factory.mktemp(version))
            told |= {(module, version): future for module in modules}
        yield told


def settings_of(module: ModuleType) -> dict[str, str]:
    """Return the settings of Airflow that a module's stories want."""
    return getattr(module, "SETTINGS", SETTINGS)


def tell(version: str, modules: list[ModuleType], home: Path) -> Told:
    """Run an Airflow, and play the stories of these modules in it."""
    told: Told = {}
    with whole_airflow(version, home, settings_of(modules[0])) as play:
        for module in modules:
            try:
                told[module] = play(module.tell)
            except Exception as error:  # its own tests fail, and the next story is played
                told[module] = error
    return told


@pytest.fixture(scope="module")
def story(request: pytest.FixtureRequest, stories: dict[tuple[ModuleType, str], Future[Told]]) -> Any:
    told = stories[request.module, request.param].result()[request.module]
    if isinstance(told, Exception):
        raise told
    return told
