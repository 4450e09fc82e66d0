"""Every kind of Alibaba Cloud credential, and what each must be given: keys, tokens, roles, files, URIs.

What a kind needs has to be given here: the library that obtains it (``renewal.py``) would take what is
missing from environment variables, and a task would run as somebody else than its connection says.

Source: FACTS 2 (alibabacloud-credentials, its kinds and its traps).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from airflow_provider_pai.api.credentials import BearerToken, Credential, CredentialSource, StaticCredential
from airflow_provider_pai.api.errors import PaiConfigurationError
from airflow_provider_pai.api.renewal import RenewedCredential

__all__ = ["KINDS", "Kind", "credential_source"]


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
    # Empty, the metadata service names the role. With the fallback to its first version a passing fault of
    # the second would end as a 403, which seems lasting.
    "ecs_ram_role": {"role_name": "", "async_update_enabled": False, "disable_imds_v1": True},
    "ram_role_arn": {"role_session_name": "airflow-provider-pai"},
    "oidc_role_arn": {"role_session_name": "airflow-provider-pai"},
}
_FORM_NAMES = {
    "access_key_id": "an AccessKey id (the connection's login)",
    "access_key_secret": "an AccessKey secret (the connection's password)",
}
_ARGUMENTS = {"role_session_expiration": "duration_seconds", "credentials_uri": "uri"}
"""What the library calls otherwise."""


def credential_source(kind: str, fields: Mapping[str, Any]) -> CredentialSource:
    """Return what gives credentials of this kind; equal fields share one source, and what it has obtained.

    An AccessKey that this kind does not use is left alone, as some forms cannot be emptied.

    :raises PaiConfigurationError: a field is missing, malformed, or one that this kind does not use.
    """
    given = {
        name: value for name, value in fields.items() if not (value is None or value is False or value == "")
    }
    used = _used(kind, given)
    if kind == "bearer":
        return StaticCredential(BearerToken(used["bearer_token"]))
    provider = KINDS[kind].provider
    if not provider:
        return StaticCredential(Credential(**used))
    values = {_ARGUMENTS.get(name, name): _value(name, value) for name, value in used.items()}
    return _shared(kind, provider, tuple(sorted({**_ALWAYS.get(kind, {}), **values}.items())))


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
            raise PaiConfigurationError(f"{name}={text!r} is no number of seconds, at least 900.")
        return int(text)
    if name in ("private_key_file", "oidc_token_file_path") and not text.startswith("/"):
        # Not repeated here: it may be the key itself, or the token.
        raise PaiConfigurationError(f"{name} is no absolute path; write where the file is on the workers.")
    return text


def _compact(policy: Any) -> str:
    """Return a policy without spaces, which the library's signature would spell in another way than STS."""
    try:
        parsed = msgspec.json.decode(policy) if isinstance(policy, str) else policy
        return msgspec.json.encode(parsed).decode().replace(" ", r"\u0020")
    except (msgspec.DecodeError, TypeError) as error:
        raise PaiConfigurationError(
            f"The policy is no JSON ({error}); correct it in the connection."
        ) from None


@functools.lru_cache(maxsize=64)
def _shared(kind: str, provider: str, arguments: tuple[tuple[str, Any], ...]) -> RenewedCredential:
    # A sensor reads its connection anew at each poke: it must not assume its role anew each time.
    return RenewedCredential(kind, provider, dict(arguments))
