"""After os.fork, parent and child go on with one client and one source of credentials, and share nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
]

# A process of its own: a fork of this one, with all its threads, could not be trusted to end.
SCRIPT = """
    import asyncio, os, signal, sys, threading, time
    from airflow_provider_pai.api import AsyncPaiClient, Credential, PaiClient, RunQuery, StaticCredential
    from airflow_provider_pai.api import credential_source, list_runs

    key = StaticCredential(Credential(access_key_id="emulator", access_key_secret="emulator-secret"))

    def both(work):
        # Do it in the parent and in a child at once, and end with 0 where it went well in both.
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                work("child")
                os._exit(0)
            except BaseException as error:
                print(f"child: {error!r}", flush=True)
            os._exit(1)
        work("parent")
        _, status = os.waitpid(pid, 0)
        sys.exit(status != 0)
"""

SYNC = """
    with PaiClient(sys.argv[1], key) as client:
        client.run(list_runs(RunQuery()))

        def work(who):
            for _ in range(30):
                runs = client.run(list_runs(RunQuery(labels={"who": who})))
                assert [run.name for run in runs] == [who], (who, runs)

        both(work)
"""

ASYNC = """
    client = AsyncPaiClient(sys.argv[1], key)

    async def lists(who):
        for _ in range(30):
            runs = await client.run(list_runs(RunQuery(labels={"who": who})))
            assert [run.name for run in runs] == [who], (who, runs)

    async def opened():
        await client.__aenter__()
        await lists("parent")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(opened())

    def work(who):
        if who == "parent":
            loop.run_until_complete(lists(who))
        else:
            asyncio.run(lists(who))

    both(work)
"""

RENEWAL = """
    import alibabacloud_credentials.provider
    source = credential_source("credentials_uri", {"credentials_uri": sys.argv[1]})
    thread = threading.Thread(target=source.get)  # renews while the process forks
    thread.start()
    time.sleep(0.5)
    both(lambda who: source.get())
"""


def ends_well(script: str, argument: str) -> None:
    code = textwrap.dedent(SCRIPT) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, argument],
        capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", [SYNC, ASYNC], ids=["sync", "async"])
def test_parent_and_child_read_their_own_answers(pai_emulator: Any, script: str) -> None:
    for who in ("parent", "child"):
        pai_emulator.add_run(who, labels={"who": who})
    pai_emulator.inject("slow", delay=0.01, times=None)  # so that both wait for an answer at once
    ends_well(script, pai_emulator.url)
    assert pai_emulator.request_counts["ListRuns"] >= 60


@pytest.fixture
def slow_service() -> Iterator[str]:
    """A service that issues credentials, and takes two seconds for the first one."""
    asked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not asked.is_set():
                asked.set()
                time.sleep(2)
            key = {"AccessKeyId": "id", "AccessKeySecret": "secret", "SecurityToken": "token"}
            body = json.dumps({"Code": "Success", **key, "Expiration": "2099-01-01T00:00:00Z"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join(10)


def test_a_renewal_under_way_does_not_hold_up_the_child(slow_service: str) -> None:
    pytest.importorskip("alibabacloud_credentials")
    ends_well(RENEWAL, slow_service)
