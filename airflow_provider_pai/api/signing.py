"""The authentication of one attempt: ACS3-HMAC-SHA256, Alibaba Cloud's request signature V3 in ROA style, or
a bearer token. Pure functions.

Source: the page "V3 request structure and signature" in Alibaba Cloud's API documentation, and the official
signer (alibabacloud-tea-openapi), whose output the tests reproduce.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import quote

__all__ = ["ALGORITHM", "authorize", "canonical_query", "percent_encode", "sign"]

ALGORITHM = "ACS3-HMAC-SHA256"


@functools.lru_cache(maxsize=256)  # all but the page token comes again with every page
def percent_encode(text: str) -> str:
    """Encode ``text`` as UTF-8, leaving only ``A-Z a-z 0-9 - _ . ~`` as they are."""
    return quote(text, safe="-_.~")


def canonical_query(query: Mapping[str, str]) -> str:
    """Return the query string, sorted and percent-encoded. The same bytes are signed and sent."""
    return "&".join(f"{percent_encode(key)}={percent_encode(query[key])}" for key in sorted(query))


def sign(
    *,
    method: str,
    host: str,
    path: str,
    query: str,
    body: bytes,
    action: str,
    version: str,
    access_key_id: str,
    access_key_secret: str,
    security_token: str | None,
    date: str,
    nonce: str,
) -> dict[str, str]:
    """Return the headers that authenticate one attempt at a request by its signature.

    ``path`` is percent-encoded and ``query`` comes from :func:`canonical_query`; ``host`` is the Host
    header to be sent, with its port where it has one; ``date`` is UTC as ``2025-10-20T08:30:00Z``;
    ``nonce`` must never be used twice. Only ``host`` and ``x-acs-*`` are signed, so that a proxy which
    rewrites other headers breaks nothing.
    """
    headers = _headers(host, body, action, version, date, nonce)
    if security_token:
        headers["x-acs-accesskey-id"] = access_key_id
        headers["x-acs-security-token"] = security_token
    names = sorted(headers)
    signed_names = ";".join(names)
    header_lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    body_hash = headers["x-acs-content-sha256"]
    canonical = f"{method}\n{path}\n{query}\n{header_lines}\n{signed_names}\n{body_hash}"
    string_to_sign = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(access_key_secret.encode(), string_to_sign.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"{ALGORITHM} Credential={access_key_id},SignedHeaders={signed_names},Signature={signature}"
    )
    return headers


def authorize(
    *, token: str, host: str, body: bytes, action: str, version: str, date: str, nonce: str, **_unsigned: str
) -> dict[str, str]:
    """Return the headers that authenticate one attempt by a bearer token, without a signature.

    Takes the arguments of :func:`sign` with a token instead of a key, and ignores method, path and query.
    """
    headers = _headers(host, body, action, version, date, nonce)
    return {**headers, "x-acs-bearer-token": token, "x-acs-signature-type": "BEARERTOKEN"}


def _headers(host: str, body: bytes, action: str, version: str, date: str, nonce: str) -> dict[str, str]:
    return {
        "host": host,
        "x-acs-action": action,
        "x-acs-content-sha256": hashlib.sha256(body).hexdigest(),
        "x-acs-date": date,
        "x-acs-signature-nonce": nonce,
        "x-acs-version": version,
    }
