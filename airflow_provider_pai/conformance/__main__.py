"""The command: connect, print a line for each finding, and remove what was created."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from airflow_provider_pai import api
from airflow_provider_pai.conformance.assumptions import AS_ASSUMED, DIFFERENT, NOT_DECIDABLE
from airflow_provider_pai.conformance.interruption import Interrupted, Signals
from airflow_provider_pai.conformance.registered import PREFIX
from airflow_provider_pai.conformance.scene import Scene
from airflow_provider_pai.conformance.survey import ASSUMPTIONS, survey
from airflow_provider_pai.hooks import PaiHook

__all__ = ["main"]

GOOD, FOUND_DIFFERENT, COULD_NOT = 0, 1, 2
WIDTHS = max(len(assumption.name) for assumption in ASSUMPTIONS) + 2, len(NOT_DECIDABLE) + 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_pai.conformance",
        description="Check whether a PAI behaves as this provider assumes. Creates a temporary experiment "
        "with a few runs and a temporary model with a few versions, and removes them.",
        epilog="Exit status: 0 if nothing is different, 1 if something is different, 2 if the command could "
        "not run or something is left in PAI, 128 + n after signal n.",
    )
    parser.add_argument("--conn-id", default=PaiHook.default_conn_name, help="default: %(default)s")
    parser.add_argument("--workspace-id", help="instead of the connection's")
    parser.add_argument("--artifact-uri", help="an OSS path, if PAI creates no experiment without one")
    parser.add_argument("--remove", metavar="NAME", help="only remove what an earlier command left")
    options = parser.parse_args(arguments)
    if options.remove and not options.remove.startswith(PREFIX):
        parser.error(f"--remove takes what this command created, named {PREFIX}…")

    hook = PaiHook(options.conn_id, workspace_id=options.workspace_id)
    try:
        client, workspace_id = _connect(hook)
    except Exception as error:  # a secrets backend may raise anything
        print(f"Cannot start: {_text(error)}", file=sys.stderr)
        if not isinstance(error, api.PaiError):
            variable = f"AIRFLOW_CONN_{options.conn_id.upper()}"
            print(f"Add the connection {options.conn_id} in Airflow, or set {variable}.", file=sys.stderr)
        return COULD_NOT
    try:
        with Signals() as signals:
            if options.remove:
                scene = Scene.left_behind(options.remove, workspace_id)
                return GOOD if _remove(client, scene, signals) else COULD_NOT
            place = f"workspace {workspace_id}" if workspace_id else "the default workspace"
            scene = Scene(workspace_id, options.artifact_uri)
            print(f"{hook.settings.endpoint}, {place}; what is temporary is named {scene.name}.\n")
            return _examine(client, scene, signals)
    finally:
        hook.close()


def _connect(hook: PaiHook) -> tuple[api.PaiClient, str | None]:
    """Return a client whose key PAI accepts, and the workspace that the connection names."""
    client, workspace_id = hook.client(), hook.query().workspace_id
    try:
        client.run(api.list_runs_page(workspace_id=workspace_id, max_results=1))
    except api.PaiApiError as error:
        if type(error) is not api.PaiApiError:  # the checks report any other refusal
            raise
    return client, workspace_id


def _text(error: BaseException) -> str:
    """Return the first line of an error. The next lines of Airflow's own errors are SQL."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _examine(client: api.PaiClient, scene: Scene, signals: Signals) -> int:
    counts: Counter[str] = Counter()
    status = GOOD
    try:
        with signals.raising(at=1):
            for assumption, finding in survey(client.run, scene):
                _print(assumption.name, finding.verdict, finding.seen)
                if finding.verdict == DIFFERENT:
                    _print("", "", f"assumed: {assumption.assumed}")
                    _print("", "", f"setting: {assumption.setting}")
                counts[finding.verdict] += 1
        summary = ", ".join(
            f"{counts[verdict]} {verdict}" for verdict in (AS_ASSUMED, DIFFERENT, NOT_DECIDABLE)
        )
        print(f"\n{counts.total()} assumptions: {summary}. What to do: docs/conformance.md")
        status = FOUND_DIFFERENT if counts[DIFFERENT] else GOOD
    except Interrupted:
        status = 128 + signals.last
        print("Interrupted: removing what was created; a second interrupt leaves it.", file=sys.stderr)
    except api.PaiError as error:
        status = COULD_NOT
        print(f"Stopped: {_text(error)}", file=sys.stderr)
    finally:
        removed = _remove(client, scene, signals)
    return status if removed else COULD_NOT


def _print(name: str, verdict: str, seen: str) -> None:
    print(f"{name:<{WIDTHS[0]}}{verdict:<{WIDTHS[1]}}{' '.join(seen.split())}", flush=True)


def _remove(client: api.PaiClient, scene: Scene, signals: Signals) -> bool:
    """Remove what was created. Return whether nothing is left; else print what is, and how to remove it."""
    if not scene.made_something:
        return True
    try:
        with signals.raising(at=2):
            problem = client.run(scene.remove())
    except Interrupted:
        problem = "interrupted"
    if scene.made_something:
        print(
            f"NOT REMOVED: {scene.left}, because: {problem}\n"
            f"Remove it in PAI's console, or add to this command: --remove {scene.name}",
            file=sys.stderr,
        )
        return False
    print(f"Removed {scene.name}, with its runs and versions.", file=sys.stderr)
    return True


if __name__ == "__main__":
    sys.exit(main())
