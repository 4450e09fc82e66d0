"""Refreshable credentials: alibabacloud-credentials obtains them, and renews them before they expire.

The library (the extra ``credentials``) is imported for the first credential. This module works around some of
its habits. Its log lines and error texts are not passed on, since they repeat whole requests and answers. A
renewal that fails while the last credential is still valid is not an error. Where its default chain finds
another source than before, the credential of that source is not used, since it may belong to somebody else.
Its coroutines hold a lock across an await, so they are not used.

Source: the library's code, from 1.0.10 on.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from airflow_provider_pai.api.credentials import AnyCredential, Credential
from airflow_provider_pai.api.errors import PaiConfigurationError, PaiError, PaiTransportError

__all__ = ["RefreshableCredential"]

log = logging.getLogger(__name__)

PAUSE_SECONDS = 30.0
"""How long the library is not called after a failed renewal while the last credential is still valid, and
after the default chain found another source."""


MARGIN_SECONDS = 15 * 60
"""How long before its expiry a credential is renewed, as in the library."""
SHARE_LEFT = 1 / 3
"""How much of its life may be left then. Without this, a session of 15 minutes would serve one request."""


class RefreshableCredential:
    """A credential of one kind, renewed 15 minutes before it expires, or when a third of its life is left.

    Any thread may call it; one renewal runs at a time. Its repr shows no secret.

    :param kind: the connection's ``credential_type``, for messages.
    :param provider: the name of the library's class.
    :param arguments: the arguments of that class.
    """

    blocking: ClassVar[bool] = True

    def __init__(self, kind: str, provider: str, arguments: dict[str, Any]) -> None:
        self._kind = kind
        self._provider_name = provider
        self._arguments = arguments
        self._origin: str | None = None
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._provider: Any = None
        self._last: AnyCredential | None = None
        self._valid_until = 0.0
        self._renew_at = 0.0
        self._paused_until = 0.0
        self._process = os.getpid()

    def _locked(self) -> threading.Lock:
        if self._process != os.getpid():
            # Forked: a thread that held this lock, or one of the library's, does not exist here.
            self._start_afresh()
        return self._lock

    def __repr__(self) -> str:
        return f"RefreshableCredential({self._kind!r}, …)"

    def get(self) -> AnyCredential:
        """Return a credential that is valid now.

        :raises PaiTransportError: its source did not answer, not completely, or is overloaded.
        :raises PaiConfigurationError: its source refused, or a file or the library is missing.
        """
        with self._locked():
            return self._obtain()

    def replace(self, refused: AnyCredential) -> AnyCredential:
        """Return another credential than ``refused``, which PAI did not accept. Raises as :meth:`get`."""
        with self._locked():
            if refused == self._last:
                self._provider = self._last = None  # and with it what the library has cached
                self._paused_until = 0.0
            return self._obtain()

    def _obtain(self) -> AnyCredential:
        now = time.time()
        if self._last is not None and now < self._renew_at:
            return self._last
        if now < self._paused_until:
            if self._last is None:
                raise self._other_source()
            return self._last
        failure: PaiError
        try:
            with _unlogged():
                if self._provider is None:
                    self._provider = getattr(_library(), self._provider_name)(**self._arguments)
                found = self._provider.get_credentials()
        except PaiError:
            raise
        except Exception as error:
            failure = _describe(self._kind, error)
        else:
            return self._accept(found)
        # Raised out here, it does not carry the library's error, whose text holds secrets.
        if failure.transient and self._last is not None and now < self._valid_until:
            log.warning("%s; the last credential is still valid and stays in use.", failure)
            self._paused_until = min(now + PAUSE_SECONDS, self._valid_until)
            return self._last
        raise failure

    def _accept(self, found: Any) -> AnyCredential:
        origin = found.get_provider_name()
        if self._origin not in (None, origin):
            self._provider, self._paused_until = None, time.time() + PAUSE_SECONDS
            raise self._other_source()
        try:
            self._last = Credential(
                access_key_id=found.get_access_key_id(),
                access_key_secret=found.get_access_key_secret(),
                security_token=found.get_security_token() or None,
            )
        except PaiConfigurationError:
            self._provider = None  # it would keep this one as long as a valid one
            raise PaiTransportError(
                f"credential_type {self._kind!r}: {origin} answered with an incomplete credential", sent=False
            ) from None
        self._origin = origin
        expires = found.get_expiration()
        if expires:
            self._valid_until = expires
            self._renew_at = expires - min(MARGIN_SECONDS, SHARE_LEFT * (expires - time.time()))
        else:  # the default chain does not say when: it is asked each time, and PAI refuses in time
            self._valid_until, self._renew_at = math.inf, 0.0
        return self._last

    def _other_source(self) -> PaiTransportError:
        return PaiTransportError(
            f"credential_type {self._kind!r}: {self._origin} returns no credential now; another source has "
            "one, which is not used because it may belong to somebody else",
            sent=False,
        )


_thread = threading.local()


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep this thread's requests out of the log: at level debug it shows their URLs, which hold tokens."""
    _thread.unlogged = True
    try:
        yield
    finally:
        _thread.unlogged = False


@functools.cache
def _library() -> Any:
    try:
        provider = importlib.import_module("alibabacloud_credentials.provider")
    except ImportError as error:
        raise PaiConfigurationError(
            "This credential_type needs alibabacloud-credentials, which is not installed here: "
            f"pip install 'airflow-provider-pai[credentials]' ({error})."
        ) from error
    # These loggers show requests and answers with their secrets.
    logging.getLogger("credentials").addFilter(lambda record: False)
    for name in ("alibabacloud-tea", "urllib3.connectionpool"):
        logging.getLogger(name).addFilter(lambda record: not getattr(_thread, "unlogged", False))
    return provider


# --- errors, in words that hold no secret -----------------------------------------------------------------

_TRANSIENT_ERRORS = ("RetryError", "JSONDecodeError", "UnicodeDecodeError", "AttributeError", "TypeError")
"""No answer, or one that is not JSON, not text, or other JSON than expected: usually that of a proxy."""
_TRANSIENT_STATUSES = ("407", "408", "429")
_CHAIN_VARIABLES = (
    "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
    "ALIBABA_CLOUD_ECS_METADATA",
    "ALIBABA_CLOUD_CREDENTIALS_URI",
)
_ADVICE_ON_ROLES = "Check the connection's fields, and that this key or token may assume the role."
_ADVICE = {
    "ecs_ram_role": "Check that this machine is an ECS instance with this RAM role attached, and that "
    "version 2 of the metadata service answers; credential_type 'default' uses version 1 too.",
    "rsa_key_pair": "Check the public key's id and the private key.",
    "credentials_uri": "Check that the URI answers with a credential.",
    "default": "None of its sources has one: environment variables, OIDC, the CLI's profile, the profile "
    "file, ECS metadata and the credentials URI. Set one up here, or choose another credential_type.",
}


def _describe(kind: str, error: Exception) -> PaiError:
    """Return the library's error as one of ours, without the secrets in its text."""
    text = str(error)
    status = _found(r"http_?code\W{1,3}(\d{3})", text)
    code = _found(r"['\"]Code['\"]\s*:\s*['\"]([\w.]{1,100})['\"]", text)
    request_id = _found(r"['\"]RequestId['\"]\s*:\s*['\"]([\w-]{1,60})['\"]", text)
    details = [
        type(error).__name__,
        status and f"HTTP {status}",
        code,
        request_id and f"request id {request_id}",
    ]
    what = f"No credential of credential_type {kind!r} could be obtained ({', '.join(filter(None, details))})"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = _found(r"certificate verify failed: ([\w ,'-]{1,100})", text) or "it is not trusted"
        return PaiConfigurationError(
            f"{what}: the certificate is not accepted here: {reason.strip()}. Name its CA in SSL_CERT_FILE."
        )
    if isinstance(error, OSError) and error.filename:
        return PaiConfigurationError(f"{what}: {error.filename} cannot be read ({error.strerror}).")
    if _is_transient(type(error).__name__, status, code, text) or (kind == "default" and _is_set_up(status)):
        return PaiTransportError(what, sent=False)
    return PaiConfigurationError(f"{what}. {_ADVICE.get(kind, _ADVICE_ON_ROLES)}")


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.IGNORECASE)
    return match[1] if match else ""


def _is_transient(error: str, status: str, code: str, text: str) -> bool:
    overloaded = status in _TRANSIENT_STATUSES or status >= "500" or "Throttling" in code
    return overloaded or error in _TRANSIENT_ERRORS or "<html" in text.lower()


def _is_set_up(status: str) -> bool:
    """Tell whether the default chain has a source that should have answered, and none that refused.

    Otherwise a source that does not answer is normal, such as the metadata service outside ECS.
    """
    return not status.startswith("4") and any(map(os.environ.get, _CHAIN_VARIABLES))
