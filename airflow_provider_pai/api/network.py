"""The way to PAI: its address, and the proxy that this machine's environment names, for both transports."""

from __future__ import annotations

import base64
import ipaddress
import re
import sys
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from airflow_provider_pai.api.errors import PaiConfigurationError

__all__ = ["Proxy", "address_of", "is_loopback", "proxy_for"]

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?")
# TLS inside TLS needs Python 3.11 in async code.
PROXY_SCHEMES = ("http", "https") if sys.version_info >= (3, 11) else ("http",)


class Proxy(NamedTuple):
    """A proxy: its address without a login, and the header that carries its login."""

    url: str
    headers: dict[str, str]


def is_host(text: str) -> bool:
    """Tell whether a text is a host, with its port where it has one."""
    return _HOST.fullmatch(text) is not None


def proxy_for(endpoint: str) -> Proxy | None:
    """Return the proxy to an endpoint, or ``None``. A loopback address never has one.

    The settings are those that requests reads: ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
    ``NO_PROXY``, in either case. Without a scheme, a proxy speaks plain HTTP.

    :raises PaiConfigurationError: the setting is not the address of a proxy that is supported.
    """
    if is_loopback(urlsplit(endpoint).hostname or ""):
        return None
    from requests.utils import get_environ_proxies, select_proxy  # not while a DAG is parsed

    setting = (select_proxy(endpoint, get_environ_proxies(endpoint)) or "").strip()
    if not setting:
        return None
    scheme = urlsplit(endpoint).scheme
    where = f"The proxy in {scheme.upper()}_PROXY or ALL_PROXY"
    try:
        parts = urlsplit(setting if "://" in setting else f"http://{setting}")
        login, _, host = parts.netloc.rpartition("@")
        good = is_host(host) and parts.port != 0
    except ValueError:
        good = False
    if not good:  # the text may hold a password, so it is not repeated
        raise PaiConfigurationError(
            f"{where} is not an address such as 'http://10.0.0.1:3128'. In its login, write characters such "
            "as '#', '/' and '@' percent-encoded."
        )
    if parts.scheme not in PROXY_SCHEMES:
        raise PaiConfigurationError(
            f"{where} has the scheme {parts.scheme!r}, which is not supported here. Name a proxy whose "
            f"address begins with {' or '.join(f'{name}://' for name in PROXY_SCHEMES)}, or take PAI's host "
            "into NO_PROXY."
        )
    return Proxy(f"{parts.scheme}://{host}", _login_headers(login))


def _login_headers(login: str) -> dict[str, str]:
    if not login:
        return {}
    name, _, password = login.partition(":")
    text = f"{unquote(name)}:{unquote(password)}".encode("utf-8", "surrogateescape")
    return {"Proxy-Authorization": f"Basic {base64.b64encode(text).decode()}"}


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_of(endpoint: str) -> tuple[str, str]:
    """Return an endpoint as scheme and host, and the host alone, each with its port where it has one."""
    try:
        parts = urlsplit(endpoint or "")
        good = is_host(parts.netloc) and parts.port != 0 and parts.scheme in ("http", "https")
    except ValueError:
        good = None
    if not good or parts.path.strip("/") or parts.query or parts.fragment:
        redacted = re.sub("//.*@", "//***@", str(endpoint))
        raise PaiConfigurationError(
            f"The endpoint {redacted!r} is not an address of PAI; write one such as "
            "'https://aiworkspace.cn-hangzhou.aliyuncs.com'."
        )
    return f"{parts.scheme}://{parts.netloc}", parts.netloc
