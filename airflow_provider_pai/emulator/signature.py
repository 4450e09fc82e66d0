"""Verify signatures, independently of any signer: ACS3-HMAC-SHA256 here, the older one in `older_signature`.

The canonical request is rebuilt from the request line, the headers and the body as they arrived.

Source: the page "V3 request structure and signature" in Alibaba Cloud's API documentation.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from urllib.parse import quote, unquote, unquote_plus

from . import older_signature as older
from .errors import RefusedError

ALGORITHM = "ACS3-HMAC-SHA256"
VERSION = "2021-02-04"
SKEW = 15 * 60  # seconds that the client's clock may differ from ours
ALWAYS_SIGNED = frozenset(
    ["host", "x-acs-action", "x-acs-version", "x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256"]
)
_AUTHORIZATION = re.compile(
    rf"{ALGORITHM}\s+Credential=(?P<access_key_id>[^,\s]+),\s*"
    r"SignedHeaders=(?P<signed>[^,\s]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True)
class Arrived:
    """A request as it arrived. Header names are lower case."""

    method: str
    raw_path: str
    headers: dict[str, str]
    body: bytes

    @property
    def access_key_id(self) -> str | None:
        """The key that the request claims to be signed with, not verified."""
        authorization = self.headers.get("authorization", "")
        if authorization.startswith(older.SCHEME):
            return older.claim(authorization)[0]
        claimed = _AUTHORIZATION.fullmatch(authorization)
        return claimed["access_key_id"] if claimed else None


@dataclass(frozen=True)
class Key:
    """An accepted credential: an access key, an STS triple, or a bearer token."""

    access_key_id: str
    access_key_secret: str = field(repr=False)
    security_token: str | None = field(default=None, repr=False)
    expires_at: float | None = None
    bearer_token: str | None = field(default=None, repr=False)


def lower_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Fold raw headers: lower-case names; stripped values; repeated values sorted and joined by commas."""
    values: dict[str, list[str]] = {}
    for name, value in raw:
        values.setdefault(name.decode("latin-1").lower(), []).append(value.decode("utf-8", "replace").strip())
    return {name: ",".join(sorted(several)) for name, several in values.items()}


def canonical_request(request: Arrived, signed: list[str]) -> str:
    """Rebuild the text that the client must have signed.

    Path and query are decoded and encoded again: clients encode them differently on the wire (`+` or `%20`,
    `:` or `%3A`), but there is one canonical form.
    """
    path, _, query = request.raw_path.partition("?")
    split = (pair.partition("=") for pair in query.split("&") if pair)
    pairs = sorted((unquote_plus(name), unquote_plus(value)) for name, _, value in split)
    return "\n".join(
        [
            request.method,
            "/".join(_encode(unquote(segment)) for segment in path.split("/")),
            "&".join(f"{_encode(name)}={_encode(value)}" for name, value in pairs),
            *(f"{name}:{request.headers[name]}" for name in signed),
            "",
            ";".join(signed),
            hashlib.sha256(request.body).hexdigest(),
        ]
    )


def _encode(text: str) -> str:
    return quote(text, safe="~")


class Verifier:
    """Checks that an accepted key signed a request, recently, and with a nonce that is new."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}
        self._nonces: set[tuple[str, str]] = set()
        self._forgettable: list[tuple[float, tuple[str, str]]] = []

    def accept(self, key: Key) -> None:
        """Accept requests signed with `key`. It replaces an earlier key of the same id."""
        self._keys[key.access_key_id] = key

    def revoke(self, access_key_id: str) -> None:
        """Stop accepting `access_key_id`. An unknown id is not an error."""
        self._keys.pop(access_key_id, None)

    def verify(self, request: Arrived, action: str, now: float) -> None:
        """Return if `request` is a correctly signed call of `action` at unix time `now`.

        :raises RefusedError: with the code of the real service.
        """
        if "x-acs-bearer-token" in request.headers and "authorization" not in request.headers:
            self._verify_bearer(request, now)
            _check_action(request, action)
            return
        if request.headers.get("authorization", "").startswith(older.SCHEME):
            self._verify_older(request, action, now)
            return
        access_key_id, signed, signature = _claim(request)
        key = self._key(access_key_id)
        _check_security_token(request, key, signed, now)
        nonce_dies = _check_date(_date(request), now)
        _check_action(request, action)
        _check_signature(request, key, signed, signature)
        self._use_nonce((access_key_id, request.headers["x-acs-signature-nonce"]), nonce_dies, now)

    def _verify_older(self, request: Arrived, action: str, now: float) -> None:
        older.check_form(request)
        access_key_id, signature = older.claim(request.headers["authorization"])
        key = self._key(access_key_id)
        signed = [name for name in request.headers if name.startswith("x-acs-")]
        _check_security_token(request, key, signed, now)
        nonce_dies = _check_date(older.date(request), now)
        _check_action(request, request.headers.get("x-acs-action") and action)
        older.check_signature(request, key.access_key_secret, signature)
        self._use_nonce((access_key_id, request.headers["x-acs-signature-nonce"]), nonce_dies, now)

    def _key(self, access_key_id: str) -> Key:
        key = self._keys.get(access_key_id)
        if key is None or key.bearer_token:
            raise RefusedError(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        return key

    def _verify_bearer(self, request: Arrived, now: float) -> None:
        if request.headers.get("x-acs-signature-type") != "BEARERTOKEN":
            raise RefusedError(400, "InvalidSignatureType", "x-acs-signature-type must be BEARERTOKEN.")
        token = request.headers["x-acs-bearer-token"]
        for key in self._keys.values():
            if key.bearer_token and hmac.compare_digest(key.bearer_token.encode(), token.encode()):
                if key.expires_at is not None and key.expires_at <= now:
                    raise RefusedError(
                        400, "InvalidBearerToken.Expired", "Specified bearer token is expired."
                    )
                return
        raise RefusedError(400, "InvalidBearerToken", "Specified bearer token is not valid.")

    def _use_nonce(self, nonce: tuple[str, str], dies: float, now: float) -> None:
        # A replay is refused for its date once that is too old, so the nonce need not be kept any longer.
        while self._forgettable and self._forgettable[0][0] < now:
            self._nonces.discard(heapq.heappop(self._forgettable)[1])
        if nonce in self._nonces:
            raise RefusedError(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces.add(nonce)
        heapq.heappush(self._forgettable, (dies, nonce))


def _claim(request: Arrived) -> tuple[str, list[str], str]:
    authorization = request.headers.get("authorization")
    if not authorization:
        raise RefusedError(400, "MissingAuthorization", "The request carries no Authorization header.")
    claim = _AUTHORIZATION.fullmatch(authorization)
    if claim is None:
        raise RefusedError(
            400,
            "IncompleteSignature",
            f"Authorization must read '{ALGORITHM} Credential=…,SignedHeaders=…,Signature=…'.",
        )
    signed = claim["signed"].split(";")
    if signed != sorted({name.lower() for name in signed}):
        raise RefusedError(400, "IncompleteSignature", "SignedHeaders must be lower case, sorted and unique.")
    absent = [name for name in signed if name not in request.headers]
    if absent:
        raise RefusedError(400, "IncompleteSignature", f"Signed headers are missing: {', '.join(absent)}.")
    _require_signed(signed, ALWAYS_SIGNED)
    return claim["access_key_id"], signed, claim["signature"]


def _require_signed(signed: list[str], names: frozenset[str]) -> None:
    unsigned = sorted(names.difference(signed))
    if unsigned:
        raise RefusedError(
            400, "IncompleteSignature", f"These headers must be signed: {', '.join(unsigned)}."
        )


def _check_security_token(request: Arrived, key: Key, signed: list[str], now: float) -> None:
    token = request.headers.get("x-acs-security-token")
    if token is None and key.security_token is None:
        return
    if token is None:
        raise RefusedError(400, "MissingSecurityToken", "SecurityToken is mandatory for this access key.")
    if not hmac.compare_digest(token.encode(), (key.security_token or "").encode()):
        raise RefusedError(400, "InvalidSecurityToken.Malformed", "Specified SecurityToken is malformed.")
    if key.expires_at is not None and key.expires_at <= now:
        raise RefusedError(400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
    _require_signed(signed, frozenset(["x-acs-security-token", "x-acs-accesskey-id"]))
    if request.headers["x-acs-accesskey-id"] != key.access_key_id:
        raise RefusedError(400, "IncompleteSignature", "x-acs-accesskey-id is not the key of the Credential.")


def _date(request: Arrived) -> float:
    try:
        date = datetime.strptime(request.headers["x-acs-date"], "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise RefusedError(
            400, "InvalidTimeStamp.Format", "x-acs-date must read YYYY-MM-DDThh:mm:ssZ, in UTC."
        ) from None
    return date.replace(tzinfo=timezone.utc).timestamp()


def _check_date(unix_time: float, now: float) -> float:
    """Return the unix time after which this date is no longer accepted."""
    if abs(unix_time - now) > SKEW:
        raise RefusedError(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
    return unix_time + SKEW


def _check_action(request: Arrived, action: str | None) -> None:
    if request.headers.get("x-acs-version") != VERSION:
        raise RefusedError(400, "InvalidVersion", f"x-acs-version must be {VERSION}.")
    if request.headers.get("x-acs-action") != action:
        path = request.raw_path.partition("?")[0]
        raise RefusedError(
            404, "InvalidAction.NotFound", f"x-acs-action must be {action} for {request.method} {path}."
        )


def _check_signature(request: Arrived, key: Key, signed: list[str], signature: str) -> None:
    if request.headers["x-acs-content-sha256"] != hashlib.sha256(request.body).hexdigest():
        raise RefusedError(400, "SignatureDoesNotMatch", "x-acs-content-sha256 is not the hash of the body.")
    canonical = canonical_request(request, signed)
    to_sign = f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    ours = hmac.new(key.access_key_secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
    if not hmac.compare_digest(ours, signature):
        # The real service sends its string to sign and canonical request too. With STS they hold the security
        # token, so a client must keep this message out of its logs.
        raise RefusedError(
            400,
            "SignatureDoesNotMatch",
            "Specified signature is not matched with our calculation. "
            f"server StringToSign is [{to_sign}] server CanonicalRequest is [{canonical}]",
        )
