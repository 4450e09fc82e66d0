"""Every kind of Alibaba Cloud credential, and what each needs: keys, tokens, roles, metadata, files, URIs.

What must be obtained somewhere, and renewed before it expires, is obtained by the official library
alibabacloud-credentials (the extra ``credentials``), which is imported when it is first needed. It is kept
from some of its habits: what a kind needs has to be given, as the library would take what is missing from
environment variables; no role starts a thread of its own; and what it logs and says in errors is not passed
on, since it repeats whole requests and answers.

Source: FACTS 2 (alibabacloud-credentials, its kinds and its traps).
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import msgspec

from airflow_provider_pai.api.credentials import (
    AnyCredential,
    BearerToken,
    Credential,
    CredentialSource,
    StaticCredential,
)
from airflow_provider_pai.api.errors import PaiConfigurationError, PaiError, PaiTransportError

__all__ = ["KINDS", "Kind", "RenewedCredential", "credential_source"]

log = logging.getLogger(__name__)

REST_SECONDS = 30.0
"""How long nobody asks for a renewal again after one failed, while the last credential is still good."""


class Kind(NamedTuple):
    """What a kind of credential must be given, and what else it takes."""

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    provider: str = ""
    """The library's class; empty where the credential is in the connection as it is."""


_PAIR = ("access_key_id", "access_key_secret")
_SESSION = ("role_session_name", "role_session_expiration", "policy", "sts_endpoint")

KINDS = {
    "access_key": Kind(_PAIR),
    "sts": Kind((*_PAIR, "security_token")),
    "bearer": Kind(("bearer_token",)),
    "ram_role_arn": Kind(
        (*_PAIR, "role_arn"), ("security_token", "external_id", *_SESSION), "RamRoleArnCredentialsProvider"
    ),
    "ecs_ram_role": Kind((), ("role_name",), "EcsRamRoleCredentialsProvider"),
    "oidc_role_arn": Kind(
        ("role_arn", "oidc_provider_arn", "oidc_token_file_path"), _SESSION, "OIDCRoleArnCredentialsProvider"
    ),
    "rsa_key_pair": Kind(
        ("public_key_id", "private_key_file"),
        ("role_session_expiration", "sts_endpoint"),
        "RsaKeyPairCredentialsProvider",
    ),
    "credentials_uri": Kind(("credentials_uri",), (), "URLCredentialsProvider"),
    "default": Kind((), (), "DefaultCredentialsProvider"),
}
"""By the library's own names; ``default`` is its chain of environment variables, OIDC, the CLI's profile,
the profile file, ECS metadata and the credentials URI."""

_ALWAYS: dict[str, dict[str, Any]] = {
    # Given, so that no environment variable is asked for it; empty, the metadata service names the role. With
    # the fallback to its first version a passing fault of the second would end as a 403, which seems lasting.
    "ecs_ram_role": {"role_name": "", "async_update_enabled": False, "disable_imds_v1": True},
    "ram_role_arn": {"role_session_name": "airflow-provider-pai"},
    "oidc_role_arn": {"role_session_name": "airflow-provider-pai"},
}
_FORM_NAMES = {
    "access_key_id": "an AccessKey id (the connection's login)",
    "access_key_secret": "an AccessKey secret (the connection's password)",
}
_ARGUMENTS = {"role_session_expiration": "duration_seconds", "credentials_uri": "uri"}


def credential_source(kind: str, fields: Mapping[str, Any]) -> CredentialSource:
    """Return what gives credentials of this kind; equal fields share one source, and what it has obtained.

    An AccessKey that this kind does not use is left alone, as some forms cannot be emptied.

    :raises PaiConfigurationError: a field is missing, or another is given that this kind does not use.
    """
    given = {name: value for name, value in fields.items() if value not in (None, "", False)}
    used = _used(kind, given)
    if kind == "bearer":
        return StaticCredential(BearerToken(used["bearer_token"]))
    if not KINDS[kind].provider:
        return StaticCredential(Credential(**used))
    if "role_session_expiration" in used:
        used["role_session_expiration"] = _seconds(used["role_session_expiration"])
    if "policy" in used:
        used["policy"] = _compact(used["policy"])
    return _shared(kind, tuple(sorted(used.items())))


def _used(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if kind not in KINDS:
        raise PaiConfigurationError(f"credential_type {kind!r} is none of {', '.join(KINDS)}.")
    needs, takes, _ = KINDS[kind]
    for name in needs:
        if name not in given:
            shown = _FORM_NAMES.get(name, name)
            raise PaiConfigurationError(
                f"credential_type {kind!r} needs {shown}; enter it in the connection."
            )
    unused = sorted(given.keys() - {*needs, *takes, *_PAIR})
    if unused:
        users = [other for other, (needs, takes, _) in KINDS.items() if unused[0] in (*needs, *takes)]
        raise PaiConfigurationError(
            f"{unused[0]} is given, but credential_type {kind!r} does not use it. Name a credential_type "
            f"that does ({', '.join(users)}), or take {unused[0]} out of the connection."
        )
    return {name: given[name] for name in (*needs, *takes) if name in given}


def _seconds(value: Any) -> int:
    try:
        seconds = int(str(value))
    except ValueError:
        seconds = 0
    if seconds < 900:
        raise PaiConfigurationError(
            f"role_session_expiration={value!r} is no number of seconds, at least 900; leave it out for 3600."
        )
    return seconds


def _compact(policy: Any) -> str:
    """Return a policy without spaces, which the library's signature would spell in another way than STS."""
    try:
        parsed = msgspec.json.decode(policy) if isinstance(policy, str) else policy
    except msgspec.DecodeError as error:
        raise PaiConfigurationError(
            f"The policy is no JSON ({error}); correct it in the connection."
        ) from None
    return msgspec.json.encode(parsed).decode()


@functools.lru_cache(maxsize=64)
def _shared(kind: str, fields: tuple[tuple[str, Any], ...]) -> RenewedCredential:
    # A sensor reads its connection anew at each poke: it must not assume its role anew each time.
    return RenewedCredential(kind, dict(fields))


_here = threading.local()


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep this thread's requests out of the log, which at level debug shows their URLs, tokens included."""
    _here.asks = True
    try:
        yield
    finally:
        _here.asks = False


class RenewedCredential:
    """Credentials that alibabacloud-credentials obtains, and renews 15 minutes before they expire.

    Safe to ask from any thread; one renewal at a time. Its repr shows no secret.
    """

    blocking: ClassVar[bool] = True

    def __init__(self, kind: str, fields: dict[str, Any]) -> None:
        self._kind = kind
        self._fields = fields
        self._lock = threading.Lock()
        self._provider: Any = None
        self._last: AnyCredential | None = None
        self._expires = 0.0
        self._rest_until = 0.0

    def __repr__(self) -> str:
        return f"RenewedCredential({self._kind!r}, …)"

    def get(self) -> AnyCredential:
        """Return a credential that is good now.

        :raises PaiTransportError: what gives it did not answer, or is overloaded.
        :raises PaiConfigurationError: it is refused, a file is missing, or the library is.
        """
        with self._lock:
            return self._obtain()

    def replace(self, refused: AnyCredential) -> AnyCredential:
        """Return another credential than ``refused``, which PAI did not accept; raises as :meth:`get`."""
        with self._lock:
            if refused == self._last:
                self._provider = self._last = None
            return self._obtain()

    def _obtain(self) -> AnyCredential:
        now = time.time()
        if self._last is not None and now < self._rest_until:
            return self._last
        failure: PaiError
        try:
            with _unlogged():
                if self._provider is None:
                    self._provider = self._make()
                found = self._provider.get_credentials()
        except PaiError:
            raise
        except Exception as error:
            failure = self._told(error)
        else:
            self._last = Credential(
                access_key_id=found.get_access_key_id(),
                access_key_secret=found.get_access_key_secret(),
                security_token=found.get_security_token() or None,
            )
            self._expires = found.get_expiration() or 0.0  # the default chain does not tell
            return self._last
        # Out here the library's error, whose text holds secrets, is no part of what is raised.
        if failure.transient and self._last is not None and now < self._expires:
            log.warning("%s; the last one is good for %d s more.", failure, self._expires - now)
            self._rest_until = min(now + REST_SECONDS, self._expires)
            return self._last
        self._provider = None  # a file or a variable that is mended is read again
        raise failure

    def _make(self) -> Any:
        arguments = {_ARGUMENTS.get(name, name): value for name, value in self._fields.items()}
        return getattr(_library(), KINDS[self._kind].provider)(**{**_ALWAYS.get(self._kind, {}), **arguments})

    def _told(self, error: Exception) -> PaiError:
        """Return what is wrong, in words that hold no secret."""
        said = str(error)
        status = re.search(r"http_?code\W{1,3}(\d{3})", said, re.IGNORECASE)
        code = re.search(r"['\"]Code['\"]\s*:\s*['\"]([\w.]{1,100})['\"]", said)
        request_id = re.search(r"['\"]RequestId['\"]\s*:\s*['\"]([\w-]{1,60})['\"]", said)
        facts = [
            type(error).__name__,
            *(f"HTTP {found[1]}" for found in (status,) if found),
            *(found[1] for found in (code,) if found),
            *(f"request id {found[1]}" for found in (request_id,) if found),
        ]
        what = f"No credential of credential_type {self._kind!r} could be obtained ({', '.join(facts)})"
        if isinstance(error, OSError) and error.filename:
            return PaiConfigurationError(f"{what}: {error.filename} cannot be read ({error.strerror}).")
        overloaded = status is not None and (status[1] == "429" or status[1] >= "500")
        throttled = code is not None and "Throttling" in code[1]
        if overloaded or throttled or type(error).__name__ in _PASSING:
            return PaiTransportError(what, sent=False)
        return PaiConfigurationError(f"{what}. {_ADVICE.get(self._kind, _ADVICE_ON_ROLES)}")


_PASSING = ("RetryError", "JSONDecodeError")
"""No answer, and an answer that is no JSON: usually that of a proxy on the way."""
_ADVICE_ON_ROLES = "Check the connection's fields, and that who asks may assume the role."
_ADVICE = {
    "ecs_ram_role": "Check that this machine is an ECS instance with this RAM role attached, which answers "
    "in version 2 of the metadata service; where it cannot, credential_type 'default' asks version 1 too.",
    "rsa_key_pair": "Check the public key's id and the private key.",
    "credentials_uri": "Check that the URI answers with a credential.",
    "default": "None of its sources has one: environment variables, OIDC, the CLI's profile, the profile "
    "file, ECS metadata and the credentials URI. Set one up here, or choose another credential_type.",
}


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
    logging.getLogger("urllib3.connectionpool").addFilter(lambda record: not getattr(_here, "asks", False))
    return provider
