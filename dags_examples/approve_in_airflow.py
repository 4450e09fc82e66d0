"""Ask a person in Airflow whether the best run is released, and register it as approved if they say yes.

Shows `PaiApprovalOperator`: Airflow's page *Required Actions* shows the gate's verdict as a table, and the
button to approve names the judged run, so that nobody approves a verdict that they have not seen. The
approval hands the verdict on, so that what was approved is what is registered, in PAI's model registry.

Needs Airflow 3.1 or later, and a connection `pai_default`. Before 3.1 this file holds no DAG.
"""

from __future__ import annotations

import pendulum

from airflow_provider_pai.operators import PaiRegisterModelVersionOperator, PaiRunGateOperator
from airflow_provider_pai.windows import midnight

try:
    from airflow.sdk import dag

    from airflow_provider_pai.operators import PaiApprovalOperator
except ImportError:
    dag = None


def pai_approve_in_airflow() -> None:
    gate = PaiRunGateOperator(
        task_id="gate",
        labels="is_evaluation:true",
        created_after=midnight(-7),
        select="highest accuracy",
        metrics={"accuracy": ">= 0.9", "log_loss": "< 0.35"},
    )
    ask = PaiApprovalOperator(
        task_id="ask",
        verdict=gate.output,
        body="Look at the run before it goes into service.",
    )
    PaiRegisterModelVersionOperator(
        task_id="register",
        model_name="digits",
        uri="oss://models.oss-cn-hangzhou.aliyuncs.com/digits/{{ ti.xcom_pull('ask').run.run_id }}.onnx",
        verdict=ask.output,
        approval="Approved",
    )


if dag is not None:
    dag(
        schedule=None,
        start_date=pendulum.datetime(2025, 1, 1, tz="UTC"),
        catchup=False,
        tags=["pai", "example"],
        doc_md=__doc__,
    )(pai_approve_in_airflow)()
