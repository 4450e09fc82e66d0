"""Local services that issue Alibaba Cloud credentials: STS over TLS, the ECS metadata service, and a URI.

They check each request themselves, and let the local PAI accept the credentials that they issue. The metadata
service has a fixed address, which no test may reach: the local one is the proxy to it.

Sources: the STS API's AssumeRole, AssumeRoleWithOIDC and GenerateSessionAccessKey with RPC signature 1.0; ECS
instance metadata in security hardening mode.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_pai.api import sources

METADATA = "http://100.100.100.200/latest"
ROLE = "acs:ram::1631044:role/airflow"
OIDC_PROVIDER = "acs:ram::1631044:oidc-provider/ack-rrsa"
OIDC_TOKEN = "eyJ.token-of-the-pod.oidc"
ECS_ROLE = "EcsRoleOfAirflow"
METADATA_TOKEN = "token-of-the-metadata-service"
LONG_KEY = {"access_key_id": "LTAI-long-lived", "access_key_secret": "long-lived-secret"}
PUBLIC_KEY_ID = "LTKA-public-key"
PRIVATE_KEY = "private-key-in-a-file"

Answer = tuple[int, Any]


class CredentialServices:
    """Issues temporary AccessKeys, each of which the local PAI accepts until it expires.

    ``lifetime`` is in seconds; clients renew 15 minutes before the end. ``fail`` answers every request whose
    target begins with ``failing``.
    """

    def __init__(self, pai: Any, sts: str, plain: str) -> None:
        self.sts = sts
        self.plain = plain
        self.lifetime = 3600.0
        self.fail: Answer | None = None
        self.failing = ""
        self.delay = 0.0
        self.asked: list[str] = []
        self.issued: list[dict[str, str]] = []
        self._pai = pai
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def answer(self, method: str, target: str, headers: Any) -> Answer:
        """Answer one request; ``target`` comes from the request line."""
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        what = query.get("Action") or f"{method} {target.partition('?')[0]}"
        self.asked.append(what)
        time.sleep(self.delay)
        if self.fail is not None and target.startswith(self.failing):
            return self.fail
        if target.startswith(METADATA):
            return self._metadata(method, target.removeprefix(METADATA), headers)
        if parts.path == "/credential":
            return 200, {"Code": "Success", **self._issue()}
        actions: dict[str, Callable[[dict[str, str]], Answer]] = {
            "AssumeRole": self._assume_role,
            "AssumeRoleWithOIDC": self._assume_role_with_oidc,
            "GenerateSessionAccessKey": self._session_key,
        }
        return actions[query["Action"]](query)

    def _issue(self, token: bool = True) -> dict[str, str]:
        with self._lock:
            number = next(self._numbers)
            until = time.time() + self.lifetime
            issued = {"AccessKeyId": f"STS.{number}", "AccessKeySecret": f"secret-{number}+/="}
            if token:
                issued["SecurityToken"] = f"token-{number}+/="
            self._pai.accept(
                issued["AccessKeyId"],
                issued["AccessKeySecret"],
                security_token=issued.get("SecurityToken"),
                expires_at=until,
            )
            self.issued.append(issued)
        expires = datetime.fromtimestamp(until, timezone.utc)
        return {**issued, "Expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _metadata(self, method: str, path: str, headers: Any) -> Answer:
        if (method, path) == ("PUT", "/api/token"):
            return 200, METADATA_TOKEN
        if headers.get("X-aliyun-ecs-metadata-token") != METADATA_TOKEN:
            return 403, "no token"
        if path == "/meta-data/ram/security-credentials/":
            return 200, ECS_ROLE
        if path == f"/meta-data/ram/security-credentials/{ECS_ROLE}":
            return 200, {"Code": "Success", **self._issue()}
        return 404, "no such role"

    def _assume_role(self, query: dict[str, str]) -> Answer:
        if query["AccessKeyId"] != LONG_KEY["access_key_id"]:
            return 404, {"Code": "InvalidAccessKeyId.NotFound", "RequestId": "REQ-1"}
        if not _is_signed(query, LONG_KEY["access_key_secret"]):
            # The real service repeats the request, which holds secrets.
            return 400, {"Code": "SignatureDoesNotMatch", "Message": f"signed was {query}"}
        if query["RoleArn"] != ROLE:
            return 403, {"Code": "NoPermission", "Message": "not allowed to assume", "RequestId": "REQ-2"}
        return 200, {"Credentials": self._issue()}

    def _assume_role_with_oidc(self, query: dict[str, str]) -> Answer:
        given = query["RoleArn"], query["OIDCProviderArn"], query["OIDCToken"]
        if given != (ROLE, OIDC_PROVIDER, OIDC_TOKEN):
            return 400, {"Code": "AuthenticationFail.OIDCToken.Invalid", "Message": f"not {query}"}
        return 200, {"Credentials": self._issue()}

    def _session_key(self, query: dict[str, str]) -> Answer:
        if query["AccessKeyId"] != PUBLIC_KEY_ID or not _is_signed(query, PRIVATE_KEY):
            return 400, {"Code": "SignatureDoesNotMatch"}
        issued = self._issue(token=False)
        return 200, {"SessionAccessKey": {_session_name(name): value for name, value in issued.items()}}


def _text(said: Any) -> str:
    return said if isinstance(said, str) else json.dumps(said)


def _session_name(name: str) -> str:
    return f"Session{name}" if name.startswith("AccessKey") else name


def _is_signed(query: dict[str, str], secret: str) -> bool:
    signed = "&".join(
        f"{quote(name, safe='~')}={quote(query[name], safe='~')}"
        for name in sorted(query)
        if name != "Signature"
    )
    text = f"GET&%2F&{quote(signed, safe='~')}"
    digest = hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()
    return hmac.compare_digest(base64.b64encode(digest).decode(), query["Signature"])


@contextmanager
def credential_services(pai: Any, folder: Path) -> Iterator[CredentialServices]:
    """Serve all of them on loopback. ``folder`` gets ``ca.pem``, the certificate that clients must trust."""
    services: CredentialServices

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            status, said = services.answer(self.command, self.path, self.headers)
            body = said if isinstance(said, bytes) else _text(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = _serve

        def log_message(self, *_: Any) -> None:
            pass

    with ExitStack() as stack:
        servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*make_certificate(folder))
        servers[0].socket = tls.wrap_socket(servers[0].socket, server_side=True)
        sts, plain = (f"localhost:{server.server_port}" for server in servers)
        services = CredentialServices(pai, sts, plain)
        for server in servers:
            thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
            thread.start()
            stack.callback(thread.join, 10)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        yield services


@contextmanager
def issuing(pai: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CredentialServices]:
    """Serve all of them, in an environment in which the credential library finds them and nothing else."""
    with credential_services(pai, folder) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        # One CA stands for all the public ones, none of which signed anything here: each client reads them.
        (folder / "public").mkdir()
        public, _ = make_certificate(folder / "public")
        monkeypatch.setattr("certifi.where", lambda: str(public))
        monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(public))
        # The address of the metadata service is not on this machine.
        monkeypatch.setenv("HTTP_PROXY", f"http://{running.plain}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name in [name for name in os.environ if name.startswith("ALIBABA_CLOUD_")]:
            monkeypatch.delenv(name)
        pai.accept(**LONG_KEY)
        (folder / "oidc-token").write_text(OIDC_TOKEN)
        (folder / "private.key").write_text(PRIVATE_KEY)
        sources._shared.cache_clear()
        logging.getLogger("apscheduler").setLevel(logging.WARNING)  # it logs when the interpreter ends
        yield running


def fields_of(services: CredentialServices, folder: Path) -> dict[str, dict[str, Any]]:
    """The fields with which each kind works here."""
    sts = {"sts_endpoint": services.sts}
    return {
        "ram_role_arn": {**LONG_KEY, "role_arn": ROLE, **sts},
        "ecs_ram_role": {},
        "oidc_role_arn": {
            "role_arn": ROLE,
            "oidc_provider_arn": OIDC_PROVIDER,
            "oidc_token_file_path": str(folder / "oidc-token"),
            **sts,
        },
        "rsa_key_pair": {
            "public_key_id": PUBLIC_KEY_ID,
            "private_key_file": str(folder / "private.key"),
            **sts,
        },
        "credentials_uri": {"credentials_uri": f"http://{services.plain}/credential"},
    }


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate of ``localhost``, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "ca.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, private
