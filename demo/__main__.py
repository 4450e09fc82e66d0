"""The nightly example in a real Airflow, against a local PAI: three rounds, an approval, a deployment.

make demo
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from airflow_provider_pai import api
from airflow_provider_pai.api import ModelVersion, PaiClient, Run
from demo.local import CHECKOUT, KEY, airflow_environment, emulator, fresh_home

DAG, DEPLOYMENT, MODEL = "pai_champion_challenger", "pai_deploy_approved", "digits"
ROUNDS = (120, 600, 898)
"""From how many digits each round's challenger learns. The third learns from the most, and is worse."""

OURS = ("airflow_task", "airflow_dag_run")
"""Labels that a task finds its run by, and that say nothing to people."""


def run_in_airflow(home: Path, url: str, *commands: str) -> str:
    """Run Airflow's commands, and return their log; it goes to a file too, and is shown where they fail."""
    log = home / "demo.log"
    environment = {**airflow_environment(home, url), "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO"}
    with log.open("a+") as file:
        before = file.tell()
        done = subprocess.run(
            [sys.executable, "-m", "demo.commands", *commands],
            cwd=CHECKOUT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
    said = log.read_text()[before:]
    if done.returncode:
        print(said[-20_000:])
        raise SystemExit(f"A DAG run failed; the whole log is {log}.")
    return said


def versions_of(client: PaiClient) -> tuple[str, list[ModelVersion]]:
    """Return the id of the model, and its versions, oldest first."""
    workspace_id = client.run(api.get_default_workspace()).workspace_id
    (model,) = client.run(api.list_models(workspace_id=workspace_id, name=MODEL))
    return model.model_id, client.run(api.list_model_versions(model.model_id))


def verdict_of(run: Run) -> tuple[bool, str]:
    """Return what the gate's verdict, which the DAG wrote to the run, says: yes or no, and why."""
    decided, _, reasons = run.params["verdict"].partition(": ")
    return decided.endswith(" passes"), reasons


def table_of(runs: list[Run], versions: dict[str, ModelVersion]) -> Table:
    """Draw the challengers with what they measured, what the gate said, and what became of their models."""
    table = Table(title="Challengers in the local PAI, oldest first", show_lines=True)
    table.add_column("run", no_wrap=True)
    table.add_column("accuracy", justify="right")
    table.add_column("log loss", justify="right")
    table.add_column("labels", no_wrap=True)
    table.add_column("the gate's verdict")
    table.add_column("version", no_wrap=True)
    for run in runs:
        metrics = run.to_dict()["metrics"]
        accepted, reasons = verdict_of(run)
        said = "[green]accepted[/green]" if accepted else "[red]refused[/red]"
        version = versions.get(run.run_id)
        table.add_row(
            run.name,
            f"{metrics['accuracy']:.4f}",
            f"{metrics['log_loss']:.4f}",
            "\n".join(f"{key}:{value}" for key, value in run.labels.items() if not key.startswith(OURS)),
            "\n".join([said, *reasons.split("; ")]),
            f"{version.version_name}\n{version.approval_status}" if version else "none",
        )
    return table


def main() -> None:
    """Run everything and end by itself."""
    started = time.monotonic()
    console = Console(width=120)  # as wide as the table, also where the output goes to a file
    home = fresh_home("demo")
    credential = api.StaticCredential(api.Credential(**KEY))
    with emulator(home) as url, PaiClient(url, credential) as client:
        console.print(
            f"A local PAI listens on {url}. Airflow trains, evaluates, decides: {len(ROUNDS)} times …"
        )
        rounds = [f"""dags test {DAG} --conf '{{"samples": {samples}}}'""" for samples in ROUNDS]
        run_in_airflow(home, url, "db migrate", *rounds)
        model_id, (*_, newest) = versions_of(client)
        client.run(api.set_model_version_approval(model_id, newest.version_name, "Approved"))
        console.print(
            f"You approve the version {newest.version_name}, and Airflow deploys what is approved …"
        )
        said = run_in_airflow(home, url, f"dags test {DEPLOYMENT}")
        runs = client.run(api.list_runs(api.RunQuery(labels="model:digits")))
        _, versions = versions_of(client)
    console.print(table_of(runs, {version.labels["pai_run_id"]: version for version in versions}))
    champions = [run for run in runs if run.labels.get("champion") == "true"]
    for run in champions:
        console.print(f"The champion is {run.name}. It came from {run.params['airflow_url']}", soft_wrap=True)
    deployed = f"{newest.version_name} of {model_id} goes into service"
    console.print(f"{deployed}. {time.monotonic() - started:.0f} s.")
    console.print(f"The gates' own tables are in the tasks' log, {home / 'demo.log'}", soft_wrap=True)
    accepted = [verdict_of(run)[0] for run in runs]
    as_expected = accepted == [True, True, False] and champions == [runs[1]] and deployed in said
    sys.exit(0 if as_expected else "The rounds did not end as they should.")


if __name__ == "__main__":
    main()
