"""Train, evaluate, await: run the example pipeline in a real Airflow against a local PAI, then show it.

make demo
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from airflow_provider_pai.api import Credential, PaiClient, Run, RunQuery, StaticCredential, list_runs
from demo.local import KEY, airflow_environment, emulator, fresh_home

DAG = "pai_train_and_evaluate"


def table_of(runs: list[Run]) -> Table:
    """Draw runs with their labels and metrics."""
    table = Table(title=f"Runs in the local PAI after {DAG}")
    for heading in ("run", "name", "labels", "params"):
        table.add_column(heading, no_wrap=True)
    metrics = sorted({metric.key for run in runs for metric in run.metrics})
    for key in metrics:
        table.add_column(key, justify="right")
    for run in runs:
        record = run.to_dict()
        table.add_row(
            run.run_id,
            run.name,
            "\n".join(f"{key}:{value}" for key, value in run.labels.items()),
            "\n".join(f"{key}={value}" for key, value in run.params.items()),
            *(f"{record['metrics'][key]:.3f}" if key in record["metrics"] else "-" for key in metrics),
        )
    return table


def run_dag(home: Path, environment: dict[str, str]) -> None:
    """Run the DAG once in this Airflow; its log goes to a file, which is shown where it fails."""
    log = home / "demo.log"
    with log.open("w") as file:
        for command in (["airflow", "db", "migrate"], ["airflow", "dags", "test", DAG]):
            done = subprocess.run(
                command, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=600
            )
            if done.returncode:
                print(log.read_text()[-20_000:])
                raise SystemExit(f"{' '.join(command)} failed; the whole log is {log}.")


def main() -> None:
    """Run everything and end by itself."""
    started = time.monotonic()
    console = Console(width=120)  # as wide as the table, also where the output goes to a file
    home = fresh_home("demo")
    with emulator(home) as url:
        console.print(f"A local PAI listens on {url}. Airflow trains, evaluates and waits …")
        run_dag(home, airflow_environment(home, url))
        with PaiClient(url, StaticCredential(Credential(**KEY))) as client:
            runs = client.run(list_runs(RunQuery()))
    console.print(table_of(runs))
    evaluated = [run for run in runs if run.labels.get("is_evaluation") == "true" and run.metrics]
    console.print(
        f"{len(evaluated)} evaluated runs, {time.monotonic() - started:.0f} s. Log: {home / 'demo.log'}"
    )
    sys.exit(0 if len(evaluated) == 3 else "The pipeline did not leave three evaluated runs.")


if __name__ == "__main__":
    main()
