"""What Airflow's test of a connection says: which workspace answered, or what to correct."""

from __future__ import annotations

import time
from typing import Any

from airflow_provider_pai import api, connection
from airflow_provider_pai._compat import AirflowNotFoundException

__all__ = ["check"]

Hook = Any
"""A :class:`~airflow_provider_pai.hooks.PaiHook`, which imports this module."""


def check(hook: Hook) -> tuple[bool, str]:
    """List one run, and return the workspace that answered and the time it took, or what to correct."""
    try:
        client, workspace_id = hook.client(), hook.named_workspace()
        started = time.monotonic()
        client.run(api.list_runs_page(workspace_id=workspace_id, max_results=1))
        if hook.settings.console_url is not None:  # which would fail no task
            connection.fill_in(hook.settings.console_url, dict.fromkeys(connection.CONSOLE_FIELDS, ""))
        workspace = _name_of(hook, workspace_id)
        milliseconds = (time.monotonic() - started) * 1000
        return True, f"Reached {workspace} at {hook.settings.endpoint} in {milliseconds:.0f} ms."
    except (api.PaiError, AirflowNotFoundException) as error:
        return False, str(error)
    finally:
        hook.close()


def _name_of(hook: Hook, workspace_id: str | None) -> str:
    try:
        if workspace_id is None:
            found = hook.get_default_workspace()
            return f"the default workspace {found.workspace_name!r} ({found.workspace_id})"
        names = {workspace.workspace_id: workspace.workspace_name for workspace in hook.list_workspaces()}
    except api.PaiPermissionError:  # a narrow RAM policy may allow to list runs only
        return f"workspace {workspace_id or '(default)'}"
    if workspace_id not in names:
        raise api.PaiConfigurationError(
            f"PAI answers, but the workspace {workspace_id} is not among those this key may see: "
            f"{', '.join(f'{name} ({id_})' for id_, name in names.items()) or 'none'}. Correct the "
            "workspace ID in the connection, or have the key's user added to that workspace."
        )
    return f"workspace {names[workspace_id]!r} ({workspace_id})"
