"""What logging costs a training, and what faults cost the log: ``python -m benchmarks.tracking``.

The overhead is that of a loop whose step is a millisecond of work, with three metrics logged at each step and
without, in turns. The peers log the same by a request at each step. The faults are resets (before and after
PAI has taken the values), throttling, errors 5xx, and a PAI that is away for half a minute: the emulator's
process ends, and another one takes up its database.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import requests
from tabulate import tabulate

STEPS, ROUNDS = 10_000, 3
PEER_STEPS = 1_000
STEP_SECONDS = 0.001
METRICS = ("loss", "accuracy", "learning_rate")
RUNS, AT_ONCE, RUN_STEPS, AWAY_SECONDS = 200, 20, 100, 30.0
FAULTS = ("reset", "reset_after", "throttle", "server_error")
KEY = ("tracking", "secret-of-the-emulator")
EXPERIMENT = "tracking"


class LocalPai:
    """The emulator in a process of its own, which can be away for a while."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "airflow_provider_pai.emulator", "--port", str(port)]
        self._command += ["--db", str(folder / "pai.sqlite")]
        self._command += ["--access-key-id", KEY[0], "--access-key-secret", KEY[1]]
        self.start()

    def start(self) -> None:
        """Serve what is in the database."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert b"listening on" in self._process.stdout.readline()

    def stop(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(30)

    def requests(self) -> int:
        """Return how many LogRunMetrics were asked since the last time."""
        counts: dict[str, int] = requests.get(f"{self.url}/_emulator/requests", timeout=30).json()["counts"]
        requests.delete(f"{self.url}/_emulator/requests", timeout=30)
        return counts.get("LogRunMetrics", 0)

    def fail(self, kind: str) -> None:
        """Let the next request that logs values go wrong."""
        fault = {"kind": kind, "action": "LogRunMetrics"}
        requests.post(f"{self.url}/_emulator/faults", json=[fault], timeout=30).raise_for_status()


@contextmanager
def local_pai() -> Iterator[LocalPai]:
    """Run the emulator, with Airflow's connection to it."""
    with tempfile.TemporaryDirectory() as folder:
        pai = LocalPai(Path(folder))
        os.environ["AIRFLOW_CONN_TRACKING"] = json.dumps(
            {
                "conn_type": "pai",
                "host": pai.url,
                "login": KEY[0],
                "password": KEY[1],
                "extra": {"region": "cn-hangzhou"},
            }
        )
        try:
            yield pai
        finally:
            pai.stop()


# --- what it costs the training


def work_of(seconds: float) -> Callable[[], None]:
    """Return a piece of Python that takes so long here, when nothing else runs."""

    def work(turns: int) -> None:
        total = 0
        for number in range(turns):
            total += number * number % 7

    turns, taken = 1_000, 0.0
    while taken < seconds:
        turns = int(turns * 1.2)
        taken = min(_timed(work, turns) for _ in range(20))
    return lambda: work(turns)


def _timed(work: Callable[[int], None], turns: int) -> float:
    started = time.perf_counter()
    work(turns)
    return time.perf_counter() - started


Log = Callable[[dict[str, float], int], object]


@contextmanager
def unlogged(_: LocalPai) -> Iterator[Log]:
    """Log nothing."""
    yield lambda metrics, step: None


@contextmanager
def tracked(_: LocalPai) -> Iterator[Log]:
    """Log to a tracked run."""
    from airflow_provider_pai.hooks import PaiHook

    with PaiHook("tracking").track(EXPERIMENT, key=f"{random.random()}") as run:
        yield lambda metrics, step: run.log_metrics(metrics, step=step)


@contextmanager
def by_the_hook(_: LocalPai) -> Iterator[Log]:
    """Log by a request of the hook's at each step."""
    from airflow_provider_pai.hooks import PaiHook

    hook = PaiHook("tracking")
    run_id = hook.create_run(hook.get_or_create_experiment(EXPERIMENT), name="by-the-hook")
    yield lambda metrics, step: hook.log_run_metrics(run_id, metrics, step=step)


@contextmanager
def by_the_sdk(pai: LocalPai) -> Iterator[Log]:
    """Log by a request of the official SDK's at each step."""
    from alibabacloud_aiworkspace20210204 import models
    from alibabacloud_aiworkspace20210204.client import Client
    from alibabacloud_tea_openapi.utils_models import Config

    from airflow_provider_pai.hooks import PaiHook

    hook = PaiHook("tracking")
    run_id = hook.create_run(hook.get_or_create_experiment(EXPERIMENT), name="by-the-sdk")
    config = Config(access_key_id=KEY[0], access_key_secret=KEY[1], protocol="http")
    config.endpoint = pai.url.removeprefix("http://")
    client = Client(config)

    def log(metrics: dict[str, float], step: int) -> None:
        values = [models.RunMetric(key=k, value=v, step=step) for k, v in metrics.items()]
        client.log_run_metrics(run_id, models.LogRunMetricsRequest(metrics=values))

    yield log


CONTESTANTS: dict[str, tuple[Callable[[LocalPai], Any], int]] = {
    "nothing is logged": (unlogged, STEPS),
    "PaiHook().track(…)": (tracked, STEPS),
    "a request of the hook's each step": (by_the_hook, PEER_STEPS),
    "a request of the SDK's each step": (by_the_sdk, PEER_STEPS),
}


def cost(pai: LocalPai, contestant: str, work: Callable[[], None]) -> dict[str, float]:
    """Return what a loop took: its time a step, that of the logging in it, and its requests."""
    (opened, steps), logging_seconds = CONTESTANTS[contestant], 0.0
    with opened(pai) as log:
        pai.requests()
        started, other = time.perf_counter(), time.process_time() - time.thread_time()
        for step in range(steps):
            work()
            metrics = {name: step / steps for name in METRICS}
            before = time.perf_counter()
            log(metrics, step)
            logging_seconds += time.perf_counter() - before
        taken = time.perf_counter() - started
        other = time.process_time() - time.thread_time() - other
    return {
        "step": taken / steps,
        "other": other / steps,
        "log": logging_seconds / steps,
        "requests": pai.requests(),
    }


def overhead() -> str:
    """Race the contestants, and return a table."""
    work = work_of(STEP_SECONDS)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in CONTESTANTS}
    with local_pai() as pai:
        for _ in range(ROUNDS):
            for name in CONTESTANTS:
                measured[name].append(cost(pai, name, work))
    bare = [each["step"] for each in measured["nothing is logged"]]
    rows = []
    for name, rounds in measured.items():
        steps = CONTESTANTS[name][1]
        rows.append(
            (
                name,
                f"{1e3 * median(each['step'] for each in rounds):.2f}",
                f"{median(each['step'] / alone for each, alone in zip(rounds, bare, strict=True)):.3f}",
                *(f"{1e6 * median(each[what] for each in rounds):.1f}" for what in ("log", "other")),
                f"{max(each['requests'] for each in rounds):,.0f} for {steps:,}",
            )
        )
    headers = (
        *("three metrics a step", "ms a step", "ratio to none", "µs in the call", "µs of threads"),
        "requests for steps",
    )
    return tabulate(rows, headers, disable_numparse=True, colalign=("left", *["right"] * 5))


# --- what faults cost the log


def disturb(pai: LocalPai, ended: threading.Event) -> Counter[str]:
    """Let requests go wrong until the end, and once nobody answer at all."""
    chance, done = random.Random(7), Counter[str]()
    while not ended.wait(0.5):  # where some five requests come in a second
        kind = chance.choice(FAULTS)
        pai.fail(kind)
        done[kind] += 1
        if sum(done.values()) == 40:
            pai.stop()
            ended.wait(AWAY_SECONDS)
            pai.start()
            done["away"] += 1
    return done


def train(number: int) -> str:
    """Log one run's values, of which each is another, and return its id."""
    from airflow_provider_pai.hooks import PaiHook

    with PaiHook("tracking").track(EXPERIMENT, key=f"run {number}") as run:
        for step in range(RUN_STEPS):
            run.log_metrics({name: step + place / 10 for place, name in enumerate(METRICS)}, step=step)
            time.sleep(0.05)
    return run.run_id


def losses() -> str:
    """Log many runs while things go wrong, and say what is missing in the end."""
    from airflow_provider_pai.hooks import PaiHook

    ended = threading.Event()
    with local_pai() as pai, ThreadPoolExecutor(AT_ONCE + 1) as pool:
        PaiHook("tracking").get_or_create_experiment(EXPERIMENT)
        disturbing = pool.submit(disturb, pai, ended)
        try:
            run_ids = list(pool.map(train, range(RUNS)))
        finally:
            ended.set()
            done = disturbing.result()
        requests.delete(f"{pai.url}/_emulator/faults", timeout=30)
        missing = repeated = 0
        hook = PaiHook("tracking")
        for run_id in run_ids:
            for place, name in enumerate(METRICS):
                there = Counter(metric.value for metric in hook.list_run_metrics(run_id, name))
                missing += sum((step + place / 10) not in there for step in range(RUN_STEPS))
                repeated += there.total() - len(there)
    wrong = ", ".join(f"{number} {kind}" for kind, number in sorted(done.items()))
    total = RUNS * RUN_STEPS * len(METRICS)
    return (
        f"{RUNS} runs, {AT_ONCE} at a time, {total:,} values in all. What went wrong meanwhile: {wrong}.\n"
        f"Lost: {missing}. There twice: {repeated}."
    )


def main() -> None:
    """Measure both, and print them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__)
    parser.add_argument("--scene", choices=("overhead", "faults"), help="only this one")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
    if options.scene != "faults":
        print(overhead(), flush=True)
    if options.scene != "overhead":
        print(losses())


if __name__ == "__main__":
    main()
