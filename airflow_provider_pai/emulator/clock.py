"""The emulator's clock. Tests can move it, to test skew and expiry without waiting."""

from __future__ import annotations

import time
from datetime import datetime, timezone


class Clock:
    """The time of day plus `offset` seconds."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        """Unix time in seconds on the emulator's clock."""
        return time.time() + self.offset

    def iso(self) -> str:
        """Now, in the form of `GmtCreateTime`."""
        return iso(self.now())


def iso(unix_time: float) -> str:
    """Render seconds since 1970 as PAI does: `2021-01-30T12:51:33.028Z`."""
    moment = datetime.fromtimestamp(round(unix_time, 3), timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_iso(time: str | datetime) -> float:
    """Read an ISO 8601 time, or a datetime, as seconds since 1970. Without an offset it is UTC.

    :raises ValueError: the text is not such a time.
    """
    text = time.isoformat() if isinstance(time, datetime) else time
    # Before Python 3.11, fromisoformat does not know the letter Z.
    moment = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
