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


def taken(noun: str, name: str, how: str) -> RefusedError:
    """Return the refusal of a name that is taken; `how` is the quirk `name_taken`."""
    status, code, message = {
        "conflict": (409, f"{noun}AlreadyExists", f"A {noun.lower()} named {name!r} exists already."),
        "duplicate": (400, "DuplicateErrorProblem", f"The {noun.lower()} name {name!r} is in use."),
        "invalid": (400, "InvalidParameter", f"The parameter Name is not valid: {name!r}."),
        "server_error": (500, "InternalServerErrorProblem", f"The {noun.lower()} {name!r} cannot be stored."),
    }[how]
    return RefusedError(status, code, message)


def not_found(noun: str, identity: str) -> RefusedError:
    """Return the refusal for something that does not exist, such as a workspace or a run."""
    return RefusedError(404, f"{noun}NotFound", f"{noun} {identity!r} does not exist.")
