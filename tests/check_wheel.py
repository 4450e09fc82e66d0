"""The wheel holds what it should, and works alone beside every supported Airflow: make check-wheel.

Not part of the suite: it wants `dist/`, and makes an environment for each Airflow into which goes nothing but
the wheel with what it declares to need, at the versions of that Airflow's time.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import airflow_provider_pai

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = "airflow_provider_pai"
VERSION = airflow_provider_pai.__version__
AIRFLOWS = sorted(path.stem.removeprefix("airflow-") for path in CHECKOUT.glob("constraints/airflow-*.txt"))
UV = Path(sys.executable).with_name("uv")
SECONDS = 300
LOOK = """
import json, pathlib, runpy, sys
import airflow, airflow_provider_pai.filesystems.oss, jsonschema

schema = pathlib.Path(airflow.__file__).with_name("provider_info.schema.json")
jsonschema.validate(airflow_provider_pai.get_provider_info(), json.loads(schema.read_text()))
errors = {}
for file in sys.argv[1:]:
    try:
        runpy.run_path(file)
    except Exception as error:
        errors[pathlib.Path(file).name] = f"{type(error).__name__}: {error}"
try:
    airflow_provider_pai.filesystems.oss.get_fs("pai_default", {})
    without_oss = ""
except Exception as error:
    without_oss = f"{type(error).__name__}: {error}"
told = {"airflow": airflow.__version__, "oss": without_oss}
print(json.dumps(told | {"from": airflow_provider_pai.__file__, "errors": errors}))
"""

pytestmark = pytest.mark.timeout(2 * SECONDS)


def only(pattern: str) -> Path:
    """The one file in `dist/` with such a name."""
    (found,) = CHECKOUT.glob(f"dist/{pattern}")
    return found


def content(names: list[str], folder: str) -> set[str]:
    """The files below a folder, and the names of what else is there."""
    return {name.removeprefix(f"{folder}/") if name.startswith(f"{folder}/") else name for name in names}


def package() -> set[str]:
    """The files that make up the package, as the checkout has them under version control."""
    listed = subprocess.run(
        ["git", "ls-files", PACKAGE], cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(listed.stdout.split())


def examples() -> set[str]:
    """The files of the example DAGs in the checkout."""
    return {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("dags_examples/*.py")}


def test_the_wheel_holds_the_package_and_its_metadata_and_nothing_else() -> None:
    with zipfile.ZipFile(only("*.whl")) as wheel:
        names = content(wheel.namelist(), f"{PACKAGE}-{VERSION}.dist-info")
        metadata = email.message_from_bytes(wheel.read(f"{PACKAGE}-{VERSION}.dist-info/METADATA"))
    assert {f"{PACKAGE}/py.typed", f"{PACKAGE}/ui/page/index.html"} <= names
    shipped = {name.replace("dags_examples", f"{PACKAGE}/example_dags") for name in examples()}
    metadata_files = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert names == package() | shipped | metadata_files
    assert (metadata["Name"], metadata["Version"]) == ("airflow-provider-pai", VERSION)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("Provides-Extra") == ["credentials", "oss", "ui"]


def test_the_sdist_holds_what_the_wheel_is_built_from_and_nothing_else() -> None:
    with tarfile.open(only("*.tar.gz")) as sdist:
        names = content([member.name for member in sdist if member.isfile()], f"{PACKAGE}-{VERSION}")
    beside = {"LICENSE", "README.md", "PKG-INFO", "hatch_build.py", "pyproject.toml", ".gitignore"}
    assert names == package() | examples() | beside


class Alone:
    """An environment with one Airflow, the wheel, and what it declares to need."""

    def __init__(self, airflow: str, folder: Path) -> None:
        self.airflow = airflow
        self._folder = folder
        self._bin = folder / "venv" / "bin"
        self.run(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv")
        # The constraints also pin the tests' tools; what only they need must not come along.
        constraints = CHECKOUT / "constraints" / f"airflow-{airflow}.txt"
        wanted = ["--constraints", constraints, f"apache-airflow=={airflow}", only("*.whl")]
        self.run(UV, "pip", "install", "--quiet", "--python", self._bin / "python", *wanted)

    def run(self, *command: str | Path) -> str:
        """Run a command far from the checkout, and return what it prints."""
        inherited = {name: value for name, value in os.environ.items() if "AIRFLOW_" not in name}
        settings = {
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW_HOME": str(self._folder / "home"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        done = subprocess.run(
            list(map(str, command)),
            cwd=self._folder,
            env=inherited | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def look(self, examples: list[Path]) -> dict[str, Any]:
        """Validate the metadata, import every example DAG, and tell what came of it."""
        told: dict[str, Any] = json.loads(self.run("python", "-c", LOOK, *examples).splitlines()[-1])
        return told

    def examples(self) -> list[Path]:
        """Copy the examples of the wheel into a folder, as its user would."""
        self.run("python", "-m", f"{PACKAGE}.example_dags", "dags")
        return sorted((self._folder / "dags").iterdir())

    def providers(self) -> dict[str, str]:
        """What `airflow providers list` shows, by package."""
        rows = self.run("airflow", "providers", "list", "--output", "json").splitlines()[-1]
        return {row["package_name"]: row["version"].strip() for row in json.loads(rows)}


RELATIVE = re.compile(r"\]\((?!https?://|#)")


def description(wheel: Path) -> str:
    """The text that a package index shows."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith("/METADATA")]
        return str(email.message_from_bytes(opened.read(name)).get_payload(decode=True), "utf-8")


def test_an_index_shows_the_readme_without_a_link_that_leads_nowhere() -> None:
    readme = (CHECKOUT / "README.md").read_text("utf-8")
    shown = description(only("*.whl"))
    assert RELATIVE.search(readme)
    assert not RELATIVE.search(shown)
    assert shown.splitlines()[0] == readme.splitlines()[0]


def test_once_the_repository_has_an_address_the_links_lead_there(tmp_path: Path) -> None:
    home = "https://example.com/pai/provider"
    for name in package() | examples() | {"LICENSE", "README.md", "hatch_build.py"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(CHECKOUT / name, tmp_path / name)
    project = (CHECKOUT / "pyproject.toml").read_text("utf-8")
    (tmp_path / "pyproject.toml").write_text(f'{project}\n[project.urls]\nRepository = "{home}"\n')
    built = [UV, "build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist", tmp_path]
    subprocess.run(built, check=True, timeout=SECONDS)
    (wheel,) = tmp_path.glob("dist/*.whl")
    shown = description(wheel)
    assert not RELATIVE.search(shown)
    assert f"({home}/blob/HEAD/docs/waiting.md" in shown
    assert f"({home}/raw/HEAD/docs/images/connection.png)" in shown


@pytest.mark.parametrize("airflow", AIRFLOWS)
def test_the_wheel_works_alone_beside(airflow: str, tmp_path: Path) -> None:
    alone = Alone(airflow, tmp_path)
    copied = alone.examples()
    assert {f"dags_examples/{path.name}" for path in copied} == examples()
    told = alone.look(copied)
    assert told["airflow"] == airflow
    assert Path(told["from"]).is_relative_to(tmp_path)
    assert "pip install 'airflow-provider-pai[oss]'" in told["oss"]
    needs_airflow_3 = {"start_on_evaluation.py", "gate_on_event.py"} if airflow < "3" else set()
    assert told["errors"].keys() == needs_airflow_3, told["errors"]
    assert alone.providers()["airflow-provider-pai"] == VERSION
