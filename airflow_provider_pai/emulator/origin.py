"""Tell whose request it is: a web page in a browser on this machine must not drive the emulator.

A page can send requests to any port of this machine. A browser names the page in `Origin`; and if the page's
own name leads to this machine (DNS rebinding), that name stands in `Host`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit


def foreign(raw_headers: Iterable[tuple[bytes, bytes]], own_host: str) -> str:
    """Return why a request is refused, or an empty text. Ports do not matter: a port may be forwarded."""
    for raw_name, raw_value in raw_headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip()
        if name == "host" and not _is_own(f"http://{value}", own_host):
            return f"The host {value!r} is not this emulator: ask http://{own_host}."
        if name == "origin" and not _is_own(value, own_host):
            return f"The web page {value!r} may not use this emulator."
        if name == "sec-fetch-site" and value == "cross-site":
            return "Another site's web page may not use this emulator."
    return ""


def _is_own(url: str, own_host: str) -> bool:
    try:
        parts = urlsplit(url)
        name = (parts.hostname or "").rstrip(".")
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or parts.username is not None or parts.path:
        return False
    if name == own_host or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
