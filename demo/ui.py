"""All example DAGs in Airflow's own web interface, beside a local PAI, until it is interrupted.

make ui, or python -m demo.ui --port 9090
"""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests

from airflow_provider_pai import api
from airflow_provider_pai.ui import GATES_PAGE
from demo.local import CHECKOUT, KEY, airflow_environment, emulator, fresh_home
from demo.rest import Airflow
from demo.standalone import LOG, PASSWORD, USER, AirflowDiedError, check, free_port, standalone

START_SECONDS = 300
EVALUATED = {
    "resnet-50": {"accuracy": 0.912, "log_loss": 0.304},
    "vit-small": {"accuracy": 0.934, "log_loss": 0.241},
    "mobilenet-v3": {"accuracy": 0.887, "log_loss": 0.389},
}


CHAMPION = {"resnet-101": {"accuracy": 0.941, "log_loss": 0.229}}
"""No evaluated run is as good as this one, so that the gate of JUDGED does not pass."""
EPOCHS = 30
JUDGED, TIMES = "pai_gate_and_deploy", 2


def seed(client: api.PaiClient) -> None:
    """Leave a few evaluated runs and a champion in the local PAI, for the examples that only read."""
    workspace_id = client.run(api.get_default_workspace()).workspace_id
    experiment_id = client.run(api.get_or_create_experiment("image-models", workspace_id=workspace_id))
    for number, (name, metrics) in enumerate([*EVALUATED.items(), *CHAMPION.items()], start=1):
        run = api.create_run(
            experiment_id,
            name=name,
            labels={"champion": "true"} if name in CHAMPION else {"is_evaluation": "true"},
            source_type="TrainingService",  # what the button to the PAI console leads to
            source_id=f"train{number:08}",
        )
        run_id = client.run(run)
        for epoch in range(EPOCHS):
            learnt = {"accuracy": metrics["accuracy"] - 0.3 * (1 - epoch / (EPOCHS - 1)) ** 3}
            client.run(api.log_run_metrics(run_id, learnt, step=epoch))
        client.run(api.log_run_metrics(run_id, {"log_loss": metrics["log_loss"]}))


@contextmanager
def only_one() -> Iterator[None]:
    """Refuse to run beside another one, as both would use the same files."""
    (CHECKOUT / ".airflow").mkdir(exist_ok=True)
    with (CHECKOUT / ".airflow" / "ui.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("Another `make ui` runs in this checkout; end that one first.") from None
        yield


def choose_port(wanted: int | None) -> int:
    """Return Airflow's usual port, any free one where that is taken, or the one that was asked for."""
    try:
        return free_port(8080 if wanted is None else wanted)
    except (OSError, OverflowError) as error:
        if wanted is None:
            return free_port()
        raise SystemExit(f"Cannot listen on port {wanted}: {error}.") from None


def serve(port: int, interrupted: threading.Event) -> None:
    """Start everything, say where it is, and watch it until the interrupt.

    :raises AirflowDiedError: Airflow did not start in time, or ended by itself.
    """
    home = fresh_home("ui")
    print("Starting Airflow and a local PAI; this takes half a minute or more …", flush=True)
    with emulator(home) as pai_url:
        with api.PaiClient(pai_url, api.StaticCredential(api.Credential(**KEY))) as client:
            seed(client)
        environment = airflow_environment(home, pai_url)
        del environment["AIRFLOW_CONN_PAI_DEFAULT"]  # it would win over the saved one
        environment["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "INFO"  # the tasks' logs are there to be read
        with standalone(home, environment, port) as process:
            deadline = time.monotonic() + START_SECONDS

            def until(condition: Callable[[], bool]) -> bool:
                while not interrupted.wait(0.5):
                    check(process)
                    if condition():
                        return True
                    if time.monotonic() > deadline:
                        raise AirflowDiedError(f"Airflow was not ready after {START_SECONDS} s")
                return False

            airflow = Airflow(port)
            if not until(airflow.is_healthy):
                return
            airflow.set_up(pai_url)
            if not until(airflow.has_dags):
                return
            airflow.unpause()
            for _ in range(TIMES):
                airflow.start(JUDGED)
            for error in airflow.import_errors():
                print(error, file=sys.stderr)
            print(f"Airflow: {airflow.url}  user: {USER}  password: {PASSWORD}  (Ctrl-C ends it)", flush=True)
            where = f"{airflow.url}/{GATES_PAGE}/, or the button Verdict on the task gate of {JUDGED}"
            print(f"A gate that did not pass, in a few seconds: {where}", flush=True)
            while not interrupted.wait(1):
                check(process)
            print("Stopping …", flush=True)


def main() -> None:
    """Run the command line; ends with status 0 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m demo.ui", description=__doc__)
    parser.add_argument("--port", type=int, help="0 picks a free one (default: 8080, or a free one)")
    port = choose_port(parser.parse_args().port)
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not an exception: it could come while something is started or stopped, and leave that half done.
        signal.signal(number, lambda *_: interrupted.set())
    with only_one():
        try:
            serve(port, interrupted)
        except (AirflowDiedError, requests.RequestException) as error:
            log = CHECKOUT / ".airflow" / "ui" / LOG
            print(log.read_text(errors="replace")[-5000:], file=sys.stderr)
            raise SystemExit(f"{error}. The whole log is {log}.") from None


if __name__ == "__main__":
    main()
