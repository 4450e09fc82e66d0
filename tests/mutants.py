"""Faults that the tests of api/ must notice, each put into a copy of the package by itself: make mutants.

Each mutant is one exact text of one module, what takes its place, and the test modules of which one test at
least must fail then. `python -m tests.mutants idle fork` runs only those that have a word in their names. The
checkout is only read. tests/test_mutants.py holds this list against the modules.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
API = Path("airflow_provider_pai", "api")
COPIED = ("airflow_provider_pai", "tests", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("e2e", "distributed", ".hypothesis", ".pytest_cache")
AT_ONCE = 2
SECONDS = 180
"""How long the tests of one mutant may take."""
OPTIONS = [
    *("-x", "-q", "-p", "no:cacheprovider", "--tb=no", "--hypothesis-seed=0"),
    # This warning alone would fail a test, where the client verified nothing and no test noticed.
    *("-W", "ignore:Unverified HTTPS request"),
]


class Mutant(NamedTuple):
    """One fault. ``file`` is a module of api/; the names in ``tests`` lack the ``test_`` of their modules."""

    name: str
    file: str
    text: str
    replacement: str
    tests: str

    def of(self, source: str) -> str:
        """Return the module's source with the fault in it.

        :raises ValueError: the text is not there, or more than once.
        """
        if source.count(self.text) != 1:
            raise ValueError(f"{self.file} holds {source.count(self.text)} times: {self.text}")
        return source.replace(self.text, self.replacement)


DEMOTE_FIRST = """\
for key, runs in holders.items():
        for run in runs:
            if run.run_id != run_id:
                yield from _demote(run.run_id, key, wanted[key])
    promoted ="""

MUTANTS = [
    # --- TLS and the way to PAI
    Mutant(
        "the sync client verifies no certificate",
        "over_requests.py",
        '"ssl_context": self.tls}',
        '"ssl_context": self.tls and ssl._create_unverified_context()}',
        "tls",
    ),
    Mutant(
        "the async client verifies no certificate",
        "client.py",
        "ssl=await self._tls(),",
        "ssl=False,",
        "tls",
    ),
    Mutant(
        "a certificate of another host is accepted",
        "tls.py",
        "context.set_alpn_protocols",
        "context.check_hostname = False; context.set_alpn_protocols",
        "tls",
    ),
    Mutant(
        "a CA bundle that was replaced is not read again",
        "tls.py",
        "self._context is None or version != self._version:",
        "self._context is None:",
        "tls",
    ),
    Mutant(
        "a proxy is used for a loopback address",
        "network.py",
        "if is_loopback(urlsplit(endpoint)",
        "if False and is_loopback(urlsplit(endpoint)",
        "client",
    ),
    Mutant(
        "a redirect is followed",
        "client.py",
        "allow_redirects=False",
        "allow_redirects=True",
        "client",
    ),
    Mutant(
        "the login of a proxy goes to PAI",
        "client.py",
        'if self._proxy is not None and self.endpoint.startswith("http:"):',
        "if self._proxy is not None:",
        "tls",
    ),
    Mutant(
        "a cookie is kept",
        "over_aiohttp.py",
        "cookie_jar=aiohttp.DummyCookieJar(),",
        "",
        "client",
    ),
    Mutant(
        "a certificate that is refused is a transient error",
        "client.py",
        "if refused is not None:",
        "if False:",
        "tls",
    ),
    # --- what is sent, and how often
    Mutant(
        "a write that was sent is sent again",
        "flow.py",
        "isinstance(error, PaiTransportError) and not error.sent",
        "isinstance(error, PaiTransportError)",
        "flow",
    ),
    Mutant(
        "the sync client does not note that a request was sent",
        "over_requests.py",
        "current.get().sent = True",
        "current.get().sent = False",
        "client",
    ),
    Mutant(
        "the async client does not note that a request was sent",
        "over_aiohttp.py",
        "attempt.sent = True",
        "attempt.sent = False",
        "client",
    ),
    Mutant(
        "urllib3 sends a request again by itself",
        "over_requests.py",
        "max_retries=0",
        "max_retries=2",
        "client",
    ),
    Mutant(
        "aiohttp sends a request again by itself",
        "over_aiohttp.py",
        "if attempt.sent:",
        "if False:",
        "client",
    ),
    Mutant(
        "a read is sent again after a 404",
        "flow.py",
        "return error.transient or",
        "return isinstance(error, PaiApiError) or",
        "flow",
    ),
    Mutant(
        "the backoff has no jitter",
        "flow.py",
        "return random.uniform(0, min(",
        "return max(0, min(",
        "flow",
    ),
    Mutant(
        "a Retry-After has no jitter",
        "flow.py",
        "error.retry_after + random.uniform(0, BACKOFF_SECONDS)",
        "error.retry_after",
        "flow",
    ),
    Mutant(
        "a Retry-After is ignored",
        "flow.py",
        "and error.retry_after is not None:",
        "and False:",
        "flow",
    ),
    Mutant(
        "a Retry-After has no bound",
        "flow.py",
        "CALL_SECONDS - spent - wait",
        "CALL_SECONDS - spent",
        "flow",
    ),
    Mutant(
        "the attempts of a request have no common deadline",
        "flow.py",
        "spent += request.wait + outcome.seconds",
        "spent += request.wait",
        "flow",
    ),
    # --- limits of one attempt, and connections
    Mutant(
        "the sync client's attempt has no deadline",
        "over_requests.py",
        "left = current.get().left",
        "left = READ_SECONDS",
        "client",
    ),
    Mutant(
        "the async client's attempt has no deadline",
        "over_aiohttp.py",
        "total=limit",
        "total=None",
        "client",
    ),
    Mutant(
        "the sync client waits long for a connection",
        "over_requests.py",
        "min(CONNECT_SECONDS, attempt.limit), ",
        "attempt.limit, ",
        "client",
    ),
    Mutant(
        "the async client waits long for a connection",
        "over_aiohttp.py",
        ", sock_connect=CONNECT_SECONDS",
        "",
        "client",
    ),
    Mutant(
        "the sync client waits through any silence",
        "over_requests.py",
        "min(READ_SECONDS, left)",
        "left",
        "client",
    ),
    Mutant(
        "the async client waits through any silence",
        "over_aiohttp.py",
        ", sock_read=READ_SECONDS",
        "",
        "client",
    ),
    Mutant(
        "an interim answer is the answer",
        "over_requests.py",
        "while 101 < self.status < 200:",
        "while False:",
        "client",
    ),
    Mutant(
        "an answer may have any size",
        "wire.py",
        "if self._size > MAX_BODY_BYTES:",
        "if False:",
        "client",
    ),
    Mutant(
        "a packed answer is unpacked whole",
        "wire.py",
        "decompress(chunk, MAX_BODY_BYTES - self._size + 1)",
        "decompress(chunk)",
        "client",
    ),
    Mutant(
        "a packed answer that breaks off is an answer",
        "wire.py",
        "not self._unpacking.eof:",
        "False:",
        "client",
    ),
    Mutant(
        "the sync client keeps idle connections",
        "over_requests.py",
        "time.monotonic() - self._used_at < wire.IDLE_SECONDS and ",
        "",
        "client",
    ),
    Mutant(
        "the async client keeps idle connections",
        "over_aiohttp.py",
        "keepalive_timeout=wire.IDLE_SECONDS",
        "keepalive_timeout=3600",
        "client",
    ),
    Mutant(
        "the sync client shares connections after a fork",
        "client.py",
        "self._process, self._connections = os.getpid(), self._made()",
        "self._process = os.getpid()",
        "fork",
    ),
    Mutant(
        "the async client shares connections after a fork",
        "client.py",
        "self._process != os.getpid():  # forked",
        "False:  # forked",
        "fork",
    ),
    Mutant(
        "a credential source keeps its lock after a fork",
        "renewal.py",
        "if self._process != os.getpid():",
        "if False:",
        "fork",
    ),
    # --- signing, the clock, credentials
    Mutant(
        "the query is signed in the order in which it was written",
        "signing.py",
        "for key in sorted(query)",
        "for key in query",
        "signing",
    ),
    Mutant(
        "the body is not signed",
        "signing.py",
        "hashlib.sha256(body)",
        'hashlib.sha256(b"")',
        "signing",
    ),
    Mutant(
        "a nonce is used twice",
        "client.py",
        "uuid.uuid4().hex",
        '"0" * 32',
        "client",
    ),
    Mutant(
        "the async client sends another query than it signed",
        "client.py",
        "URL(url, encoded=True)",
        "URL(url)",
        "client",
    ),
    Mutant(
        "a correction of the clock is added to the one before",
        "client.py",
        "self._clock_offset = request.clock_offset",
        "self._clock_offset += request.clock_offset",
        "client",
    ),
    Mutant(
        "a repeated secret stays in the answer",
        "client.py",
        "credential.redact(body.whole())",
        "body.whole()",
        "client",
    ),
    Mutant(
        "a cancelled flow cancels the look-up of the credential",
        "client.py",
        "await asyncio.shield(task)",
        "await task",
        "client",
    ),
    Mutant(
        "each flow looks the credential up for itself",
        "client.py",
        "task = self._asking.get(request.refused)",
        "task = None",
        "client",
    ),
    Mutant(
        "a credential that PAI refused is used again",
        "client.py",
        "self._renewing.replace(request.refused)",
        "self._credentials.get()",
        "sources",
    ),
    Mutant(
        "the credential of another source is used",
        "renewal.py",
        "if self._origin not in (None, origin):",
        "if False:",
        "sources",
    ),
    Mutant(
        "a credential is used beyond its expiry",
        "renewal.py",
        "self._last is not None and now < self._valid_until",
        "self._last is not None",
        "sources",
    ),
    Mutant(
        "a used nonce replaces the credential",
        "flow.py",
        "outcome.renewable is None or error.code == NONCE_USED",
        "outcome.renewable is None",
        "flow",
    ),
    Mutant(
        "the requests of a renewal are logged",
        "renewal.py",
        "_thread.unlogged = True",
        "_thread.unlogged = False",
        "sources",
    ),
    Mutant(
        "a bearer token shows",
        "credentials.py",
        'return "BearerToken(…)"',
        'return f"BearerToken({self.token})"',
        "credentials",
    ),
    # --- what an answer means
    Mutant(
        "an error with status 200 is an empty list",
        "flow.py",
        "not decoded.items and _has_code(outcome)",
        "False",
        "flow",
    ),
    Mutant(
        "a server may write lines into our log",
        "errors.py",
        "if text.isprintable():",
        "if True:",
        "flow",
    ),
    Mutant(
        "a run id may be a number",
        "reading.py",
        'DECIDING = ("run_id", ',
        "DECIDING = (",
        "models",
    ),
    Mutant(
        "a run without a creation time is outside every window",
        "operations.py",
        "if query.undecided(run):",
        "if False:",
        "models",
    ),
    Mutant(
        "the client does not check labels",
        "query.py",
        "if run.labels.get(key) != value:",
        "if False:",
        "query",
    ),
    Mutant(
        "the client does not check names and ids",
        "query.py",
        "if getattr(run, name) != wanted:",
        "if False:",
        "query",
    ),
    Mutant(
        "a window lacks its first moment",
        "query.py",
        "start <= time)",
        "start < time)",
        "query",
    ),
    Mutant(
        "a window holds its end",
        "query.py",
        "time < end)",
        "time <= end)",
        "query",
    ),
    # --- listings
    Mutant(
        "a page token that comes twice is not noticed",
        "paging.py",
        "elif token in self._tokens:",
        "elif False:",
        "paging",
    ),
    Mutant(
        "a listing may have any number of pages",
        "paging.py",
        "if self._pages > MAX_PAGES:",
        "if False:",
        "paging",
    ),
    Mutant(
        "a total that falls starts no second pass",
        "paging.py",
        "self.fell |= ",
        "self.fell = False and ",
        "paging",
    ),
    Mutant(
        "a total that does not add up starts no second pass",
        "paging.py",
        "return self._taken == self._total and",
        "return True or",
        "paging",
    ),
    Mutant(
        "a run that comes twice is returned twice",
        "paging.py",
        "seen[key] = self.passes",
        "seen.get(key)",
        "paging",
    ),
    Mutant(
        "a page by number ends a listing where it is short",
        "paging.py",
        "(len(page.items) < size and tally.missing == 0)",
        "len(page.items) < size",
        "listing_by_number",
    ),
    Mutant(
        "a listing by number is believed although counts do not add up",
        "paging.py",
        "            self._finish(doubtful=not tally.adds_up)",
        "            self._finish(doubtful=False)",
        "listing_by_number",
    ),
    Mutant(
        "a page number that PAI ignores is the end of a listing",
        "paging.py",
        "elif tally.missing:",
        "elif False:",
        "listing_by_number",
    ),
    # --- the model registry
    Mutant(
        "a model whose name holds the wanted one is taken for it",
        "registry.py",
        '"model_name": text("name", filters.get("name")),',
        "",
        "registry",
    ),
    Mutant(
        "any error of a creation is taken for a name that is taken",
        "by_name.py",
        "if not _may_exist(error):",
        "if False:",
        "experiments registry",
    ),
    Mutant(
        "a new label of a version takes the place of all",
        "model_versions.py",
        "{**version.labels, **wanted}",
        "wanted",
        "registry",
    ),
    Mutant(
        "a version without a name is one",
        "model_versions.py",
        "if not (version.version_name and version.uri):",
        "if False:",
        "registry",
    ),
    Mutant(
        "a secret in a model's address is shown",
        "model_parameters.py",
        'netloc.rpartition("@")[2]',
        "netloc",
        "model_parameters",
    ),
    Mutant(
        "a listing in any order is left at the window's end",
        "paging.py",
        "(self._in_order and page.items",
        "(page.items",
        "paging",
    ),
    Mutant(
        "a run of the window's first moment is lost at the end of a page",
        "operations.py",
        "created < start)",
        "created <= start)",
        "paging",
    ),
    Mutant(
        "values on two pages of metrics come twice",
        "metrics.py",
        "page[_repeated(values, page) :]",
        "page",
        "paging",
    ),
    # --- labels and promotion
    Mutant(
        "setting a label removes the others",
        "operations.py",
        "pairs({**run.labels, **wanted})",
        "pairs(wanted)",
        "operations",
    ),
    Mutant(
        "a promotion demotes before it labels",
        "promotion.py",
        "promoted =",
        DEMOTE_FIRST,
        "promote",
    ),
    Mutant(
        "a promotion demotes although the label does not show",
        "promotion.py",
        "if not _carries(seen, wanted):",
        "if False:",
        "promote",
    ),
    Mutant(
        "a demotion that was refused is a success",
        "promotion.py",
        "if _carries(run, {key: value}):",
        "if False:",
        "promote",
    ),
    Mutant(
        "an empty answer is a demotion",
        "operations.py",
        'response.status == 204 or response.body.strip() != b""',
        "True",
        "promote",
    ),
    Mutant(
        "a promotion looks into the default workspace",
        "promotion.py",
        "among.workspace_id or winner.workspace_id",
        "among.workspace_id",
        "promote",
    ),
]


class Outcome(NamedTuple):
    """What the tests said, and whether that is what is wanted of them."""

    name: str
    verdict: str
    good: bool
    seconds: float
    by: str
    """The first test that failed, or what else there is to say."""


def run(name: str, tests: Iterable[str], mutant: Mutant | None = None) -> Outcome:
    """Run test modules in a copy of the checkout, with a mutant in it if one is given."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory:
        root = Path(directory)
        for each in COPIED:
            if (CHECKOUT / each).is_dir():
                shutil.copytree(CHECKOUT / each, root / each, ignore=LEFT_OUT)
            else:
                shutil.copy(CHECKOUT / each, root)
        verdict, good, by = _tried(root, list(tests), mutant)
    return Outcome(name, verdict, good, time.monotonic() - started, by)


def _tried(root: Path, tests: list[str], mutant: Mutant | None) -> tuple[str, bool, str]:
    if mutant is not None:
        module = root / API / mutant.file
        try:
            module.write_text(mutant.of(module.read_text("utf-8")), "utf-8")
        except ValueError as error:
            return "NOT FOUND", False, str(error)
    command = [sys.executable, "-m", "pytest", *OPTIONS, *(f"tests/test_{each}.py" for each in tests)]
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},  # before the checkout, which is installed
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "NO RESULT", False, f"{SECONDS} s are over"
    failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
    by = failed[1] if failed else ""
    if done.returncode == 0:
        return ("SURVIVED", False, "") if mutant else ("passed", True, "")
    if done.returncode != 1 or not failed:  # such as a module that cannot be imported: no test said anything
        return "NO RESULT", False, by or (done.stdout + done.stderr).strip()[-300:]
    return ("killed", True, by) if mutant else ("FAILED", False, by)


def outcomes_of(mutants: list[Mutant]) -> Iterator[Outcome]:
    """Run the tests without a mutant, then with each. A mutant is not killed by a test that always fails."""
    names = list(dict.fromkeys(name for mutant in mutants for name in mutant.tests.split()))
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield from pool.map(lambda name: run(f"(no mutant) test_{name}.py", [name]), names)
        yield from pool.map(lambda mutant: run(mutant.name, mutant.tests.split(), mutant), mutants)
    finally:
        pool.shutdown(cancel_futures=True)


def main() -> None:
    """Run the mutants that are named, or all. The status is 0 where the tests killed every one of them."""
    words = sys.argv[1:]
    mutants = [mutant for mutant in MUTANTS if not words or any(word in mutant.name for word in words)]
    width = max((len(mutant.name) for mutant in mutants), default=0)
    outcomes = []
    for outcome in outcomes_of(mutants):
        outcomes.append(outcome)
        row = f"{outcome.name:{width}}  {outcome.verdict:9}  {outcome.seconds:5.1f} s  {outcome.by}"
        print(row.rstrip(), flush=True)
    killed = sum(outcome.verdict == "killed" for outcome in outcomes)
    print(f"{killed} of {len(mutants)} mutants were killed")
    sys.exit(0 if mutants and all(outcome.good for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
