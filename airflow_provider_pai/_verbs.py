"""How a flow of :mod:`airflow_provider_pai.api` becomes a method of the hook."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, cast

from airflow_provider_pai import api
from airflow_provider_pai.api.flow import begun

__all__ = ["RunsFlows", "verb"]

P = ParamSpec("P")
T = TypeVar("T")


class RunsFlows:
    """What has a client and may name a workspace: the hook, for the modules that write its methods."""

    def client(self) -> api.PaiClient:
        """Return the client of this hook."""
        raise NotImplementedError

    def named_workspace(self, workspace_id: str | int | None = None) -> str | None:
        """Return the workspace that a call, this hook or the connection names, in this order."""
        raise NotImplementedError

    def _in_workspace(self, make: Callable[..., api.Flow[T]], workspace_id: str | None) -> T:
        """Run a flow that has to name its workspace: the named one, or PAI's default one."""
        begun(
            make(workspace_id=workspace_id or "any")
        )  # refuses wrong arguments before the connection is read
        found = self.named_workspace(workspace_id)
        if found is None:
            found = self.client().run(api.get_default_workspace()).workspace_id
        return self.client().run(make(workspace_id=found))


def verb(flow: Callable[P, api.Flow[T]]) -> Callable[Concatenate[RunsFlows, P], T]:
    """Return a method of the hook that runs a flow with the flow's own signature and description."""

    @functools.wraps(flow)
    def run(self: RunsFlows, *args: P.args, **kwargs: P.kwargs) -> T:
        made = begun(flow(*args, **kwargs))  # refuses wrong arguments before the connection is read
        return self.client().run(made)

    signature = inspect.signature(flow)
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[this, *signature.parameters.values()], return_annotation=inspect.Signature.empty
    )
    return cast("Callable[Concatenate[RunsFlows, P], T]", run)
