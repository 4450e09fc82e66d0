"""The assumptions about the pages of ListRuns."""

from __future__ import annotations

from airflow_provider_pai.api.flow import Flow
from airflow_provider_pai.conformance.asking import Listing, NotDecidable
from airflow_provider_pai.conformance.assumptions import Finding, as_assumed, assumption, different
from airflow_provider_pai.conformance.scene import MOST_PAGES, Scene

__all__ = ["empty_pages", "page_size", "page_token", "token_or_number", "token_repeats", "total_count"]

FEWER_PAGES = "a larger `page_size`, so that there are fewer pages."


@assumption(
    "Is `PageToken` an offset or a page index, a number or a text, and how is the end written?",
    assumed="Sends the token back unchanged. Ends on 0, an empty text, null or no token.",
    setting=f"If runs are lost, or the listing has no end: {FEWER_PAGES}",
)
def page_token(scene: Scene) -> Flow[Finding]:
    """List five runs in pages of two."""
    runs = yield from scene.runs()
    listing = (yield from scene.pages_of_two()).must()
    if listing.repeated:
        raise NotDecidable(f"the token {listing.repeated} came twice: see token_repeats")
    if not listing.whole:
        return different(f"no end after {MOST_PAGES} pages; the last token is {_token(listing, -1)}")
    style = _style(listing)
    lost = {run.run_id for run in runs} - listing.ids
    return different(f"{len(lost)} of {len(runs)} runs are lost; {style}") if lost else as_assumed(style)


def _style(listing: Listing) -> str:
    tokens = [page.must().next_token for page in listing.pages[:-1]]
    counts = [len(page.must().runs) for page in listing.pages[:-1]]
    offsets = [str(sum(counts[: index + 1])) for index in range(len(counts))]
    indexes = [str(index + 1) for index in range(len(counts))]
    styles = [name for name, expected in (("offset", offsets), ("page index", indexes)) if tokens == expected]
    texts = any(isinstance(page.must().next_page_token, str) for page in listing.pages[:-1])
    kind = " or ".join(styles) or "neither offset nor page index"
    return f"{kind} ({', '.join(tokens)}), {'text' if texts else 'number'}; at the end {_token(listing, -1)}"


def _token(listing: Listing, page: int) -> str:
    fields = listing.pages[page].fields
    return repr(fields["NextPageToken"]) if "NextPageToken" in fields else "no token"


@assumption(
    "May a token come twice?",
    assumed="No: at a repeated token the listing fails with a `PaiPagingError`.",
    setting=f"If one does: {FEWER_PAGES}",
)
def token_repeats(scene: Scene) -> Flow[Finding]:
    """Compare the tokens of the listing."""
    listing = (yield from scene.pages_of_two()).must()
    if listing.repeated:
        return different(f"the token {listing.repeated} came twice within {len(listing.pages)} pages")
    return as_assumed(f"{len(listing.pages)} pages, each with a different token")


@assumption(
    "May a page be empty and not the last?",
    assumed="Yes: continues, up to 10,000 pages a listing.",
)
def empty_pages(scene: Scene) -> Flow[Finding]:
    """Count the empty pages of the listing."""
    listing = (yield from scene.pages_of_two()).must()
    empty = sum(not page.must().runs for page in listing.pages)
    return as_assumed(f"{empty} of {len(listing.pages)} pages are empty")


@assumption(
    "Which wins, `PageToken` or `PageNumber`?",
    assumed="Either: never sends both, and `list_runs_page` refuses both.",
)
def token_or_number(scene: Scene) -> Flow[Finding]:
    """Ask for the second page by token and for the third by number, in one request."""
    listing = yield from scene.pages_of_two()
    if len(listing.pages) < 2:
        raise NotDecidable("all runs came in one page of two")
    token = listing.pages[0].must().next_token
    paging = {"PageToken": token, "MaxResults": "2", "PageNumber": "3", "PageSize": "2"}
    base = {"WorkspaceId": (yield from scene.workspace()), "ExperimentId": (yield from scene.experiment())}
    answer = yield from scene.list_page({**base, "OrderBy": "GmtCreateTime ASC", **paging})
    if answer.error is not None:
        return as_assumed(f"both together are refused: {answer.refusal}")
    got = [run.run_id for run in answer.must().runs]
    by_token = [run.run_id for run in listing.pages[1].must().runs]
    return as_assumed("the token wins" if got == by_token else "the token does not win")


@assumption(
    "How many runs may a page have?",
    assumed="Asks for 100 unless `page_size` says otherwise. Accepts fewer.",
    setting="`page_size`, for lists. Sensors and the gate always ask for 100.",
)
def page_size(scene: Scene) -> Flow[Finding]:
    """List the whole workspace, other people's runs included, in longer and longer pages."""
    workspace_id = yield from scene.workspace()

    def ask(size: int) -> Flow[tuple[str, int, bool]]:
        query = {"WorkspaceId": workspace_id, "OrderBy": "GmtCreateTime ASC", "Verbose": "false"}
        answer = yield from scene.list_page({**query, "MaxResults": str(size)})
        if answer.error is not None:
            return answer.refusal, 0, False
        page = answer.must()
        return "", len(page.runs), len(page.runs) < size and bool(page.next_token)

    refused: list[str] = []
    accepted: list[str] = []
    cut: list[str] = []
    longest = 0
    for size in (100, 1000, 1001):
        refusal, length, fewer = yield from ask(size)
        longest = max(longest, length)
        (refused if refusal else cut if fewer else accepted).append(str(size))
    if "100" in refused:
        for size in (50, 20, 10):
            refusal, _, _ = yield from ask(size)
            if not refusal:
                return different(f"100 is refused, {size} is accepted")
        return different("100 is refused, and so are 50, 20 and 10")
    parts = [
        f"{', '.join(sizes)}: {outcome}"
        for sizes, outcome in ((accepted, "accepted"), (cut, "fewer runs come"), (refused, "refused"))
        if sizes
    ]
    return as_assumed(f"{'; '.join(parts)}; the longest page had {longest} runs")


@assumption(
    "Is `TotalCount` given, and right?",
    assumed="No loop depends on it. The client compares it between pages to notice deletions (see below), "
    "and the triggerer between polls to notice late labels.",
    setting="`[pai] read_back_share`: without it, a wait notices an old run's late label by reading back, "
    "within two intervals or more. And a run deleted while a listing is read can hide another one.",
)
def total_count(scene: Scene) -> Flow[Finding]:
    """Compare it with the runs of the experiment."""
    yield from scene.runs()
    listing = (yield from scene.listing({})).must()
    if not listing.whole:
        raise NotDecidable("the listing did not come to its end")
    total, count = listing.pages[0].must().total_count, len(listing.runs)
    if total is None:
        return different("not given")
    return as_assumed("given") if total == count else different(f"{total} for {count} runs")
