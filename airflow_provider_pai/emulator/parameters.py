"""Read the parameters of a request strictly: each has a type, and a wrong value is refused with its name."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from .clock import from_iso, iso
from .errors import RefusedError, invalid
from .records import StoredMetric

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
_LABEL_BYTES = 128
_NARROW = re.compile(r"[A-Za-z0-9_.-]*")


class Query:
    """The parameters of a query string. Unknown ones are ignored, and an empty one counts as absent."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        """The parameter as text."""
        return self._values.get(name) or None

    def required(self, name: str) -> str:
        """The parameter, which must be given."""
        value = self.text(name)
        if value is None:
            raise invalid(name, "it is required")
        return value

    def items(self, name: str) -> list[str]:
        """The items of a parameter that is a comma-separated list."""
        value = self.text(name)
        return value.split(",") if value else []

    def integer(self, name: str, *, least: int) -> int | None:
        """A whole number of at least `least`."""
        value = self.text(name)
        if value is None:
            return None
        if not re.fullmatch(r"-?[0-9]{1,15}", value):
            raise invalid(name, f"{value!r} is not an integer")
        if int(value) < least:
            raise invalid(name, f"{value} is less than {least}")
        return int(value)

    def boolean(self, name: str) -> bool:
        """A flag, false if absent. The Python SDK writes True, the documentation true."""
        value = self.text(name)
        if value not in (None, "true", "false", "True", "False"):
            raise invalid(name, f"{value!r} is neither true nor false")
        return value in ("true", "True")

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        """One of `choices`."""
        value = self.text(name)
        if value is not None and value not in choices:
            raise invalid(name, f"{value!r} is not one of {', '.join(choices)}")
        return value or default

    def time(self, name: str) -> str | None:
        """An ISO 8601 time, in PAI's own form."""
        value = self.text(name)
        try:
            return iso(from_iso(value)) if value else None
        except ValueError:
            raise invalid(name, f"{value!r} is not a time like 2021-01-30T12:51:33.028Z") from None


class RequestBody:
    """The JSON object in a request's body."""

    def __init__(self, raw: bytes) -> None:
        try:
            values = json.loads(raw or b"{}")
            json.dumps(values, ensure_ascii=False).encode()  # a lone surrogate could not be stored
        except (ValueError, RecursionError):
            raise RefusedError(400, "InvalidRequestBody", "The body is not JSON.") from None
        if not isinstance(values, dict):
            raise RefusedError(400, "InvalidRequestBody", "The body is not a JSON object.")
        self._values = values

    def text(self, name: str) -> str | None:
        """A string; null counts as absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid(name, f"{value!r} is not a string")
        return value

    def required(self, name: str) -> str:
        """A string that must be given and not be empty."""
        value = self.text(name)
        if not value:
            raise invalid(name, "it is required")
        return value

    def name(self) -> str | None:
        """The name of a run or an experiment. An empty one counts as absent."""
        value = self.text("Name")
        if value and not _NAME.fullmatch(value):
            raise invalid(
                "Name", f"{value!r} is not 1 to 63 of A-Z, a-z, 0-9, _ and -, beginning with a letter"
            )
        return value or None

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """One of `choices`."""
        value = self.text(name)
        if value is not None and value not in choices:
            raise invalid(name, f"{value!r} is not one of {', '.join(filter(None, choices))}")
        return value

    def labels(self, characters: str, name: str = "Labels") -> dict[str, str] | None:
        """`Labels`: a list of `{"Key", "Value"}`; `characters` is the quirk `label_characters`.

        By the vendor's page on tagging, keys and values have at most 128 bytes, without `=` and `,`.
        """
        labels = self._pairs(name)
        if characters == "any":
            return labels
        for text in [text for pair in (labels or {}).items() for text in pair]:
            if characters == "narrow" and not _NARROW.fullmatch(text):
                raise invalid("Labels", f"{text!r} holds other characters than A-Za-z0-9_.-")
            if len(text.encode()) > _LABEL_BYTES:
                raise invalid("Labels", f"{text!r} is longer than {_LABEL_BYTES} bytes")
            if "=" in text or "," in text:
                raise invalid("Labels", f"{text!r} holds '=' or ','")
        return labels

    def params(self) -> dict[str, str] | None:
        """`Params`: a list of `{"Key", "Value"}`."""
        return self._pairs("Params")

    def metrics(self, timestamp: int) -> list[StoredMetric]:
        """`Metrics`: a list of `{"Key", "Value", "Step", "Timestamp"}`; the last two may be absent."""
        entries = self._entries("Metrics")
        if not entries:
            raise invalid("Metrics", "it is required")
        return [
            StoredMetric(
                _key("Metrics", entry),
                _number(entry.get("Value")),
                _integer("Step", entry.get("Step"), 0),
                _integer("Timestamp", entry.get("Timestamp"), timestamp),
            )
            for entry in entries
        ]

    def document(self, name: str, most: int | None = None) -> dict[str, Any] | None:
        """A JSON object of any form, of at most so many bytes."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, dict):
            raise invalid(name, f"{value!r} is not an object")
        if (
            most is not None
            and len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()) > most
        ):
            raise invalid(name, f"it is longer than {most} bytes")
        return value

    def whole(self, name: str) -> int | None:
        """A whole number."""
        value = self._values.get(name)
        return None if value is None else _integer(name, value, 0)

    def _pairs(self, name: str) -> dict[str, str] | None:
        entries = self._entries(name)
        if entries is None:
            return None
        pairs = {}
        for entry in entries:
            value = entry.get("Value")
            if not isinstance(value, str):
                raise invalid(name, f"Value {value!r} is not a string")
            pairs[_key(name, entry)] = value
        return pairs

    def _entries(self, name: str) -> list[dict[str, Any]] | None:
        entries = self._values.get(name)
        if entries is None:
            return None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise invalid(name, "it is not a list of objects")
        return entries


def _key(name: str, entry: dict[str, Any]) -> str:
    key = entry.get("Key")
    if not isinstance(key, str) or not key:
        raise invalid(name, "Key is required")
    return key


def _number(value: object) -> float:
    # Python writes NaN as a bare word, Java as a string: both are numbers here.
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(str(value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise invalid("Metrics", f"Value {value!r} is not a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _integer(name: str, value: object, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**63:
        raise invalid("Metrics", f"{name} {value!r} is not an integer")
    return value
