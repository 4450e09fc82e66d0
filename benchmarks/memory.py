"""What listing many runs one by one adds to a client's memory.

``python -m benchmarks.memory URL rss`` asks the operating system; ``… URL tracemalloc`` asks Python, which
slows everything down and takes memory itself, hence a process of its own.
"""

from __future__ import annotations

import gc
import json
import sys
import tracemalloc

from airflow_provider_pai.api import Credential, PaiClient, RunQuery, StaticCredential, list_runs, walk_runs
from benchmarks.contestants import KEY_ID, KEY_SECRET, LABEL
from benchmarks.imports import rss
from benchmarks.server import PAGE_SIZE, WORKSPACE_ID

RUNS = 100_000


def growth(url: str, *, traced: bool) -> dict[str, int]:
    """Return how many runs were listed and how far memory rose above that of one page listed before."""
    key = StaticCredential(Credential(access_key_id=KEY_ID, access_key_secret=KEY_SECRET))
    query = RunQuery(workspace_id=WORKSPACE_ID, labels=LABEL)
    count = 0
    with PaiClient(url, key) as client:
        client.run(list_runs(query, page_size=PAGE_SIZE, max_runs=1))
        gc.collect()
        if traced:
            tracemalloc.start()
        peak = before = rss()
        for _ in client.iter(walk_runs(query, page_size=PAGE_SIZE)):
            count += 1
            if count % PAGE_SIZE == 1:
                peak = max(peak, rss())
    return {"runs": count, "bytes": tracemalloc.get_traced_memory()[1] if traced else peak - before}


if __name__ == "__main__":
    print(json.dumps(growth(sys.argv[1], traced=sys.argv[2] == "tracemalloc")))
