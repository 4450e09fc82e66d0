"""Turn the fields of an Airflow Connection into settings. Imports no Airflow.

docs/connection.md, docs/credentials.md and docs/filesystems.md describe the fields. Endpoints follow the
vendor's rules, ``aiworkspace.<region>.aliyuncs.com`` and ``oss-<region>.aliyuncs.com``.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import string
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from airflow_provider_pai.api.credentials import BearerToken, CredentialSource
from airflow_provider_pai.api.errors import PaiConfigurationError
from airflow_provider_pai.api.network import is_loopback
from airflow_provider_pai.api.sources import KINDS, credential_source
from airflow_provider_pai.connection_form import CONNECTION_TYPE, FIELDS

__all__ = [
    "ALIBABA_CLOUD_TYPE",
    "CONSOLE_FIELDS",
    "OSS_TYPE",
    "REGIONS",
    "OssSettings",
    "Settings",
    "fill_in",
]

ALIBABA_CLOUD_TYPE = "alibaba_cloud"
OSS_TYPE = "oss"
"""The connection of the OSS hook in apache-airflow-providers-alibaba."""

REGIONS = (
    *(
        "cn-beijing",
        "cn-wulanchabu",
        "cn-hangzhou",
        "cn-shanghai",
        "cn-shenzhen",
        "cn-heyuan",
        "cn-guangzhou",
    ),
    *("cn-hongkong", "cn-shanghai-finance-1", "ap-northeast-1", "ap-northeast-2", "ap-southeast-1"),
    *("ap-southeast-3", "ap-southeast-5", "ap-south-1", "us-east-1", "us-west-1", "eu-central-1"),
)

CONSOLE_FIELDS = ("region", "workspace_id", "source_type", "source_id", "experiment_id", "run_id")

STS = re.compile(r"sts[a-z0-9-]*(\.[a-z]{2}-[a-z0-9-]+)?\.aliyuncs\.com", re.IGNORECASE)
"""The vendor's STS. Other hosts of its domain may be anybody's, such as a function or a bucket."""
OSS_ENDPOINT = re.compile(r"oss-([a-z0-9-]+?)(-internal)?\.aliyuncs\.com")
MAY_HOLD_SPACES = ("policy", "private_key_file", "oidc_token_file_path")
CREDENTIAL_FIELDS = tuple({name: None for needs, takes, _ in KINDS.values() for name in (*needs, *takes)})


class AnyConnection(Protocol):
    """The part of Airflow's Connection that this module reads."""

    conn_id: str
    conn_type: Any
    host: str | None
    login: str | None
    password: str | None
    port: int | None
    extra: Any


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a connection. They hold no secret; ``credentials.get()`` returns the credential."""

    endpoint: str
    credentials: Any
    region: str | None = None
    workspace_id: str | None = None
    console_url: str | None = None

    @classmethod
    def of(cls, connection: AnyConnection, extra: Any, region: str | None) -> Settings:
        """Read a connection and its extras, as Airflow reads their JSON. ``region`` overrides theirs.

        :raises PaiConfigurationError: with the field to correct.
        """
        if connection.conn_type not in (CONNECTION_TYPE, ALIBABA_CLOUD_TYPE):
            raise PaiConfigurationError(
                f"The connection {connection.conn_id!r} is of type {connection.conn_type!r}. Make one of "
                f"type {CONNECTION_TYPE!r}, or name one of type {ALIBABA_CLOUD_TYPE!r}."
            )
        _check_fields(connection, extra)
        if region and connection.host:
            raise PaiConfigurationError(
                f"region={region!r} would change nothing: the connection {connection.conn_id!r} names its "
                "endpoint as its host. Leave the region out here, or the host there."
            )
        region = region or extra.get("region") or None
        return cls(
            endpoint=_endpoint(connection, extra, region),
            credentials=_credentials(connection, extra, region),
            region=region,
            workspace_id=str(extra["workspace_id"]) if extra.get("workspace_id") else None,
            console_url=str(extra["console_url"]) if extra.get("console_url") else None,
        )


class OssSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where OSS is, and the credential for it. They hold no secret, as :class:`Settings` hold none."""

    endpoint: str
    credentials: Any
    region: str | None
    """Part of version 4 of the signature; without it version 1 is used."""

    @classmethod
    def of(
        cls, connection: AnyConnection, extra: Any, *, region: str | None = None, endpoint: str | None = None
    ) -> OssSettings:
        """Read a connection of type ``pai``, ``alibaba_cloud`` or ``oss``. The arguments override its own.

        :raises PaiConfigurationError: with the field to correct.
        """
        place = f"the connection {connection.conn_id!r}"
        if connection.conn_type not in (CONNECTION_TYPE, ALIBABA_CLOUD_TYPE, OSS_TYPE):
            raise PaiConfigurationError(
                f"The connection {connection.conn_id!r} is of type {connection.conn_type!r}; oss:// needs "
                f"one of type {CONNECTION_TYPE!r}, {ALIBABA_CLOUD_TYPE!r} or {OSS_TYPE!r}."
            )
        _check_fields(connection, extra)
        if connection.conn_type == OSS_TYPE and extra.get("auth_type") not in (None, "", "AK"):
            raise PaiConfigurationError(
                f"The auth_type of {place} is not 'AK'. For other credentials set a credential_type."
            )
        own = "endpoint" if connection.conn_type == OSS_TYPE else "oss_endpoint"
        endpoint = endpoint or extra.get(own)
        region = region or extra.get("region") or None
        if endpoint:
            endpoint = _address(str(endpoint), None, f"The OSS endpoint of {place}", extra)
            named = OSS_ENDPOINT.fullmatch(urlsplit(endpoint).hostname or "")
            region = named[1] if named else region
        elif not region or not re.fullmatch(r"[a-z]{2}(-[a-z0-9]+)+", region):
            raise PaiConfigurationError(
                f"The region of {place} is {region!r}. Enter one such as 'cn-hangzhou', or {own} in its "
                "extras."
            )
        else:
            endpoint = f"https://oss-{region}{'-internal' if _is_true(extra.get('vpc')) else ''}.aliyuncs.com"
        credentials = _credentials(connection, extra, region)
        if isinstance(credentials, BearerToken):
            raise PaiConfigurationError(
                f"The bearer token of {place} cannot sign requests to OSS. Name a connection with an "
                "AccessKey or a role in the path, such as oss://my_conn@bucket/key."
            )
        return cls(endpoint=endpoint, credentials=credentials, region=region)


def _check_fields(connection: AnyConnection, extra: Any) -> None:
    """Refuse extras that mean nothing, and texts that a stray space would make mean something else."""
    place = f"the connection {connection.conn_id!r}"
    if not isinstance(extra, Mapping):
        nested = (
            " It is JSON within JSON: enter it without the outer quotes." if isinstance(extra, str) else ""
        )
        raise PaiConfigurationError(
            f"The extras of {place} are {_kind(extra)}, not an object of fields such as "
            f'{{"region": "cn-hangzhou"}}.{nested}'
        )
    if not extra and str(connection.extra or "").strip() not in ("", "{}"):
        raise PaiConfigurationError(
            f'The extras of {place} are not JSON. Write them as {{"region": "cn-hangzhou"}}.'
        )
    # A connection of the vendor's serves other products too. The Test button of Airflow 2 sends the
    # fields of all types of connections, each under such a name as well.
    tried = any(name.startswith("extra__") for name in extra)
    if connection.conn_type == CONNECTION_TYPE and not tried:
        for name in extra:
            if name not in FIELDS:
                near = difflib.get_close_matches(name, FIELDS, n=1)
                advice = f"Did you mean {near[0]!r}? " if near else ""
                raise PaiConfigurationError(
                    f"The extras of {place} have the unknown field {name!r}. {advice}"
                    f"Known are: {', '.join(FIELDS)}."
                )
    texts = {name: value for name, value in extra.items() if name in (*FIELDS, "access_key_id")}
    texts |= {"AccessKey id (login)": connection.login, "AccessKey secret (password)": connection.password}
    for name, value in texts.items():
        boolean = "boolean" in FIELDS[name]["schema"]["type"] if name in FIELDS else False
        number = name in ("workspace_id", "role_session_expiration") and type(value) is int
        if value is None or boolean or number:
            continue
        if not isinstance(value, str):
            raise PaiConfigurationError(f"The {name} of {place} is {_kind(value)}; write it as text.")
        if value and name not in MAY_HOLD_SPACES and re.search(r"\s", value):
            raise PaiConfigurationError(f"The {name} of {place} holds a space or a line break; take it out.")


def _kind(value: Any) -> str:
    kinds = {str: "a text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return kinds.get(type(value), "a list")


def _credentials(connection: AnyConnection, extra: Mapping[str, Any], region: str | None) -> CredentialSource:
    key_id, secret = connection.login, connection.password
    if connection.conn_type != CONNECTION_TYPE:
        key_id, secret = extra.get("access_key_id") or key_id, extra.get("access_key_secret") or secret
    fields = {name: extra.get(name) for name in CREDENTIAL_FIELDS if not name.startswith("access_key")}
    kind = str(extra.get("credential_type") or ("sts" if fields["security_token"] else "access_key"))
    if not fields["sts_endpoint"] and "sts_endpoint" in KINDS.get(kind, KINDS["default"]).takes:
        # Always given: without it the library would take one from an environment variable.
        fields["sts_endpoint"] = _service("sts", region, extra) if region else "sts.aliyuncs.com"
    _check_sts(fields["sts_endpoint"], connection, extra)
    try:
        return credential_source(kind, {"access_key_id": key_id, "access_key_secret": secret, **fields})
    except PaiConfigurationError as error:
        raise PaiConfigurationError(f"The connection {connection.conn_id!r}: {error}") from None


def _check_sts(endpoint: Any, connection: AnyConnection, extra: Mapping[str, Any]) -> None:
    """Refuse an STS outside the vendor's domain, unless the connection allows it.

    Whoever edits a connection could else name a file of the worker as its OIDC token, and have it sent there.
    """
    if endpoint and not STS.fullmatch(str(endpoint)) and not _is_true(extra.get("allow_sts_endpoint")):
        raise PaiConfigurationError(
            f"The connection {connection.conn_id!r} would send its credential to {endpoint!r}, which is not "
            "an STS of aliyuncs.com such as 'sts.cn-hangzhou.aliyuncs.com'. Correct its sts_endpoint or "
            "region, or set allow_sts_endpoint in its extras if that service is yours."
        )


def _service(name: str, region: str, extra: Mapping[str, Any]) -> str:
    return f"{name}{'-vpc' if _is_true(extra.get('vpc')) else ''}.{region}.aliyuncs.com"


def _endpoint(connection: AnyConnection, extra: Mapping[str, Any], region: str | None) -> str:
    if not (connection.host or "").strip():
        return f"https://{_service('aiworkspace', _known(region, connection), extra)}"
    return _address(
        str(connection.host), connection.port, f"The host of the connection {connection.conn_id!r}", extra
    )


def _address(written: str, port: int | None, place: str, extra: Mapping[str, Any]) -> str:
    """Return an endpoint as scheme, host and port; ``place`` says in errors where it stands."""
    address = _bracketed(written.strip())
    if "@" in address:
        raise PaiConfigurationError(f"{place} holds a login; enter it in the fields of login and password.")
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        name, port = parts.hostname or "", parts.port or port
    except ValueError as error:
        raise PaiConfigurationError(f"{place}, {written!r}, is not an address: {error}.") from None
    if not name or parts.scheme not in ("", "http", "https"):
        raise PaiConfigurationError(f"{place}, {written!r}, is not an address of http or https.")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise PaiConfigurationError(
            f"{place}, {written!r}, has more than a host and its port. Leave the rest out: the provider adds "
            "the paths."
        )
    loopback = is_loopback(name)
    scheme = parts.scheme or ("http" if loopback else "https")
    if scheme == "http" and not loopback and not _is_true(extra.get("allow_http")):
        raise PaiConfigurationError(
            f"{place} would send the key unencrypted to {name!r}. Write https:// in it, or set "
            "allow_http in the connection's extras if that network is safe."
        )
    host = f"[{name}]" if ":" in name else name
    return f"{scheme}://{host}{f':{port}' if port else ''}"


def _bracketed(address: str) -> str:
    """Put an IPv6 address in brackets, which Airflow removes when it reads a URI."""
    scheme, separator, host = address.rpartition("://")
    try:
        return f"{scheme}{separator}[{ipaddress.IPv6Address(host)}]"
    except ValueError:
        return address


def fill_in(template: str, fields: Mapping[str, str]) -> str:
    """Return a console link from its template.

    :raises PaiConfigurationError: the template is not an http(s) address, or has anything but these fields.
    """
    problem = _problem(template, fields)
    if problem:
        raise PaiConfigurationError(
            f"The connection's console_url {template!r} cannot be filled in ({problem}); its fields are: "
            f"{', '.join(f'{{{name}}}' for name in fields)}."
        )
    return template.format(**fields)


def _problem(template: str, fields: Mapping[str, str]) -> str:
    """Say what is wrong with a template: a browser opens it, and a format could give it any length."""
    if not re.match(r"https?://[^/?#\\]", template, re.IGNORECASE):
        return "it does not begin with http:// or https:// and a host"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        return str(error)
    for _, name, spec, conversion in parts:
        if name is not None and name not in fields:
            return f"it has no field {name!r}"
        if spec or conversion:
            return f"{{{name}}} takes neither a format nor a conversion"
    return ""


def _known(region: str | None, connection: AnyConnection) -> str:
    if not region:
        raise PaiConfigurationError(
            f"The connection {connection.conn_id!r} has neither a region nor an endpoint. Enter a region "
            "such as 'cn-hangzhou', or the endpoint as its host."
        )
    if region not in REGIONS:
        near = difflib.get_close_matches(region, REGIONS, n=1)
        advice = f"Did you mean {near[0]!r}?" if near else f"Known are: {', '.join(REGIONS)}."
        raise PaiConfigurationError(
            f"This provider does not know the region {region!r}. {advice} For a new region enter its "
            f"endpoint, https://aiworkspace.{region}.aliyuncs.com, as the host of {connection.conn_id!r}."
        )
    return region


def _is_true(value: Any) -> bool:
    """Tell whether an extra is switched on. In a connection URI it is a text."""
    return value is True or str(value).strip().lower() in ("true", "1", "yes", "on")
