"""Whom a client trusts: one TLS context for both transports, made anew when the CA bundle changes."""

from __future__ import annotations

import functools
import logging
import os
import re
import ssl
from collections.abc import Iterator

from requests import adapters

from airflow_provider_pai.api.errors import PaiConfigurationError

__all__ = ["Trust", "causes", "describe_refusal"]

log = logging.getLogger(__name__)

_SETTINGS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")
"""How OpenSSL names a certificate in a directory."""

Version = tuple[int, int, int] | None


class Trust:
    """The CA bundle that requests would use, as a TLS context. A directory of hashed certificates will do.

    :raises PaiConfigurationError: the bundle is not there.
    """

    def __init__(self) -> None:
        self._setting = next((name for name in _SETTINGS if os.environ.get(name)), "")
        self._bundle = os.environ[self._setting] if self._setting else adapters.DEFAULT_CA_BUNDLE_PATH
        self._version = _version(self._bundle)
        self._context: ssl.SSLContext | None = None
        if self._version is None:
            raise self._unusable("which is not there")

    @property
    def changed(self) -> bool:
        """Whether :meth:`context` has a bundle to read, which takes 30 ms of CPU."""
        return self._context is None or _version(self._bundle) != self._version

    def context(self) -> ssl.SSLContext:
        """Return the context. While a bundle that has changed cannot be read, the last one stays in use.

        :raises PaiConfigurationError: the bundle holds no certificates, and never did.
        """
        version = _version(self._bundle)
        if self._context is None or version != self._version:
            try:
                self._context = self._read(version)
            except PaiConfigurationError as error:
                if self._context is None:
                    raise
                log.warning("%s The certificates that it held before stay in use.", error)
            self._version = version
        return self._context

    def _read(self, version: Version) -> ssl.SSLContext:
        try:
            return _context(self._bundle, version)
        except OSError as error:
            raise self._unusable(f"which holds no CA certificates in PEM ({error})") from None

    def _unusable(self, why: str) -> PaiConfigurationError:
        return PaiConfigurationError(
            f"{self._setting or 'The package certifi'} names {self._bundle}, {why}. Name a file with CA "
            "certificates in PEM, or a directory that 'openssl rehash' has prepared."
        )


def _version(bundle: str) -> Version:
    """Return what changes when a bundle is replaced."""
    try:
        found = os.stat(bundle)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@functools.lru_cache(maxsize=4)
def _context(bundle: str, version: Version) -> ssl.SSLContext:
    if os.path.isdir(bundle):
        if not any(map(_HASHED.fullmatch, os.listdir(bundle))):
            raise OSError("none has a name such as 5ed36f99.0, by which OpenSSL finds it")
        context = ssl.create_default_context(capath=bundle)
    else:
        context = ssl.create_default_context(cafile=bundle)
    context.set_alpn_protocols(["http/1.1"])
    return context


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and everything that the libraries wrapped in it, outermost first."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inside = (getattr(each, "reason", None), *each.args, each.__cause__, each.__context__)
        waiting += [one for one in inside if isinstance(one, BaseException)]


_ADVICE = {
    10: "Renew it, or correct this machine's clock.",  # expired
    9: "Correct this machine's clock.",  # not yet valid
    62: "Correct the connection's endpoint, or the certificate of what answers there.",  # another host
    64: "Correct the connection's endpoint, or the certificate of what answers there.",  # another IP address
}


def describe_refusal(error: BaseException, host: str) -> PaiConfigurationError | None:
    """Return the error of a certificate that was not accepted, with OpenSSL's own reason, or ``None``."""
    for each in causes(error):
        reason = str(getattr(each, "verify_message", ""))  # of ssl's error; aiohttp's, which is one, lacks it
        if reason:
            other = (
                "If a proxy stands in between, name its CA in REQUESTS_CA_BUNDLE; else correct the endpoint."
            )
            advice = _ADVICE.get(getattr(each, "verify_code", 0), other)
            return PaiConfigurationError(
                f"The certificate of {host} is not accepted here: {reason.rstrip('.')}. {advice}"
            )
    return None
