"""Deploy a version of a model once somebody has approved it in PAI's console.

The second half of the nightly example: `champion_challenger.py` registers the model of each new champion as a
version, which is `Pending` until a person approves or rejects it. From Airflow 3.0 on this DAG starts when a
version becomes approved (`pai_model_asset`), and needs no task that waits. Airflow 2 has no asset watchers:
there this DAG starts when a version is registered, by the dataset of the task `register`, and
`PaiModelVersionSensor` waits in the triggerer for the decision, one DAG run for each version. The sensor
stands on both: it makes sure that the approval was not taken back meanwhile. A rejected version skips the
deployment.

Needs a connection `pai_default` and a triggerer. Nothing is written to PAI. Started by hand, it deploys the
newest version once that is approved.
"""

from __future__ import annotations

import pendulum

from airflow_provider_pai.hooks import PaiHook
from airflow_provider_pai.sensors import PaiModelVersionSensor

MODEL = "digits"

try:
    from airflow.sdk import dag, task

    from airflow_provider_pai.triggers import pai_model_asset

    started_by = pai_model_asset("pai_digits_approved", model_name=MODEL, poke_interval=30)
except ImportError:  # Airflow 2
    from airflow.datasets import Dataset as Asset
    from airflow.decorators import dag, task

    started_by = Asset("pai_digits_registered")


@dag(
    schedule=[started_by],
    start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
    catchup=False,
    tags=["pai", "example"],
    doc_md=__doc__,
)
def pai_deploy_approved() -> None:
    @task(multiple_outputs=True)
    def which(**context) -> dict:
        """Return the version that the last event names, or the newest where somebody started this by hand."""
        events = context.get("triggering_asset_events") or context.get("triggering_dataset_events") or {}
        extras = [event.extra for events_of_one in events.values() for event in events_of_one]
        versions = [extra.get("payload", {}).get("version") or extra for extra in extras]
        named = [version for version in versions if "version_name" in version]
        if named:
            return {name: named[-1][name] for name in ("model_id", "version_name")}
        hook = PaiHook()
        (model,) = hook.list_models(name=MODEL)
        newest = hook.list_model_versions(model.model_id)[-1]
        return {"model_id": model.model_id, "version_name": newest.version_name}

    @task
    def deploy(version: dict) -> str:
        """Put the version into service; yours would call what serves it."""
        print(f"{version['version_name']} of {version['model_id']} goes into service, from {version['uri']}.")
        return version["version_name"]

    version = which()
    approved = PaiModelVersionSensor(
        task_id="wait_for_approval",
        model_id=version["model_id"],
        version_name=version["version_name"],
        on_rejected="skip",
        deferrable=True,
        end_from_trigger=True,  # the approval needs no worker
        poke_interval=30,
        timeout=7 * 24 * 3600,
    )
    deploy(approved.output)


pai_deploy_approved()
