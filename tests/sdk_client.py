"""The official SDK as a client of the emulator: one call, made by its sync or by its async half."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip(
    "alibabacloud_aiworkspace20210204", reason="the official SDK, our independent client, is not installed"
)

from alibabacloud_aiworkspace20210204 import models
from alibabacloud_aiworkspace20210204.client import Client
from alibabacloud_tea_openapi.models import Config
from darabonba.runtime import RuntimeOptions

from airflow_provider_pai.emulator import PaiEmulator

__all__ = ["QUIET", "SdkClient", "models"]

_RUNTIME = RuntimeOptions(connect_timeout=10_000, read_timeout=20_000)
QUIET = [
    pytest.mark.timeout(120),
    # Warnings of the SDK: datetime.utcnow, and sessions that it does not close.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
"""The marks of a module that calls the SDK."""


class SdkClient:
    """Calls operations by their SDK name, such as `list_runs`, and returns the answer's body.

    With `signature_algorithm="v2"` it signs as it did before ACS3-HMAC-SHA256.
    """

    def __init__(self, host_port: str, *, is_async: bool, **credentials: str) -> None:
        self._client = Client(
            Config(endpoint=host_port, protocol="http", no_proxy="127.0.0.1", **credentials)
        )
        self._is_async = is_async

    def __call__(self, operation: str, *arguments: Any) -> Any:
        if self._is_async:
            call = getattr(self._client, f"{operation}_with_options_async")
            return asyncio.run(asyncio.wait_for(call(*arguments, {}, _RUNTIME), timeout=30)).body
        return getattr(self._client, f"{operation}_with_options")(*arguments, {}, _RUNTIME).body

    @classmethod
    def of(cls, pai: PaiEmulator, way: str) -> SdkClient:
        """Return a client of an emulator with its usual key: `sync`, `async` or `older signature`."""
        return cls(
            pai.host_port,
            is_async=way == "async",
            access_key_id="emulator",
            access_key_secret="emulator-secret",
            signature_algorithm="v2" if way == "older signature" else "",
        )
