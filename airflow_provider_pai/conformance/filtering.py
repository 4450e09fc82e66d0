"""The assumptions about the filters, the order and the details of ListRuns."""

from __future__ import annotations

from airflow_provider_pai.api.errors import PaiApiError
from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.api.models import Run
from airflow_provider_pai.conformance.asking import NotDecidable, short, until
from airflow_provider_pai.conformance.assumptions import Finding, as_assumed, assumption, different
from airflow_provider_pai.conformance.scene import Scene

__all__ = [
    "default_workspace",
    "gmt_create_time",
    "label_colons",
    "label_filter",
    "name_match",
    "order_by",
    "verbose",
]

UNKNOWN_ORDER = "in an order that equal times do not show"
NARROW = "give `experiment_id` too, so that PAI sends fewer runs."


def _found(scene: Scene, wait: float = 0.0, **query: str | None) -> Flow[list[str]]:
    """Return the ids of the experiment's runs that a query finds, in order."""
    listing = (yield from scene.listing(dict(query), wait=wait)).must()
    return [run.run_id for run in listing.runs]


@assumption(
    "What does `GmtCreateTime` compare: exactly, since, or as a prefix?",
    assumed="Nothing: it is not used. The client checks windows of time.",
    setting="Only `list_runs_page(gmt_create_time=…)` sends it.",
)
def gmt_create_time(scene: Scene) -> Flow[Finding]:
    """Ask for the third run's time, and for its day."""
    yield from scene.runs()
    listing = (yield from scene.listing({})).must()
    times = {run["RunId"]: str(run["GmtCreateTime"]) for page in listing.pages for run in page.fields["Runs"]}
    moment = sorted(times.values())[len(times) // 2]
    meanings = {
        "ignored": set(times),
        "exactly": {run_id for run_id, time in times.items() if time == moment},
        "since": {run_id for run_id, time in times.items() if time >= moment},
        "until": {run_id for run_id, time in times.items() if time <= moment},
    }
    if len({frozenset(ids) for ids in meanings.values()}) < len(meanings):
        raise NotDecidable("too many runs have the same time of creation")
    by_moment = yield from scene.listing({"GmtCreateTime": moment})
    by_day = yield from scene.listing({"GmtCreateTime": moment[:10]})
    if by_moment.error is not None:
        return as_assumed(f"refused: {short(by_moment.error)}")
    meaning = next((name for name, ids in meanings.items() if ids == by_moment.ids), "in another way")
    day = {run_id for run_id, time in times.items() if time.startswith(moment[:10])}
    if meaning == "exactly" and by_day.ids == day:
        meaning = "as a prefix"
    return as_assumed(meaning)


@assumption(
    "Does `Name` match exactly or in part?",
    assumed="Sends it, and the client checks for equality.",
    setting="If a run's own name does not find it: use a label instead of `name`.",
)
def name_match(scene: Scene) -> Flow[Finding]:
    """Ask for a whole name and for the part that all names share."""
    runs = yield from scene.runs()
    run = runs[1]
    whole = yield from _found(scene, Name=run.name)
    part = yield from _found(scene, Name=scene.name)
    if run.run_id not in whole:
        return different(f"the name {run.name} does not find its run")
    if len(whole) > 1:
        return as_assumed(f"ignored: {len(whole)} runs for one name")
    return as_assumed("in part" if part else "exactly")


@assumption(
    "Does ListRuns honour `Labels`?",
    assumed="Sends them, and the client checks the labels of every run.",
    setting=f"If PAI ignores them: {NARROW} If runs are missing: wait for a name instead.",
)
def label_filter(scene: Scene) -> Flow[Finding]:
    """Ask for one label, which another run carries with a longer value, and for two."""
    both, one, *_ = runs = yield from scene.runs()

    def attempt(wait: float) -> Flow[tuple[set[str], set[str]] | None]:
        single = yield from _found(scene, wait, Labels=f"conformance:{scene.mark}")
        pair = yield from _found(scene, Labels=f"conformance:{scene.mark},part:a")
        whole = {both.run_id, one.run_id} <= set(single) and both.run_id in pair
        return (set(single), set(pair)) if whole else None

    found, waited = yield from until(attempt)
    if found is None:
        return different(f"a run that carries the label is not found after {waited:.0f} s")
    single, pair = found
    if single >= {run.run_id for run in runs}:
        return different("ignored: runs without the label are found")
    extra = [
        *(["longer values match too"] if len(single) > 2 else []),
        *(["one of several labels is enough"] if len(pair) > 1 else []),
    ]
    return as_assumed("; ".join(extra) or "exactly, and all of several")


@assumption(
    "How is the label `a:b:c` split?",
    assumed="The client checks a label with a colon in its key or value, and does not send it. In the string "
    "form the first colon ends the key.",
    setting=f"A query with only such a label does not narrow what PAI sends: {NARROW}",
)
def label_colons(scene: Scene) -> Flow[Finding]:
    """Create a run for each meaning, and list which one PAI finds."""
    value, key = {"split": f"at:{scene.mark}"}, {"split:at": scene.mark}
    try:
        first = yield from scene.make_run("colon-in-value", labels=value)
        last = yield from scene.make_run("colon-in-key", labels=key)
    except PaiApiError as error:
        if error.status != 400 or error.transient:
            raise
        return as_assumed(f"PAI refuses such labels: {error.code}")
    yield from scene.visible([first, last])
    meanings = {
        (True, False): "at the first colon",
        (False, True): "at the last colon",
        (True, True): "in both ways",
    }

    def attempt(wait: float) -> Flow[str | None]:
        listing = yield from scene.listing({"Labels": f"split:at:{scene.mark}"}, wait=wait)
        if listing.error is not None:
            return f"refused: {short(listing.error)}"
        return meanings.get((first in listing.ids, last in listing.ids))

    seen, _ = yield from until(attempt)
    return as_assumed(seen or "in neither way")


@assumption(
    "Is `OrderBy` honoured, and what is the default?",
    assumed="Always sends it with a direction, and the client sorts the runs itself. A listing that is not "
    "in order is read to its end.",
    setting=f"If it is not: {NARROW}",
)
def order_by(scene: Scene) -> Flow[Finding]:
    """List in each order, and without one."""
    runs = yield from scene.runs()
    by_id = {run.run_id: run for run in runs}

    def listed(order: str | None) -> Flow[list[Run]]:
        found = yield from _found(scene, OrderBy=order)
        return [by_id[run_id] for run_id in found if run_id in by_id]

    oldest = yield from listed("GmtCreateTime ASC")
    newest = yield from listed("GmtCreateTime DESC")
    names = yield from listed("Name ASC")
    usual = yield from listed(None)
    bare = yield from listed("GmtCreateTime")
    broken = [
        order
        for order, kept in {
            "GmtCreateTime ASC": _direction(oldest) in ("oldest first", UNKNOWN_ORDER),
            "GmtCreateTime DESC": _direction(newest) in ("newest first", UNKNOWN_ORDER),
            "Name ASC": [run.name for run in names] == sorted(str(run.name) for run in names),
        }.items()
        if not kept
    ]
    if broken:
        return different(f"not kept: {', '.join(broken)}; by default {_direction(usual)}")
    return as_assumed(f"honoured; by default {_direction(usual)}, without a direction {_direction(bare)}")


def _direction(runs: list[Run]) -> str:
    times = [run.gmt_create_time for run in runs if run.gmt_create_time is not None]
    if len(set(times)) < 2:
        return UNKNOWN_ORDER
    if times == sorted(times):
        return "oldest first"
    return "newest first" if times == sorted(times, reverse=True) else "in no order of time"


@assumption(
    "Do labels, params and metrics come with `Verbose=true`, and not without?",
    assumed="Always sends `Verbose`, which is true wherever the client checks labels.",
    setting="None: without details the client cannot check labels, and finds nothing.",
)
def verbose(scene: Scene) -> Flow[Finding]:
    """List a run with labels and params in each way."""
    run, *_ = yield from scene.runs()

    def detailed(flag: str | None) -> Flow[bool]:
        listing = (yield from scene.listing({"Verbose": flag})).must()
        return any(found.run_id == run.run_id and found.labels and found.params for found in listing.runs)

    with_it = yield from detailed("true")
    without = yield from detailed("false")
    usual = yield from detailed(None)
    if not with_it:
        return different("labels and params do not come")
    others = [name for name, comes in (("false", without), ("no Verbose", usual)) if comes]
    return as_assumed(f"they come with true{''.join(f', and with {name}' for name in others) or ' alone'}")


@assumption(
    "Which workspace answers where none is named?",
    assumed="The default one.",
    setting="`workspace_id` in the connection.",
)
def default_workspace(scene: Scene) -> Flow[Finding]:
    """List without a workspace, and compare with GetDefaultWorkspace."""
    expected = yield from scene.default_workspace()
    answer = yield from scene.list_page({"OrderBy": "GmtCreateTime DESC", "MaxResults": "10"})
    if answer.error is not None:
        return different(f"ListRuns without one is refused: {answer.refusal}")
    found = {run.workspace_id for run in answer.must().runs}
    if not found:
        raise NotDecidable(f"the default workspace {expected} holds no runs")
    if found != {expected}:
        return different(f"{', '.join(sorted(map(str, found)))}; the default one is {expected}")
    return as_assumed(f"{expected}, which is the default one")
