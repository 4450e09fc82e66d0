"""PostgreSQL and Redis for one test: on free ports, in folders of their own, and gone afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
import redis
from outside import until

from demo.standalone import LOOPBACK, end, free_port

OWNER = "airflow"
LOG = "server.log"


def program(name: str, package: str) -> str:
    """Return the path of a server's program, and install its Debian package first where it is missing."""
    if (found := _find(name)) is not None:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(f"{name} is not installed; on Debian and Ubuntu: sudo apt-get install {package}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", package]):
        subprocess.run(["apt-get", "--quiet", *command], env=quiet, stdin=subprocess.DEVNULL, check=True)
    found = _find(name)
    assert found is not None, f"the package {package} has no {name}"
    return found


def _find(name: str) -> str | None:
    debian = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))  # not on anybody's PATH
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *reversed(debian)]))


@contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """Run PostgreSQL in a new folder; yields the URL of an empty database."""
    initdb = program("initdb", "postgresql")
    folder.mkdir()
    other: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to be run by root
        other = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    subprocess.run(
        [initdb, "--auth=trust", f"--username={OWNER}", "--encoding=UTF8", "--no-sync", data],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        check=True,
        **other,
    )
    port = free_port()
    settings = {
        "listen_addresses": LOOPBACK,
        "port": port,
        "unix_socket_directories": "",
        "max_connections": 300,
        "fsync": "off",  # it is thrown away anyway
    }
    command = [program("postgres", "postgresql"), "-D", str(data)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    url = f"postgresql://{OWNER}@{LOOPBACK}:{port}/postgres"
    with _served(command, folder, **other):
        until(lambda: _answers(lambda: psycopg2.connect(url).close()), f"PostgreSQL; see {folder}/{LOG}")
        yield url


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run Redis in a new folder; yields its URL."""
    folder.mkdir()
    port = free_port()
    command = [program("redis-server", "redis-server"), "--bind", LOOPBACK, "--port", str(port)]
    with _served([*command, "--save", "", "--dir", str(folder)], folder):
        with redis.Redis(LOOPBACK, port) as client:
            until(lambda: _answers(client.ping), f"Redis; see {folder}/{LOG}")
        yield f"redis://{LOOPBACK}:{port}/0"


@contextmanager
def _served(command: list[str], folder: Path, **other: Any) -> Iterator[None]:
    with (folder / LOG).open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **other,
        )
    try:
        yield
    finally:
        end(process)


def _answers(ask: Any) -> bool:
    with suppress(psycopg2.OperationalError, redis.ConnectionError):
        ask()
        return True
    return False
