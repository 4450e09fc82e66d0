"""Many waits at once, a gate over all that they found, and what follows from its verdict."""

from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_provider_pai.operators import PaiRunGateOperator
from airflow_provider_pai.sensors import PaiRunSensor

# A task whose worker was killed is one that failed, so it needs a retry.
AGAIN = {"retries": 3, "retry_delay": timedelta(seconds=1), "pai_conn_id": "pai_many"}


@task
def experiments(params=None):
    return params["experiments"]


@task
def together(found):
    return [run for runs in found for run in runs]


@task
def deploy(verdict):
    return verdict["run"]["run_id"]


@task
def tell():
    raise RuntimeError("the gate did not pass")


with DAG("many_waits", schedule=None, params={"experiments": []}, max_active_tasks=64, default_args=AGAIN):
    wait = PaiRunSensor.partial(
        task_id="wait", labels="evaluated:true", deferrable=True, poke_interval=5, timeout=1800
    ).expand(experiment_id=experiments())
    gate = PaiRunGateOperator(
        task_id="gate",
        runs=together(wait.output),
        select="highest accuracy",
        metrics={"accuracy": ">= 0.95"},
        max_runs=1000,
        follow_if_passed="deploy",
        follow_if_failed="tell",
    )
    gate >> [deploy(gate.output), tell()]
