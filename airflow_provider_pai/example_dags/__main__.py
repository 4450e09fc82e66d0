"""List the example DAGs, or copy them into a folder."""

from __future__ import annotations

import argparse
import ast
import shutil
from pathlib import Path

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent / "dags_examples"


def examples() -> dict[str, Path]:
    """Return the files by their names without the ending: of the wheel, or of the checkout."""
    beside = [file for file in HERE.glob("*.py") if not file.name.startswith("__")]
    return {file.stem: file for file in sorted(beside or CHECKOUT.glob("*.py"))}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, and do what it says."""
    found = examples()
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_pai.example_dags", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where DAGs are, such as ~/airflow/dags")
    parser.add_argument("names", nargs="*", metavar="name", help="which ones; without any, all of them")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - found.keys()):
        parser.error(f"no example is named {', '.join(unknown)}; there are {', '.join(found)}")
    for name, file in found.items():
        if given.folder is None:
            text = ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""
            print(f"{name:<20} {text.splitlines()[0]}")
        elif not given.names or name in given.names:
            copy(file, given.folder)


def copy(file: Path, folder: Path) -> None:
    """Copy a file, unless one of its name is there, which may hold somebody's changes."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    if target.exists():
        print(f"{target} is there already and stays as it is")
    else:
        shutil.copyfile(file, target)
        print(target)


if __name__ == "__main__":
    main()
