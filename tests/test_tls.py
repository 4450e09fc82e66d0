"""Both transports over real TLS: whom they trust, through a proxy too, and what they say if they do not."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import select
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_pai.api import (
    AsyncPaiClient,
    Credential,
    Flow,
    PaiClient,
    PaiConfigurationError,
    PaiTransportError,
    RunQuery,
    StaticCredential,
    flow,
    list_runs,
)

pytestmark = pytest.mark.timeout(30)

KEY = StaticCredential(Credential(access_key_id="emulator", access_key_secret="emulator-secret"))
ANSWER = b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"Runs": [{"RunId": "run-1"}]}'
HOST = "pai.test"
"""A name that only the proxy here knows."""


class Authority:
    """A CA of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        made = self._certificate(self.name, self._key, timedelta(days=1), (constraints, True), (usage, True))
        self.pem = made.public_bytes(serialization.Encoding.PEM)
        self.bundle = folder / f"{name}.pem"
        self.bundle.write_bytes(self.pem)

    def _certificate(self, name: x509.Name, key: Any, lifetime: timedelta, *extensions: Any) -> Any:
        now = datetime.now(timezone.utc)
        builder = x509.CertificateBuilder(
            self.name, name, key.public_key(), x509.random_serial_number(),
            now - timedelta(days=2), now + lifetime,
        )  # fmt: skip
        # Python 3.13 wants these two, and the CA's key usage.
        extensions += (
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())

    def server(self, host: str = "localhost", lifetime: timedelta = timedelta(days=1)) -> ssl.SSLContext:
        """Return what a server needs that has a certificate of this CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        made = self._certificate(name, key, lifetime, (names, False))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self.folder / f"{host}.key"
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def directory(self) -> Path:
        """Return a directory such as `openssl rehash` prepares: the file is named after its subject."""
        hashed = int.from_bytes(hashlib.sha1(self.name.public_bytes()[2:]).digest()[:4], "little")
        folder = self.folder / "directory"
        folder.mkdir()
        (folder / f"{hashed:08x}.0").write_bytes(self.pem)
        return folder


@contextlib.contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection to a port in a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            serve(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=one, args=(listener.accept()[0],), daemon=True))
                threads[-1].start()

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(10)


class Pai:
    """A server that always finds one run. ``tls`` may be changed while it runs."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.tls = tls
        self.heard: list[bytes] = []

    def serve(self, connection: socket.socket) -> None:
        with self.tls.wrap_socket(connection, server_side=True) as encrypted:
            self.heard.append(encrypted.recv(65536))
            encrypted.sendall(ANSWER)
            encrypted.unwrap()


class Proxy:
    """A proxy that wants a login, and takes every host for the one behind it."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self.tls = tls
        self.heard: list[bytes] = []

    def serve(self, client: socket.socket) -> None:
        if self.tls is None:
            self._relay(client)
        else:
            with self.tls.wrap_socket(client, server_side=True) as encrypted:
                self._relay(encrypted)

    def _relay(self, client: socket.socket) -> None:
        self.heard.append(client.recv(65536))
        if b"\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n" not in self.heard[-1]:
            client.sendall(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            return
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as server:
            client.sendall(b"HTTP/1.1 200 Go on\r\n\r\n")
            pass_on(client, server)


def pass_on(one: socket.socket, other: socket.socket) -> None:
    """Pass on what comes from either side, until one of them has said all."""
    while True:
        decrypted = [side for side in (one, other) if isinstance(side, ssl.SSLSocket) and side.pending()]
        for side in decrypted or select.select([one, other], [], [], 10)[0]:
            data = side.recv(65536)
            if not data:
                return
            (other if side is one else one).sendall(data)


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """The CA that clients are told to trust."""
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name.endswith("_CA_BUNDLE"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(flow, "BACKOFF_SECONDS", 0.001)
    authority = Authority(tmp_path, "ours")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
    return authority


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run flows over one client, and return what the last one found."""

    def sync(endpoint: str, *flows: Flow[Any]) -> Any:
        with PaiClient(endpoint, KEY) as client:
            return [client.run(each) for each in flows][-1]

    async def drive(endpoint: str, *flows: Flow[Any]) -> Any:
        async with AsyncPaiClient(endpoint, KEY) as client:
            return [await client.run(each) for each in flows][-1]

    return sync if request.param == "sync" else lambda *args: asyncio.run(drive(*args))


def names(runs: Any) -> list[str]:
    return [run.run_id for run in runs]


def test_our_own_ca_is_trusted(run, ours):
    pai = Pai(ours.server())
    with serving(pai.serve) as port:
        assert names(run(f"https://localhost:{port}", list_runs(RunQuery()))) == ["run-1"]


def connectors() -> list[Any]:
    # Not isinstance: it would wake up the lazy objects of other libraries.
    return [each for each in gc.get_objects() if issubclass(type(each), aiohttp.TCPConnector)]


def test_an_async_client_leaves_no_connector_open(ours):
    async def drive() -> list[Any]:
        before = connectors()
        async with AsyncPaiClient("https://localhost:9", KEY):
            return [each for each in connectors() if each not in before]

    (connector,) = asyncio.run(drive())
    assert connector.closed


@pytest.mark.parametrize("setting", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_directory_of_certificates_is_trusted(run, ours, monkeypatch, setting):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    monkeypatch.setenv(setting, str(ours.directory()))
    with serving(Pai(ours.server()).serve) as port:
        assert names(run(f"https://localhost:{port}", list_runs(RunQuery()))) == ["run-1"]


def untrusted(ours: Authority) -> ssl.SSLContext:
    return Authority(ours.folder, "theirs").server()


def of_another_host(ours: Authority) -> ssl.SSLContext:
    return ours.server("other.example")


def expired(ours: Authority) -> ssl.SSLContext:
    return ours.server(lifetime=timedelta(hours=-1))


REFUSED = [
    (untrusted, "unable to get local issuer certificate.*REQUESTS_CA_BUNDLE"),
    (of_another_host, "Hostname mismatch.*endpoint"),
    (expired, "certificate has expired.*clock"),
]


@pytest.mark.parametrize(("certificate", "said"), REFUSED, ids=["untrusted", "of another host", "expired"])
@pytest.mark.parametrize("by_proxy", [False, True], ids=["straight", "by proxy"])
def test_a_certificate_that_is_not_accepted_gets_no_request(
    run, ours, monkeypatch, certificate, said, by_proxy
):
    pai = Pai(certificate(ours))
    with serving(pai.serve) as port, serving(Proxy(port).serve) as proxy:
        if by_proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass@127.0.0.1:{proxy}")
            if certificate is expired:
                pai.tls = ours.server(HOST, timedelta(hours=-1))
        address = f"{HOST}:443" if by_proxy else f"localhost:{port}"
        with pytest.raises(PaiConfigurationError, match=f"{address}.*{said}"):
            run(f"https://{address}", list_runs(RunQuery()))
    assert pai.heard == []


def test_a_public_ca_is_trusted_where_nothing_is_said_and_ours_is_not(run, ours, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with (
        serving(Pai(ours.server()).serve) as port,
        pytest.raises(PaiConfigurationError, match="unable to get local issuer certificate"),
    ):
        run(f"https://localhost:{port}", list_runs(RunQuery()))


def test_a_proxy_passes_tls_on_and_sees_its_own_login_alone(run, ours, monkeypatch):
    pai = Pai(ours.server(HOST))
    with serving(pai.serve) as port:
        proxy = Proxy(port)
        with serving(proxy.serve) as through:
            monkeypatch.setenv("HTTPS_PROXY", f"user:pass@127.0.0.1:{through}")
            assert names(run(f"https://{HOST}", list_runs(RunQuery()))) == ["run-1"]
    assert [heard.split(b" HTTP")[0] for heard in proxy.heard] == [b"CONNECT pai.test:443"]
    assert b"ACS3" not in proxy.heard[0]
    assert b"\r\nauthorization: ACS3" in pai.heard[0]
    assert b"proxy-authorization" not in pai.heard[0].lower()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="TLS inside TLS needs Python 3.11")
@pytest.mark.parametrize("trusted", [True, False])
def test_a_proxy_may_speak_tls_itself(run, ours, monkeypatch, trusted):
    pai = Pai(ours.server(HOST))
    with serving(pai.serve) as port:
        proxy = Proxy(port, ours.server() if trusted else untrusted(ours))
        with serving(proxy.serve) as through:
            monkeypatch.setenv("HTTPS_PROXY", f"https://user:pass@localhost:{through}")
            if trusted:
                assert names(run(f"https://{HOST}", list_runs(RunQuery()))) == ["run-1"]
            else:
                with pytest.raises(PaiConfigurationError, match="issuer"):
                    run(f"https://{HOST}", list_runs(RunQuery()))
    assert len(proxy.heard) == trusted


def test_a_proxy_that_refuses_the_login_was_sent_nothing(run, ours, monkeypatch):
    pai = Pai(ours.server(HOST))
    with serving(pai.serve) as port, serving(Proxy(port).serve) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:wrong@127.0.0.1:{proxy}")
        with pytest.raises(PaiTransportError, match="407") as caught:
            run(f"https://{HOST}", list_runs(RunQuery()))
    assert caught.value.sent is False
    assert pai.heard == []


def test_a_flow_learns_that_a_certificate_is_not_accepted(run, ours):
    def goes_on() -> Flow[str]:
        try:
            yield from list_runs(RunQuery())
        except PaiConfigurationError as error:
            return str(error)
        return ""

    with serving(Pai(untrusted(ours)).serve) as port:
        assert "issuer" in run(f"https://localhost:{port}", goes_on())


def in_steps(*steps: Callable[[], Any]) -> Flow[Any]:
    """List runs after each step."""
    for step in steps:
        step()
        found = yield from list_runs(RunQuery())
    return found


def test_a_bundle_that_is_replaced_is_noticed_by_a_client_at_work(run, ours, caplog):
    pai = Pai(ours.server())
    theirs = Authority(ours.folder, "theirs")

    def rotate() -> None:
        pai.tls = theirs.server()
        new = ours.folder / "new.pem"
        new.write_bytes(theirs.pem)
        new.replace(ours.bundle)

    def damage() -> None:
        ours.bundle.write_text("half a certif")

    with serving(pai.serve) as port:
        found = run(f"https://localhost:{port}", in_steps(lambda: None, rotate, damage, ours.bundle.unlink))
    assert names(found) == ["run-1"]
    assert len(pai.heard) == 4
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len([text for text in said if str(ours.bundle) in text]) == 2


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "folder"])
def test_a_bundle_without_certificates_is_refused_when_the_client_is_made(run, ours, monkeypatch, kind):
    path = ours.folder / kind
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("this is not PEM\n" * (kind == "text"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    with pytest.raises(PaiConfigurationError, match=f"REQUESTS_CA_BUNDLE names {path}"):
        run("https://localhost:9", in_steps())
    assert run("http://localhost:9", in_steps_without_a_step()) is None


def in_steps_without_a_step() -> Flow[None]:
    return
    yield
