"""Champion against challenger: three rounds of the nightly example in a real Airflow, against a local PAI.

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
from demo.local import CHECKOUT, KEY, airflow_environment, emulator, fresh_home

DAG = "pai_champion_challenger"
ROUNDS = (120, 600, 898)
"""From how many digits each round's challenger learns. The third learns from the most, and is worse."""

OURS = ("airflow_task", "airflow_dag_run")
"""Labels that a task finds its run by, and that say nothing to people."""


def run_rounds(home: Path, environment: dict[str, str]) -> None:
    """Run the DAG once for each round; the log goes to a file, which is shown where it fails."""
    log = home / "demo.log"
    rounds = [f"""dags test {DAG} --conf '{{"samples": {samples}}}'""" for samples in ROUNDS]
    command = [sys.executable, "-m", "demo.commands", "db migrate", *rounds]
    with log.open("w") as file:
        done = subprocess.run(
            command, cwd=CHECKOUT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=600
        )
    if done.returncode:
        print(log.read_text()[-20_000:])
        raise SystemExit(f"A round failed; the whole log is {log}.")


def verdict_of(run: Run) -> tuple[bool, str]:
    """Return what the gate's verdict, which the DAG wrote to the run, says: yes or no, and why."""
    decided, _, reasons = run.params["verdict"].partition(": ")
    return decided.endswith(" passes"), reasons


def table_of(runs: list[Run]) -> Table:
    """Draw the challengers with what they measured, and what the gate said."""
    table = Table(title="Challengers in the local PAI, oldest first", show_lines=True)
    table.add_column("run", no_wrap=True)
    table.add_column("accuracy", justify="right")
    table.add_column("log loss", justify="right")
    table.add_column("labels", no_wrap=True)
    table.add_column("the gate's verdict")
    for run in runs:
        metrics = run.to_dict()["metrics"]
        accepted, reasons = verdict_of(run)
        said = "[green]accepted[/green]" if accepted else "[red]refused[/red]"
        table.add_row(
            run.name,
            f"{metrics['accuracy']:.4f}",
            f"{metrics['log_loss']:.4f}",
            "\n".join(f"{key}:{value}" for key, value in run.labels.items() if not key.startswith(OURS)),
            "\n".join([said, *reasons.split("; ")]),
        )
    return table


def main() -> None:
    """Run everything and end by itself."""
    started = time.monotonic()
    console = Console(width=120)  # as wide as the table, also where the output goes to a file
    home = fresh_home("demo")
    with emulator(home) as url:
        console.print(
            f"A local PAI listens on {url}. Airflow trains, evaluates, decides: {len(ROUNDS)} times …"
        )
        run_rounds(home, {**airflow_environment(home, url), "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"})
        with PaiClient(url, StaticCredential(Credential(**KEY))) as client:
            runs = client.run(list_runs(RunQuery(labels="model:digits")))
    console.print(table_of(runs))
    champions = [run for run in runs if run.labels.get("champion") == "true"]
    for run in champions:
        console.print(f"The champion is {run.name}. It came from {run.params['airflow_url']}", soft_wrap=True)
    console.print(f"{time.monotonic() - started:.0f} s.")
    console.print(f"The gates' own tables are in the tasks' log, {home / 'demo.log'}", soft_wrap=True)
    accepted = [verdict_of(run)[0] for run in runs]
    as_expected = accepted == [True, True, False] and champions == [runs[1]]
    sys.exit(0 if as_expected else "The rounds did not end as they should.")


if __name__ == "__main__":
    main()
