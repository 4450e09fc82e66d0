"""What is assumed about errors, and about what no request can tell."""

from __future__ import annotations

from airflow_provider_pai import api
from airflow_provider_pai.api.flow import Flow, Request, Response
from airflow_provider_pai.api.models import Experiment
from airflow_provider_pai.api.parameters import path
from airflow_provider_pai.conformance.asking import NotDecidable, short, until
from airflow_provider_pai.conformance.assumptions import Finding, as_assumed, assumption, different
from airflow_provider_pai.conformance.scene import Scene

__all__ = ["console_page", "error_body", "missing_run", "throttling"]


@assumption(
    "How does a missing run show in `GetRun`?",
    assumed="As 404, as a code with NotFound or NotExist, or as HTTP 200 without a name: `PaiNotFoundError`.",
    setting="None: a task that asks for a missing run is retried, or fails with another error.",
)
def missing_run(scene: Scene) -> Flow[Finding]:
    """Ask for the run that was made and deleted."""
    run_id = yield from scene.gone()

    def look(wait: float) -> Flow[Finding | None]:
        answer = yield from scene.get_run(run_id, wait=wait)
        if isinstance(answer.error, api.PaiNotFoundError):
            return as_assumed(answer.refusal)
        if answer.error is not None:
            return different(answer.refusal)
        return None if answer.must().name else as_assumed(f"HTTP {answer.response.status} without a name")

    try:
        finding, waited = yield from until(look)
    except api.PaiUnavailableError as error:
        # Some services answer so for what is missing (FACTS 4): it is so where a run that is there is read.
        run, *_ = yield from scene.runs()
        (yield from scene.get_run(run.run_id)).must()
        return different(short(error))
    if finding is None:
        raise NotDecidable(f"the deleted run still shows after {waited:.0f} s")
    return finding


@assumption(
    "What does an error body look like?",
    assumed="JSON with `Code`, `Message` and `RequestId`, or these in lower case, or XML. Each is "
    "understood; so is an error inside a 200.",
    setting="None: such an error is told by its HTTP status alone. Please report it.",
)
def error_body(scene: Scene) -> Flow[Finding]:
    """Ask for an experiment that is not there, and for a page that cannot be."""
    missing = Request(action="GetExperiment", path=path("experiments", f"exp-{scene.mark}000000"))
    try:
        answer = yield from scene.ask(missing, Experiment)
        error: api.PaiApiError | None = answer.error
        if error is None:
            page = yield from scene.list_page({"PageToken": "no-token"})
            error = page.error
    except (api.PaiPermissionError, api.PaiUnavailableError) as refused:
        error = refused
    if error is None:
        raise NotDecidable("PAI refused nothing")
    response = scene.last_response
    seen = f"HTTP {error.status} {_form(response)}"
    if error.code:
        return as_assumed(f"{seen}, {error.code}")
    return different(f"{seen} holds no code: {response.body[:80].decode('utf-8', 'replace')}")


def _form(response: Response) -> str:
    body = response.body.lstrip()
    if body.startswith(b"<"):
        return "XML"
    if b'"Code"' in body:
        return "JSON with Code"
    return "JSON with code" if b'"code"' in body else "JSON"


@assumption(
    "What is throttling?",
    assumed="HTTP 400 or 429, `Throttling…`, `x-acs-retry-after` in milliseconds. All of them are tried "
    "again, and the header is honoured.",
)
def throttling(scene: Scene) -> Flow[Finding]:
    """Tell what was met by chance: to provoke it would take the quota from everybody else."""
    yield from ()
    if not scene.throttled:
        raise NotDecidable("it would take exhausting the account's quota")
    response = scene.throttled[0]
    after = response.headers.get("x-acs-retry-after")
    wait = f"retry after {after} ms" if after else "without a time to wait"
    return as_assumed(f"met by chance: HTTP {response.status}, {wait}")


@assumption(
    "Which page of the console shows a run?",
    assumed="None is invented: the link opens the run's source, or the overview.",
    setting="`console_url` in the connection.",
)
def console_page(scene: Scene) -> Flow[Finding]:
    """No request can tell."""
    yield from ()
    raise NotDecidable("no request tells; open the button of a task and look")
