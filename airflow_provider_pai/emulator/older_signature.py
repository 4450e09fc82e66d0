"""Verify the signature before ACS3-HMAC-SHA256: ROA style, HMAC-SHA1, `Authorization: acs <key>:<signature>`.

PAI's own Python SDK (alipai) and the classic core SDK send it.

Source: the page "V2 ROA request structure and signature" in Alibaba Cloud's API documentation.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

from .errors import RefusedError

if TYPE_CHECKING:
    from .signature import Arrived

SCHEME = "acs "


def claim(authorization: str) -> tuple[str, str]:
    """Return the access key id and the signature of an Authorization header."""
    access_key_id, _, signature = authorization[len(SCHEME) :].strip().rpartition(":")
    return access_key_id, signature


def check_form(request: Arrived) -> None:
    """Refuse a request that does not say how it is signed, or when."""
    for name, wanted in (("x-acs-signature-method", "HMAC-SHA1"), ("x-acs-signature-version", "1.0")):
        if request.headers.get(name) != wanted:
            raise RefusedError(400, "IncompleteSignature", f"{name} must be {wanted}.")
    for name in ("date", "x-acs-signature-nonce"):
        if not request.headers.get(name):
            raise RefusedError(400, "IncompleteSignature", f"The header {name} is missing.")


def date(request: Arrived) -> float:
    """Return the unix time of the Date header."""
    try:
        return parsedate_to_datetime(request.headers["date"]).timestamp()
    except (ValueError, OverflowError):
        raise RefusedError(400, "InvalidTimeStamp.Format", "Date must be a date of HTTP, in GMT.") from None


def check_signature(request: Arrived, secret: str, signature: str) -> None:
    """Refuse a request that the owner of `secret` has not signed as it is."""
    digest = request.headers.get("content-md5")
    if (
        digest
        and digest != base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode()
    ):
        raise RefusedError(400, "InvalidDigest", "Content-MD5 is not the hash of the body.")
    texts = list(_texts_to_sign(request))
    if not any(hmac.compare_digest(_sign(text, secret), signature.encode()) for text in texts):
        raise RefusedError(
            400,
            "SignatureDoesNotMatch",
            f"Specified signature is not matched with our calculation. server string to sign is [{texts[0]}]",
        )


def _sign(text: str, secret: str) -> bytes:
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest())


def _texts_to_sign(request: Arrived) -> Iterator[str]:
    """Yield what the client may have signed: the two SDKs differ in what they encode and in empty values."""
    headers = request.headers
    lines = [
        request.method,
        *(headers.get(name, "") for name in ("accept", "content-md5", "content-type", "date")),
    ]
    lines += [f"{name}:{headers[name]}" for name in sorted(headers) if name.startswith("x-acs-")]
    raw, _, query = request.raw_path.partition("?")
    split = (pair.partition("=") for pair in query.split("&") if pair)
    pairs = sorted((unquote_plus(name), unquote_plus(value)) for name, _, value in split)
    for path in (raw, unquote(raw)):
        for equals in ("", "="):
            terms = [f"{name}={value}" if value else f"{name}{equals}" for name, value in pairs]
            yield "\n".join([*lines, path + ("?" if terms else "") + "&".join(terms)])
