"""Move a label to a run, so that at every moment some run carries it.

The order makes it safe, whatever fails and whoever promotes at the same time: first the present holders are
listed, then the winner is labelled and seen to be, and only then the listed ones lose their label. A
failure leaves one holder too many at the worst, and repeating the whole ends with the winner alone. Of two
promotions at once neither can have listed the other's winner before the other listed, so one of the
winners stays.

Source: GetRun, ListRuns, UpdateRun and DeleteRunLabel of AIWorkSpace 2021-02-04 (FACTS 6).
"""

from __future__ import annotations

import msgspec

from airflow_provider_pai.api.errors import PaiNotFoundError, PaiResponseError, PaiUsageError
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.api.operations import delete_run_label, get_run, list_runs, set_run_labels
from airflow_provider_pai.api.query import Labels, RunQuery, parse_labels

__all__ = ["Promotion", "promote_run"]


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """What was done: nothing, where ``promoted`` is False and ``demoted_run_ids`` is empty."""

    run_id: str
    label: str
    promoted: bool
    """Whether the run got the label now; False if it carried it already."""
    demoted_run_ids: list[str]


def promote_run(run_id: str, label: Labels, *, among: RunQuery | None = None) -> Flow[Promotion]:
    """Give ``label`` to a run, then take it from the runs ``among`` which it is unique.

    Without a workspace ``among`` means the run's own; it may narrow to an experiment, or to other labels.
    Labels that are not named stay as they are, whether PAI merges or replaces labels.

    :raises PaiUsageError: not exactly one label, or a run that is not itself ``among`` those.
    :raises PaiNotFoundError: there is no such run; nothing was changed.
    :raises PaiResponseError: PAI took the label but does not show it; no other run has lost it.
    """
    wanted = parse_labels(label)
    if len(wanted) != 1:
        raise PaiUsageError(f"promote_run moves one label, not {len(wanted)}: {label!r}.")
    ((key, value),) = wanted.items()
    among = among or RunQuery()
    winner = yield from get_run(run_id)
    if not among.matches(winner):
        raise PaiUsageError(
            f"The run {run_id!r} is not among those it would be chosen from ({among}), so that after its "
            "promotion none of them would carry the label. Name another run, or other filters."
        )
    holders = yield from list_runs(_holders(among, wanted, winner))
    promoted = winner.labels.get(key) != value
    if promoted:
        yield from set_run_labels(run_id, wanted)
        yield from _see(run_id, key, value)
    demoted = [holder.run_id for holder in holders if holder.run_id != run_id]
    for holder_id in demoted:
        yield from _demote(holder_id, key)
    return Promotion(run_id=run_id, label=f"{key}:{value}", promoted=promoted, demoted_run_ids=demoted)


def _holders(among: RunQuery, label: dict[str, str], winner: Run) -> RunQuery:
    fields = msgspec.structs.asdict(among)
    labels = {**dict(among.label_items), **label}
    return RunQuery(**{**fields, "labels": labels, "workspace_id": among.workspace_id or winner.workspace_id})


def _see(run_id: str, key: str, value: str) -> Flow[None]:
    seen = yield from get_run(run_id)
    if seen.labels.get(key) != value:
        raise PaiResponseError(
            f"UpdateRun: PAI took the label {key}:{value} for {run_id} and shows {seen.labels}", status=200
        )


def _demote(run_id: str, key: str) -> Flow[None]:
    try:
        yield from delete_run_label(run_id, key)
    except PaiNotFoundError:
        return  # the label, or the run, is gone already
