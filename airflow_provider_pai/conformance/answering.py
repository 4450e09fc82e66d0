"""The assumptions about errors, and those that no request can check."""

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
    """Ask for the run that was created and deleted."""
    run_id = yield from scene.gone()

    def attempt(wait: float) -> Flow[Finding | None]:
        answer = yield from scene.get_run(run_id, wait=wait)
        if isinstance(answer.error, api.PaiNotFoundError):
            return as_assumed(answer.refusal)
        if answer.error is not None:
            return different(answer.refusal)
        return None if answer.must().name else as_assumed(f"HTTP {answer.response.status} without a name")

    try:
        finding, waited = yield from until(attempt)
    except api.PaiUnavailableError as error:
        # The vendor's Terraform provider takes a 5xx for "not found" too. It means that only if PAI answers
        # for a run that exists.
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
    setting="None: such an error has its HTTP status alone. Please report it.",
)
def error_body(scene: Scene) -> Flow[Finding]:
    """Ask for an experiment that does not exist, and for a page that cannot exist."""
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
    assumed="HTTP 400 or 429, `Throttling…`, `x-acs-retry-after` in milliseconds. The client sends "
    "the request again, after the time in the header.",
)
def throttling(scene: Scene) -> Flow[Finding]:
    """Report a throttled answer if one came by chance. To provoke it would take everybody's quota."""
    yield from ()
    if not scene.throttled:
        raise NotDecidable("the check would exhaust the account's quota")
    response = scene.throttled[0]
    after = response.headers.get("x-acs-retry-after")
    wait = f"retry after {after} ms" if after else "without a time to wait"
    return as_assumed(f"came by chance: HTTP {response.status}, {wait}")


@assumption(
    "Which page of the console shows a run?",
    assumed="The provider does not guess: the link opens the run's source, or the overview.",
    setting="`console_url` in the connection.",
)
def console_page(scene: Scene) -> Flow[Finding]:
    """No request can check this."""
    yield from ()
    raise NotDecidable("no request can check it; open the PAI button of a task")
