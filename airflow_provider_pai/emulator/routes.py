"""Find the operation of a request; and what all operations share: their arguments and their answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, unquote_plus

from .account import Account
from .errors import not_found
from .faults import Quirks
from .parameters import Query, RequestBody
from .records import dumps

PREFIX = "/api/v1/"


@dataclass
class Service:
    """The account, the quirks, and what is not visible yet: every operation gets these."""

    account: Account
    quirks: Quirks
    hidden_experiments: dict[str, int] = field(default_factory=dict)
    """How many more GetExperiment requests do not find an experiment."""
    unlisted_experiments: dict[str, int] = field(default_factory=dict)
    """How many more ListExperiment requests leave an experiment out."""
    unlisted_labels: dict[tuple[str, str], int] = field(default_factory=dict)
    """By run id and the key of a label: how many more ListRuns requests for that label leave the run out."""
    hidden_models: dict[str, int] = field(default_factory=dict)
    """How many more GetModel and ListModels requests do not show a model."""
    hidden_versions: dict[tuple[str, str], int] = field(default_factory=dict)
    """How many more GetModelVersion and ListModelVersions requests do not show a version."""


@dataclass(frozen=True)
class Call:
    """One request to an operation. `path` holds the values of the names in the path."""

    action: str
    path: dict[str, str]
    query: Query
    raw_body: bytes
    request_id: str

    @property
    def body(self) -> RequestBody:
        """The JSON object of the body."""
        return RequestBody(self.raw_body)


Operation = Callable[[Service, Call], str]
_OPERATIONS: dict[str, tuple[str, list[str], Operation]] = {}


def operation(method: str, path: str) -> Callable[[Operation], Operation]:
    """Register an operation under its PAI name, which is the function's name in CamelCase."""

    def register(function: Operation) -> Operation:
        action = "".join(word.capitalize() for word in function.__name__.split("_"))
        _OPERATIONS[action] = method, path.split("/"), function
        return function

    return register


def route(method: str, raw_path: str) -> tuple[str, dict[str, str]] | None:
    """The operation of a method and a raw path, and the values in the path."""
    path = raw_path.partition("?")[0]
    if not path.startswith(PREFIX):
        return None
    segments = path[len(PREFIX) :].split("/")
    for action, (its_method, pattern, _) in _OPERATIONS.items():
        if its_method == method and len(pattern) == len(segments):
            pairs = list(zip(pattern, segments, strict=True))
            if all(name.startswith("{") or name == segment for name, segment in pairs):
                return action, {name[1:-1]: unquote(value) for name, value in pairs if name[0] == "{"}
    return None


def read_query(raw_path: str) -> dict[str, str]:
    """Decode a query string. If a parameter is repeated, its last value counts."""
    pairs = (pair.partition("=") for pair in raw_path.partition("?")[2].split("&") if pair)
    return {unquote_plus(name): unquote_plus(value) for name, _, value in pairs}


def perform(service: Service, call: Call) -> str:
    """Carry out an operation, and return its answer as JSON text.

    :raises RefusedError: the operation refuses.
    """
    return _OPERATIONS[call.action][2](service, call)


def answer(call: Call, **fields: Any) -> str:
    """A success body."""
    return dumps({"requestId": call.request_id, **fields})


def answer_both(call: Call, **fields: Any) -> str:
    """A success body of an operation whose request id the official SDK reads as `RequestId`."""
    return answer(call, RequestId=call.request_id, **fields)


def workspace(service: Service, workspace_id: str | None) -> str:
    """The workspace to use: the default one if none is named."""
    account = service.account
    if workspace_id is None:
        return account.workspace_id
    if workspace_id not in [body["WorkspaceId"] for body in account.state.workspaces()]:
        raise not_found("Workspace", workspace_id)
    return workspace_id
