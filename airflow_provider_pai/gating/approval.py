"""A person decides about what a gate has judged: Airflow's own approval, which shows the verdict.

**Nobody approves a verdict that they have not seen.** Airflow keeps what an approval asked at first: a task
that is cleared shows its old text, whatever has been judged since. So the option to approve names the judged
run, and a digest of its verdict. An answer that names another one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from airflow_provider_pai._base import PaiOperator
from airflow_provider_pai._compat import AirflowFailException, ApprovalOperator
from airflow_provider_pai._xcom import small_enough
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.gating.given import run_of
from airflow_provider_pai.gating.markdown import verdict_markdown
from airflow_provider_pai.gating.verdict import Verdict
from airflow_provider_pai.links import run_url

if TYPE_CHECKING:
    from airflow_provider_pai._compat import Context
    from airflow_provider_pai.api.models import Run

__all__ = ["PaiApprovalOperator"]

if ApprovalOperator is None:
    raise ImportError(
        "PaiApprovalOperator needs Airflow's own approvals, which came with Airflow 3.1. Before 3.1, let a "
        "person approve the version in PAI's console: register it with approval='Pending'."
    )

MOST_LINKED = 10
"""How many runs beside the chosen one are read to get their links."""


class PaiApprovalOperator(PaiOperator, ApprovalOperator):
    """Show a gate's verdict to a person, and go on if they approve it (Airflow 3.1 and later).

    It is the ApprovalOperator of Airflow's standard provider, and takes what that one takes, such as
    ``assigned_users``, ``notifiers``, ``response_timeout`` and ``fail_on_reject``. Takes ``pai_conn_id`` and
    ``region`` of :class:`~airflow_provider_pai._base.PaiOperator`, for the links to the runs, and:

    :param verdict: the output of a :class:`~airflow_provider_pai.gating.gate.PaiRunGateOperator`. If the gate
        did not pass, nobody is asked, and the task fails. Templated.
    :param subject: the headline; by default it names the run. Templated.
    :param body: Markdown that is shown above the verdict. Templated.
    :param defaults: only ``"Reject"``: what counts when nobody answers in time.
    :return: the verdict that was approved, as the gate pushed it, with ``chosen_options``, ``params_input``,
        ``responded_at`` and ``responded_by_user``. Its ``reason`` ends with who decided. After a rejection
        its ``passed`` is False. Pass it on as ``verdict=``, so that the approved run is the registered one.
    :raises PaiUsageError: when the DAG is parsed: other ``defaults``, which would approve a verdict unseen.

    An answer to an earlier verdict fails the task, without a retry. Airflow shows the old text of a cleared
    approval, so start another DAG run to judge another verdict and ask about it.
    """

    template_fields: Sequence[str] = (
        *PaiOperator.template_fields,
        *ApprovalOperator.template_fields,
        "verdict",
    )
    template_fields_renderers = {"verdict": "json", "body": "md"}  # noqa: RUF012 - Airflow's own way

    def __init__(
        self,
        *,
        verdict: Mapping[str, Any],
        subject: str | None = None,
        body: str | None = None,
        defaults: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        left_out: Any = subject  # the running task knows the run to name
        super().__init__(subject=left_out, body=body, defaults=defaults, **kwargs)
        self.verdict = verdict
        self.check_parsed()

    def _check_parameters(self) -> None:
        if self.defaults not in (None, [self.REJECT]):
            raise PaiUsageError(
                f"defaults={self.defaults!r} would approve a verdict that nobody has seen; only "
                f"{self.REJECT!r} can be the default."
            )

    def execute(self, context: Context) -> Any:
        """Ask, and wait for the answer."""
        verdict, run = self._judged(context)
        self.subject = self.subject or f"Approve {run.name or run.run_id}?"
        shown = verdict_markdown(verdict, links=self._links(verdict, run))
        self.body = "\n\n".join(filter(None, [self.body, shown]))
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the approved verdict, or skip the tasks downstream."""
        verdict, _ = self._judged(context)
        if "error" in event:
            return super().execute_complete(context, event)
        chosen = list(event["chosen_options"])
        if not set(chosen) <= set(self.options):
            raise AirflowFailException(
                f"The answer is {', '.join(chosen)!r}, but the verdict is another one now, whose answer "
                f"would be {self.APPROVE!r}. Nothing is approved. Airflow shows the old text of a "
                "cleared task, so start another DAG run."
            )
        outcome = self._outcome(verdict, event, approved=chosen == [self.APPROVE])
        if "ti" in context and self.do_xcom_push:  # a rejection skips by an exception, so nothing is returned
            context["ti"].xcom_push("return_value", outcome)
        super().execute_complete(context, event)
        return outcome

    def _judged(self, context: Context) -> tuple[Verdict, Run]:
        """Return the verdict and its run, and let the options name them."""
        from airflow_provider_pai.hooks import permanent_errors_fail_the_task

        with permanent_errors_fail_the_task():
            verdict = Verdict.of(self.verdict)
            if not verdict.passed or verdict.run is None:
                raise PaiUsageError(f"The gate did not pass, so nobody is asked: {verdict.reason}.")
            run = run_of(verdict.run)
        self.push_link(context, [run])
        self.note(self.hook, verdict=verdict)
        self.APPROVE = f"{ApprovalOperator.APPROVE} {run.run_id} (verdict {verdict.digest()})"
        self.options = [self.APPROVE, self.REJECT]
        return verdict, run

    def _links(self, verdict: Verdict, run: Run) -> dict[str, str]:
        """Return the pages of the runs that the verdict names. A run that cannot be read has none."""
        named = [one for check in verdict.checks for one in (check.run_id, check.baseline_run_id)]
        links: dict[str, str] = {}
        try:
            settings = self.hook.settings
            others = [one for one in dict.fromkeys(named) if one not in (None, run.run_id)][:MOST_LINKED]
            for known in (run, *map(self.hook.get_run, filter(None, others))):
                if url := run_url(known, settings.region, settings.console_url):
                    links[known.run_id] = url
        except Exception:  # it only decorates
            self.log.warning("Not all runs of the verdict get a link.", exc_info=True)
        return links

    def _outcome(self, verdict: Verdict, event: dict[str, Any], *, approved: bool) -> dict[str, Any]:
        user, when = event.get("responded_by_user"), event.get("responded_at")
        who = f"by {user['name']}" if user else "since nobody answered in time"
        decided = msgspec.structs.replace(
            verdict,
            passed=approved,
            reason=f"{verdict.reason}; {'approved' if approved else 'rejected'} in Airflow {who}",
        )
        self.note(self.hook, verdict=decided)
        answer = {
            "chosen_options": list(event["chosen_options"]),
            "params_input": event.get("params_input") or {},
            "responded_at": str(getattr(when, "isoformat", lambda: when)()),
            "responded_by_user": user and dict(user),
        }
        return small_enough({**decided.to_dict(), **answer}, "The answer with its verdict", "Lower max_runs.")
