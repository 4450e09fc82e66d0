"""Every kind of Alibaba Cloud credential, and the fields that each one needs.

The connection must give all of them. The library that obtains credentials (``renewal.py``) would take missing
ones from environment variables, and a task would run as somebody else than its connection says.

Source: the code of alibabacloud-credentials.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from airflow_provider_pai.api.credentials import BearerToken, Credential, CredentialSource
from airflow_provider_pai.api.errors import PaiConfigurationError
from airflow_provider_pai.api.renewal import RefreshableCredential

__all__ = ["KINDS", "Kind", "credential_source"]


class Kind(NamedTuple):
    """The fields that a kind of credential needs, and those that it takes besides."""

    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    provider: str = ""
    """The library's class; empty where the connection holds the credential itself."""


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
"""Under the library's own names. ``default`` is its chain of environment variables, OIDC, the CLI's profile,
the profile file, ECS metadata and the credentials URI."""

_ALWAYS: dict[str, dict[str, Any]] = {
    # An empty role_name makes the metadata service name the role. With the fallback to version 1 of that
    # service a transient fault of version 2 would end as a 403, which looks permanent.
    "ecs_ram_role": {"role_name": "", "async_update_enabled": False, "disable_imds_v1": True},
    "ram_role_arn": {"role_session_name": "airflow-provider-pai"},
    "oidc_role_arn": {"role_session_name": "airflow-provider-pai"},
}
_FORM_NAMES = {
    "access_key_id": "an AccessKey id (the connection's login)",
    "access_key_secret": "an AccessKey secret (the connection's password)",
}
_ARGUMENTS = {"role_session_expiration": "duration_seconds", "credentials_uri": "uri"}
"""Fields to which the library gives other names."""


def credential_source(kind: str, fields: Mapping[str, Any]) -> CredentialSource:
    """Return a source of credentials of this kind. Equal fields share one source, and its credential.

    An AccessKey that this kind does not use is ignored, since some forms do not let users empty a field.

    :raises PaiConfigurationError: a field is missing, malformed, or one that this kind does not use.
    """
    given = {
        name: value for name, value in fields.items() if not (value is None or value is False or value == "")
    }
    used = _used(kind, given)
    if kind == "bearer":
        return BearerToken(used["bearer_token"])
    provider = KINDS[kind].provider
    if not provider:
        return Credential(**used)
    values = {_ARGUMENTS.get(name, name): _value(name, value) for name, value in used.items()}
    return _shared(kind, provider, tuple(sorted({**_ALWAYS.get(kind, {}), **values}.items())))


def _used(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    if kind not in KINDS:
        raise PaiConfigurationError(f"credential_type {kind!r} is not one of {', '.join(KINDS)}.")
    needs, takes, _ = KINDS[kind]
    for name in needs:
        if name not in given:
            label = _FORM_NAMES.get(name, name)
            raise PaiConfigurationError(
                f"credential_type {kind!r} needs {label}; enter it in the connection."
            )
    unused = sorted(given.keys() - {*needs, *takes, *_PAIR})
    if unused:
        users = [other for other, (needs, takes, _) in KINDS.items() if unused[0] in (*needs, *takes)]
        raise PaiConfigurationError(
            f"{unused[0]} is given, but credential_type {kind!r} does not use it. Name a credential_type "
            f"that does ({', '.join(users)}), or take {unused[0]} out of the connection."
        )
    return {name: given[name] for name in (*needs, *takes) if name in given}


def _value(name: str, value: Any) -> Any:
    """Return a field as the library takes it."""
    if name == "policy":
        return _compact(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise PaiConfigurationError(
            f"{name} is a {type(value).__name__}; write it as text in the connection."
        )
    text = str(value)
    if name == "role_session_expiration":
        if not text.isdecimal() or int(text) < 900:
            raise PaiConfigurationError(f"{name}={text!r} is not a number of seconds, at least 900.")
        return int(text)
    if name in ("private_key_file", "oidc_token_file_path") and not text.startswith("/"):
        # The text does not repeat the value: it may be the key itself, or the token.
        raise PaiConfigurationError(
            f"{name} is not an absolute path; write where the file is on the workers."
        )
    return text


def _compact(policy: Any) -> str:
    """Return a policy without spaces: the library's signature encodes them in another way than STS."""
    try:
        parsed = msgspec.json.decode(policy) if isinstance(policy, str) else policy
        return msgspec.json.encode(parsed).decode().replace(" ", r"\u0020")
    except (msgspec.DecodeError, TypeError) as error:
        raise PaiConfigurationError(
            f"The policy is not JSON ({error}); correct it in the connection."
        ) from None


@functools.lru_cache(maxsize=64)
def _shared(kind: str, provider: str, arguments: tuple[tuple[str, Any], ...]) -> RefreshableCredential:
    # A sensor reads its connection in each poke, but must not assume its role in each poke.
    return RefreshableCredential(kind, provider, dict(arguments))
