"""What can go wrong between a caller and PAI.

::

    PaiError
    ├── PaiUsageError (ValueError)     the call itself is wrong: nothing was sent
    ├── PaiConfigurationError          the connection lacks or contradicts something: nothing was sent
    ├── PaiDecidedError                somebody else decided about a model version: nothing was changed
    ├── PaiRejectedError               an awaited model version was rejected
    ├── PaiTransportError         (t)  no answer: refused, reset, timed out
    ├── PaiResponseError               an answer that is not what the API page promises
    │   ├── PaiNotJsonError       (t)  a body that is not JSON, such as a proxy's HTML page
    │   └── PaiLabelNotSeenError  (r)  PAI accepted a label and does not show it
    ├── PaiPagingError            (t)  a listing that does not end, or that changed each time it was read
    └── PaiApiError                    PAI answered with an error: ``status``, ``code``, ``request_id``
        ├── PaiThrottledError     (t)  quota exhausted; ``retry_after`` in seconds where PAI said so
        ├── PaiUnavailableError   (t)  5xx; ``retry_after`` as above
        ├── PaiAuthenticationError     wrong key, signature, clock or token
        ├── PaiPermissionError         the key is good, the permission is missing
        └── PaiNotFoundError           no such run, experiment, workspace, model or version
            ├── PaiExperimentNotFoundError  (r)  no such experiment, or it is too new to be visible
            └── PaiModelNotFoundError       (r)  no such model or version, or it is too new to be visible

An error says two things about a second try:

- ``transient``, marked ``(t)``: it says nothing about the runs. A poll that ends with it is a failed poll,
  and never decides a wait.
- ``retryable``, marked ``(t)`` or ``(r)``: the same task may succeed later, so Airflow may retry it. Every
  transient error is retryable.

Every other error is permanent: it comes back until a person changes something, and its text says what.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "PaiApiError",
    "PaiAuthenticationError",
    "PaiConfigurationError",
    "PaiDecidedError",
    "PaiError",
    "PaiExperimentNotFoundError",
    "PaiLabelNotSeenError",
    "PaiModelNotFoundError",
    "PaiNotFoundError",
    "PaiNotJsonError",
    "PaiPagingError",
    "PaiPermissionError",
    "PaiRejectedError",
    "PaiResponseError",
    "PaiThrottledError",
    "PaiTransportError",
    "PaiUnavailableError",
    "PaiUsageError",
]


def printable(text: str) -> str:
    """Return a server's text for a log: on one line, without escape sequences and without what hides text."""
    if text.isprintable():
        return text
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


class PaiError(Exception):
    """Root of everything this package raises on purpose."""

    transient: ClassVar[bool] = False
    """Whether it says nothing about the runs, so that a wait counts it as a failed poll and goes on."""
    retryable: ClassVar[bool] = False
    """Whether the same task may succeed later, so that Airflow may retry it."""

    def __reduce__(self) -> tuple[object, ...]:
        # The default would call __init__ with only the finished text; errors are pickled between processes.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[PaiError], args: tuple[object, ...], state: dict[str, object]) -> PaiError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class PaiUsageError(PaiError, ValueError):
    """The call itself is wrong; nothing was sent. The text says what to write instead."""


class PaiConfigurationError(PaiError):
    """The connection lacks or contradicts something; nothing was sent. The text says what to correct."""


class PaiDecidedError(PaiError):
    """A model version has another approval than was expected; nothing was changed. The text says which."""


class PaiRejectedError(PaiError):
    """An awaited model version was rejected. The text says which, and what its description says."""


class PaiTransportError(PaiError):
    """No answer arrived: the connection was refused or reset, or a time limit passed.

    ``sent`` is False where PAI cannot have received the request, so that even a write may be sent again.
    """

    transient = retryable = True

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(printable(message))
        self.sent = sent


class PaiPagingError(PaiError):
    """A listing repeated a page token, passed its page limit, or changed each time it was read."""

    transient = retryable = True


class PaiResponseError(PaiError):
    """An answer that is not what the API page promises, such as a number where a string must be."""

    def __init__(self, message: str, *, status: int, request_id: str | None = None) -> None:
        super().__init__(printable(f"{message} (HTTP {status}, request id {request_id or 'not given'})"))
        self.status = status
        self.request_id = request_id


class PaiNotJsonError(PaiResponseError):
    """A body that is not JSON: usually the page of a proxy or gateway on the way, which may go away."""

    transient = retryable = True


class PaiLabelNotSeenError(PaiResponseError):
    """PAI accepted a label and does not show it, or somebody else removed it at once."""

    retryable = True


class PaiApiError(PaiError):
    """PAI answered with an error.

    The vendor lists no complete set of codes: decide by class, show ``code``. ``hint`` says what to change.
    """

    hint: ClassVar[str] = ""

    def __init__(self, message: str, *, action: str, status: int, code: str, request_id: str | None) -> None:
        message, code = printable(message), printable(code)
        request_id = request_id and printable(request_id)
        text = f"{action}: {code or 'error without a code'}: {message}"
        detail = f"(HTTP {status}, request id {request_id or 'not given'})"
        super().__init__(" ".join(part for part in (text, detail, self.hint) if part))
        self.message = message
        self.action = action
        self.status = status
        self.code = code
        self.request_id = request_id


class PaiThrottledError(PaiApiError):
    """The quota is exhausted; ListRuns has 50 requests per 3 s for the whole account."""

    transient = retryable = True
    retry_after: float | None = None
    hint = "PAI's quota is shared by the whole account: poll less often, or ask for more quota."


class PaiUnavailableError(PaiApiError):
    """PAI answered 5xx."""

    transient = retryable = True
    retry_after: float | None = None


class PaiAuthenticationError(PaiApiError):
    """PAI does not accept who is asking."""

    hint = "Check the connection's AccessKey id, its secret, the security token and this machine's clock."


class PaiPermissionError(PaiApiError):
    """PAI knows who is asking and refuses."""

    hint = "Grant the key's RAM user access to this workspace (a role such as algorithm developer)."


class PaiNotFoundError(PaiApiError):
    """There is no such run, experiment, workspace, model or version, or this key may not see it."""


class PaiExperimentNotFoundError(PaiNotFoundError):
    """There is no such experiment, or PAI does not show it yet because it is new."""

    retryable = True
    hint = (
        "A new experiment may take up to a minute to become visible, so a retry may succeed later. If the "
        "experiment is not new, correct its id."
    )


class PaiModelNotFoundError(PaiNotFoundError):
    """There is no such model or version, or PAI does not show it yet because it is new."""

    retryable = True
    hint = (
        "A new model or version may take up to a minute to become visible, so a retry may succeed later. If "
        "it is not new, correct the model's id and the version's name."
    )
