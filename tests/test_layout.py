"""The house stands as it was drawn: who imports whom, how large a room is, and which version this is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TESTS, uses_airflow

import airflow_provider_pai

PACKAGE = Path(airflow_provider_pai.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
EMULATOR = "airflow_provider_pai.emulator"

# Imports run downwards only: a room may import from the floors below its own, and from its own.
FLOORS = [
    ["api.errors", "api.signing"],
    ["api.arguments", "api.credentials", "api.models", "api.refusal"],
    ["api.model_records", "api.query", "api.reading", "api.network", "api.renewal", "api.tls", "api.wire"],
    ["api.flow"],
    ["api.by_name", "api.sources", "api.over_requests", "api.over_aiohttp"],
    ["api.parameters", "api.paging"],
    ["api.model_parameters"],
    ["api.registry_requests"],
    ["api.operations", "api.experiments", "api.model_versions", "api.registry"],
    ["api.client", "api.metrics", "api.promotion", "api.registration"],
    ["api"],
    ["connection_form", "example_dags", "example_dags.__main__", "ui", "ui.site", "windows"],
    [
        "connection",
        "_compat",
        "_xcom",
        "gating",
        "gating.given",
        "gating.rules",
        "registry",
        "tracking",
        "waiting",
    ],
    [
        *("_verbs", "connection_check", "ui.plugin", "tracking.identity", "tracking.termination"),
        *("filesystems", "filesystems.oss_errors", "filesystems.oss_file", "filesystems.paths"),
    ],
    [
        "registry.addresses",
        "registry.methods",
        "registry.records",
        "tracking.tracked_run",
        "filesystems.oss_storage",
    ],
    ["filesystems.oss"],
    ["tracking.start"],
    ["hooks", "links", "gating.verdict", "waiting.condition", "registry.condition"],
    ["gating.markdown", "lineage", "lineage.notes"],
    ["lineage.facets"],
    ["lineage.reports"],
    ["_base", "gating.history", "waiting.rate_limit", "waiting.listing"],
    [
        "waiting.handover",
        "waiting.client",
        "waiting.questions",
        "gating.approval",
        "gating.gate",
        "tracking.operators",
        "tracking.decorator",
        "registry.operators",
    ],
    ["waiting.poller", "waiting.run_questions", "waiting.sensor"],
    ["waiting.trigger"],
    ["waiting.run_poller", "waiting.announcing", "registry.poller", "registry.sensor"],
    ["waiting.events", "registry.trigger", "registry.events"],
    ["triggers", "operators"],
    ["sensors"],
    ["conformance", "conformance.asking", "conformance.interruption"],
    ["conformance.registered"],
    ["conformance.scene"],
    ["conformance.assumptions"],
    [f"conformance.{name}" for name in ("answering", "filtering", "paging", "registry", "writing")],
    ["conformance.survey"],
    ["conformance.__main__"],
]
WITHOUT_AIRFLOW = (
    "_verbs",
    "_xcom",
    "api",
    "connection",
    "emulator",
    "gating.given",
    "gating.history",
    "gating.markdown",
    "gating.rules",
    "gating.verdict",
    "lineage.notes",
    "tracking.identity",
    "tracking.termination",
    "tracking.tracked_run",
    "registry.condition",
    "registry.methods",
    "registry.records",
    "waiting.condition",
    "windows",
)
OUTSIDE = ("airflow_provider_pai", "airflow_provider_pai.api", "airflow_provider_pai.testing")
"""What gathers the rooms, or stands beside them."""
FLOOR = {f"airflow_provider_pai.{name}": level for level, names in enumerate(FLOORS) for name in names}


def name_of(module: Path) -> str:
    parts = module.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(module: Path) -> Iterator[str]:
    """The absolute name of everything a module imports anywhere, functions and type checking included."""
    package = name_of(module).split(".")
    if module.stem != "__init__":
        package = package[:-1]
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def ours(module: Path) -> set[str]:
    """The modules of this package that a module imports."""
    known = {name_of(other) for other in MODULES}
    found = set(imports(module)) & known
    # `from package import module` names the package too, which is not meant then.
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def under(module: Path, *names: str) -> bool:
    return any(
        name_of(module) == f"airflow_provider_pai.{name}" or f".{name}." in f"{name_of(module)}."
        for name in names
    )


each_module = pytest.mark.parametrize("module", MODULES, ids=name_of)


@each_module
def test_the_api_and_the_rules_import_no_airflow(module):
    if under(module, *WITHOUT_AIRFLOW):
        assert not [name for name in imports(module) if name.split(".")[0] == "airflow"]


@each_module
def test_only_compat_knows_which_airflow_this_is(module):
    if not under(module, "_compat"):
        assert not [
            name for name in imports(module) if name.startswith(("airflow.version", "airflow.__version__"))
        ]


@each_module
def test_the_emulator_shares_nothing_with_the_rest(module):
    if name_of(module).startswith(EMULATOR):
        outside = {name for name in ours(module) if not name.startswith(EMULATOR)}
    else:
        outside = (
            {name for name in ours(module) if name.startswith(EMULATOR)}
            if not under(module, "testing")
            else set()
        )
    assert not outside


@each_module
def test_imports_run_downwards_only(module):
    if name_of(module).startswith(EMULATOR) or name_of(module) in OUTSIDE:
        return
    level = FLOOR[name_of(module)]  # a new module needs a floor
    assert not {name for name in ours(module) if FLOOR.get(name, -1) > level}


@each_module
def test_the_api_imports_nothing_from_above(module):
    if under(module, "api"):
        assert {name for name in ours(module) if not name.startswith("airflow_provider_pai.api")} == set()


def test_no_import_leads_back_to_where_it_began():
    above = {name_of(module): ours(module) - {"airflow_provider_pai"} for module in MODULES}
    leads_to = {name: set(names) for name, names in above.items() if not name.startswith(EMULATOR)}
    for _ in leads_to:
        for names in leads_to.values():
            for other in list(names):
                names |= leads_to.get(other, set())
    api = "airflow_provider_pai.api"  # its __init__ gathers its own modules, which is no way back
    assert [name for name, names in leads_to.items() if name in names and not name.startswith(api)] == []


@each_module
def test_no_module_is_longer_than_a_reader_bears(module):
    assert len(module.read_text("utf-8").splitlines()) <= 350


@each_module
def test_the_leaves_import_nothing_of_ours(module):
    if under(module, "api.errors", "api.signing"):
        assert not ours(module)


def test_a_test_that_is_said_to_need_no_airflow_loads_none():
    modules = [path.stem for path in sorted(TESTS.glob("test_*.py")) if not uses_airflow(path)]
    assert "test_client" in modules
    script = f"import sys; sys.path.insert(0, {str(TESTS)!r}); import {', '.join(modules)}; "
    script += "print([name for name in sys.modules if name.split('.')[0] == 'airflow'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_everything_the_api_exports_is_there():
    from airflow_provider_pai import api

    for name in api.__all__:
        assert getattr(api, name).__module__.startswith("airflow_provider_pai.api") or name in (
            "Outcome",
            "Flow",
        )
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        api.Nothing  # noqa: B018


def test_the_classifiers_name_every_python_that_an_airflow_admits():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    heads = [path.read_text("utf-8").splitlines()[0] for path in ROOT.glob("constraints/airflow-*.txt")]
    admitted = {version for head in heads for version in re.findall(r"\b3\.\d\d\b", head)}
    assert set(re.findall(r'"Programming Language :: Python :: (3\.\d+)"', project)) == admitted
    assert f'requires-python = ">={min(admitted)}"' in project


def test_the_newest_entry_of_the_changelog_is_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert versions[0] == airflow_provider_pai.__version__


def test_the_emulator_and_the_api_share_no_name_of_a_class():
    def classes(room: str) -> set[str]:
        found = [ast.parse(path.read_text("utf-8")).body for path in (PACKAGE / room).rglob("*.py")]
        return {node.name for body in found for node in body if isinstance(node, ast.ClassDef)}

    assert classes("emulator") & classes("api") == set()
