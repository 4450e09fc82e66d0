"""The one error an operation raises: it becomes the HTTP answer."""

from __future__ import annotations


class PaiError(Exception):
    """A refusal as PAI words it: HTTP `status`, `code` and `message` (FACTS, section 4)."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


def invalid(name: str, reason: str) -> PaiError:
    """Refuse the parameter `name`, saying why.

    The real service's codes for wrong parameters are not published; one code that names the
    parameter stands for all of them.
    """
    return PaiError(400, "InvalidParameter", f"The parameter {name} is not valid: {reason}.")


def not_found(noun: str, identity: str) -> PaiError:
    """Say that the workspace, experiment or run `identity` does not exist."""
    return PaiError(404, f"{noun}NotFound", f"{noun} {identity!r} does not exist.")
