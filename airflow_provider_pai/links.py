"""The buttons on a task: what a run came from in the PAI console, and a gate's verdict in Airflow.

No page of a run or an experiment is documented, so none is invented: the link leads to the run's source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from airflow_provider_pai._compat import BaseOperator, BaseOperatorLink, pushed_link, web_url
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.api.signing import percent_encode
from airflow_provider_pai.connection import CONSOLE_FIELDS, fill_in
from airflow_provider_pai.ui import GATES_PAGE

__all__ = [
    "LINK_KEY",
    "VERDICT_KEY",
    "PaiRunLink",
    "PaiVerdictLink",
    "console_url",
    "link_key",
    "push_link",
    "run_url",
    "verdict_url",
]

LINK_KEY = "pai_run_link"
VERDICT_KEY = "pai_verdict_link"
CONSOLE = "https://pai.console.aliyun.com/"
SOURCE_PAGES = {  # of a training job as the vendor's own GetTrainingJob writes it (TrainingJobUrl)
    "TrainingService": "#/training/jobs/{source_id}",
    "DLC": "#/dlc/jobs/{source_id}/overview",
}


def console_url(runs: Sequence[Run], region: str | None, template: str | None = None) -> str:
    """Return the page of the first run's source, or the workspace overview where there is none.

    ``template`` is the connection's ``console_url``; its fields are filled in percent-encoded.

    :raises PaiConfigurationError: a template that is not an address, or that has anything but its fields.
    """
    run = runs[0] if runs else None
    fields = {"region": percent_encode(region or "")}
    for name in CONSOLE_FIELDS[1:]:
        fields[name] = percent_encode(getattr(run, name, None) or "")
    if template is None:
        page = SOURCE_PAGES.get(fields["source_type"]) if fields["source_id"] else None
        where = f"regionId={fields['region']}" if region else ""
        if page is not None and fields["workspace_id"]:
            where += f"&workspaceId={fields['workspace_id']}"
        template = f"{CONSOLE}?{where.lstrip('&')}{page or '#/workspace/overview'}".replace("?#", "#")
    return fill_in(template, fields)


def run_url(run: Run, region: str | None, template: str | None = None) -> str | None:
    """Return the page of a run's source, or ``None`` where the run has none that is known.

    :raises PaiConfigurationError: as :func:`console_url` does.
    """
    if template is None and not (run.source_id and run.source_type in SOURCE_PAGES):
        return None
    return console_url([run], region, template)


def link_key() -> str:
    """Return the XCom key under which this Airflow looks a task's link up."""
    key: str = getattr(PaiRunLink(), "xcom_key", LINK_KEY)  # Airflow 2 asks get_link, which knows ours
    return key


def push_link(task: Any, context: Any, hook: Any, runs: Sequence[Run]) -> None:
    """Let a task's PAI button open the first run's source."""
    try:
        settings = hook.settings
        url = console_url(runs, settings.region, settings.console_url)
        setattr(task, LINK_KEY, url)
        if "ti" in context:  # not where somebody calls execute({}) to try a task out
            context["ti"].xcom_push(LINK_KEY, url)
    except Exception:  # a button must not fail a task
        task.log.warning("The task gets no PAI button.", exc_info=True)


class PaiRunLink(BaseOperatorLink):
    """Open the first run's source in the PAI console."""

    name = "PAI console"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the link that the task pushed, or nothing before it has run."""
        return pushed_link(operator, ti_key, LINK_KEY) or ""


def verdict_url(ti: Any) -> str:
    """Return the address of a gate's verdict; where Airflow does not know its own, one relative to it."""
    place = "/".join(quote(str(part), safe="") for part in (ti.dag_id, ti.run_id, ti.task_id, ti.map_index))
    return "/".join(filter(None, [web_url(), f"{GATES_PAGE}/?verdict={place}"]))


class PaiVerdictLink(BaseOperatorLink):
    """Open a gate's verdict on the page "PAI gates", which Airflow has from 3.1 on."""

    name = "Verdict"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the link that the gate left, or nothing before it has decided."""
        return pushed_link(operator, ti_key, VERDICT_KEY) or ""
