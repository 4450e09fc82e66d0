"""Credentials that are obtained somewhere, and renewed before they expire, by alibabacloud-credentials.

The library (the extra ``credentials``) is imported when the first one is asked for. It is kept from some of
its habits: what it logs and says in errors is not passed on, since it repeats whole requests and answers; a
renewal that fails while the last credential is good decides nothing; a chain that finds another source than
before does not become somebody else; and its coroutines, which hold a lock across an await, are not used.

Source: FACTS 2 (its traps), and its code, from 1.0.10 on.
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

__all__ = ["RenewedCredential"]

log = logging.getLogger(__name__)

REST_SECONDS = 30.0
"""How long nobody asks again after a renewal failed while the last credential is still good, and after the
default chain came upon somebody else's."""


class RenewedCredential:
    """Credentials of one kind, renewed 15 minutes before they expire.

    Safe to ask from any thread; one renewal at a time. Its repr shows no secret.

    :param kind: the connection's ``credential_type``, for messages.
    :param provider: the library's class.
    :param arguments: what that is made with.
    """

    blocking: ClassVar[bool] = True

    def __init__(self, kind: str, provider: str, arguments: dict[str, Any]) -> None:
        self._kind = kind
        self._provider_name = provider
        self._arguments = arguments
        self._lock = threading.Lock()
        self._provider: Any = None
        self._origin: str | None = None
        self._last: AnyCredential | None = None
        self._good_until = 0.0
        self._rest_until = 0.0

    def __repr__(self) -> str:
        return f"RenewedCredential({self._kind!r}, …)"

    def get(self) -> AnyCredential:
        """Return a credential that is good now.

        :raises PaiTransportError: what gives it did not answer, not in full, or is overloaded.
        :raises PaiConfigurationError: it is refused, a file is missing, or the library is.
        """
        with self._lock:
            return self._obtain()

    def replace(self, refused: AnyCredential) -> AnyCredential:
        """Return another credential than ``refused``, which PAI did not accept; raises as :meth:`get`."""
        with self._lock:
            if refused == self._last:
                self._provider = self._last = None  # and with it all that the library remembers
                self._rest_until = 0.0
            return self._obtain()

    def _obtain(self) -> AnyCredential:
        now = time.time()
        if now < self._rest_until:
            if self._last is None:
                raise self._is_somebody_elses()
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
            failure = _told(self._kind, error)
        else:
            return self._taken(found)
        # Out here the library's error, whose text holds secrets, is no part of what is raised.
        if failure.transient and self._last is not None and now < self._good_until:
            log.warning("%s; the last one is used on.", failure)
            self._rest_until = min(now + REST_SECONDS, self._good_until)
            return self._last
        raise failure

    def _taken(self, found: Any) -> AnyCredential:
        origin = found.get_provider_name()
        if self._origin not in (None, origin):
            self._provider, self._rest_until = None, time.time() + REST_SECONDS
            raise self._is_somebody_elses()
        try:
            self._last = Credential(
                access_key_id=found.get_access_key_id(),
                access_key_secret=found.get_access_key_secret(),
                security_token=found.get_security_token() or None,
            )
        except PaiConfigurationError:
            self._provider = None  # it would keep this one for as long as a good one
            raise PaiTransportError(
                f"credential_type {self._kind!r}: {origin} answered with an incomplete credential", sent=False
            ) from None
        self._origin = origin
        self._good_until = found.get_expiration() or math.inf  # the default chain does not tell; PAI will
        return self._last

    def _is_somebody_elses(self) -> PaiTransportError:
        return PaiTransportError(
            f"credential_type {self._kind!r}: {self._origin} gives no credential now, and what another "
            "source has is somebody else's",
            sent=False,
        )


_here = threading.local()


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep this thread's requests out of the log, which at level debug shows their URLs, tokens included."""
    _here.asks = True
    try:
        yield
    finally:
        _here.asks = False


@functools.cache
def _library() -> Any:
    try:
        provider = importlib.import_module("alibabacloud_credentials.provider")
    except ImportError as error:
        raise PaiConfigurationError(
            "This credential_type needs alibabacloud-credentials, which is not installed here: "
            f"pip install 'airflow-provider-pai[credentials]' ({error})."
        ) from error
    # They log requests and answers, with the secrets in them.
    logging.getLogger("credentials").addFilter(lambda record: False)
    for name in ("alibabacloud-tea", "urllib3.connectionpool"):
        logging.getLogger(name).addFilter(lambda record: not getattr(_here, "asks", False))
    return provider


# --- what went wrong, in words that hold no secret --------------------------------------------------------

_PASSING_ERRORS = ("RetryError", "JSONDecodeError", "UnicodeDecodeError", "AttributeError", "TypeError")
"""No answer, and one that is no JSON, no text, or JSON of another shape: usually that of a proxy."""
_PASSING_STATUSES = ("407", "408", "429")
_CHAIN_VARIABLES = (
    "ALIBABA_CLOUD_OIDC_TOKEN_FILE",
    "ALIBABA_CLOUD_ECS_METADATA",
    "ALIBABA_CLOUD_CREDENTIALS_URI",
)
_ADVICE_ON_ROLES = "Check the connection's fields, and that who asks may assume the role."
_ADVICE = {
    "ecs_ram_role": "Check that this machine is an ECS instance with this RAM role attached, which answers "
    "in version 2 of the metadata service; where it cannot, credential_type 'default' asks version 1 too.",
    "rsa_key_pair": "Check the public key's id and the private key.",
    "credentials_uri": "Check that the URI answers with a credential.",
    "default": "None of its sources has one: environment variables, OIDC, the CLI's profile, the profile "
    "file, ECS metadata and the credentials URI. Set one up here, or choose another credential_type.",
}


def _told(kind: str, error: Exception) -> PaiError:
    said = str(error)
    status = _found(r"http_?code\W{1,3}(\d{3})", said)
    code = _found(r"['\"]Code['\"]\s*:\s*['\"]([\w.]{1,100})['\"]", said)
    request_id = _found(r"['\"]RequestId['\"]\s*:\s*['\"]([\w-]{1,60})['\"]", said)
    facts = [
        type(error).__name__,
        status and f"HTTP {status}",
        code,
        request_id and f"request id {request_id}",
    ]
    what = f"No credential of credential_type {kind!r} could be obtained ({', '.join(filter(None, facts))})"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        return PaiConfigurationError(
            f"{what}: the certificate is not trusted here; name its CA in SSL_CERT_FILE."
        )
    if isinstance(error, OSError) and error.filename:
        return PaiConfigurationError(f"{what}: {error.filename} cannot be read ({error.strerror}).")
    if _may_pass(type(error).__name__, status, code, said) or (kind == "default" and _is_set_up(status)):
        return PaiTransportError(what, sent=False)
    return PaiConfigurationError(f"{what}. {_ADVICE.get(kind, _ADVICE_ON_ROLES)}")


def _found(pattern: str, said: str) -> str:
    match = re.search(pattern, said, re.IGNORECASE)
    return match[1] if match else ""


def _may_pass(error: str, status: str, code: str, said: str) -> bool:
    overloaded = status in _PASSING_STATUSES or status >= "500" or "Throttling" in code
    return overloaded or error in _PASSING_ERRORS or "<html" in said.lower()


def _is_set_up(status: str) -> bool:
    """Tell whether the default chain has a source that should have given a credential, and refused none.

    Where it has not, one that does not answer, such as the metadata service off ECS, is no fault.
    """
    return not status.startswith("4") and any(map(os.environ.get, _CHAIN_VARIABLES))
