"""The one error an operation raises: it becomes the HTTP answer."""

from __future__ import annotations


class RefusedError(Exception):
    """A refusal as PAI sends it: HTTP `status`, `code` and `message`."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


def invalid(name: str, reason: str) -> RefusedError:
    """Return the refusal of the parameter `name`, with the reason.

    PAI's codes for wrong parameters are not documented: the emulator has one code for all of them.
    """
    return RefusedError(400, "InvalidParameter", f"The parameter {name} is not valid: {reason}.")


def not_found(noun: str, identity: str) -> RefusedError:
    """Return the refusal for a workspace, experiment or run that does not exist."""
    return RefusedError(404, f"{noun}NotFound", f"{noun} {identity!r} does not exist.")
