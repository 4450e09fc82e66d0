"""What importing costs. ``python -m benchmarks.imports NAME`` imports one thing and writes JSON."""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

NOTHING = "nothing"
PROVIDER = "operators and sensors, on top of Airflow"
IMPORTS = {
    NOTHING: (),
    "bare loop": ("http.client", "msgspec"),
    "our models and flows": ("airflow_provider_pai.api",),
    "our clients as well": ("airflow_provider_pai.api.client",),
    "official SDK": ("alibabacloud_aiworkspace20210204.client", "alibabacloud_tea_openapi.utils_models"),
}
AIRFLOW = (  # what our modules rest on, each where the newest Airflow has it and where older ones do
    ("airflow.sdk.bases.operator", "airflow.models.baseoperator"),
    ("airflow.sdk.bases.sensor", "airflow.sensors.base"),
    ("airflow.sdk.bases.hook", "airflow.hooks.base"),
    ("airflow.triggers.base",),
)
OURS = ("airflow_provider_pai.operators", "airflow_provider_pai.sensors")


def plain(name: str) -> dict[str, Any]:
    """Import into an interpreter that holds nothing yet; the memory is all that it holds then."""
    return {**timed(*IMPORTS[name]), "rss": rss()}


def provider() -> dict[str, Any]:
    """Import Airflow, then our modules.

    Both are timed in one interpreter: Airflow's own import takes seconds, and varies by more than ours
    takes in all, so that the difference between two interpreters would be noise.
    """
    airflow = timed(*AIRFLOW)
    rss_before, modules = rss(), set(sys.modules)
    ours = timed(*OURS)
    return {
        **ours,
        "rss": rss() - rss_before,
        "airflow_seconds": airflow["seconds"],
        "modules": sorted({name.partition(".")[0] for name in set(sys.modules) - modules}),
    }


def timed(*modules: str | tuple[str, ...]) -> dict[str, float]:
    """Return the seconds that importing takes, by the clock and of CPU."""
    cpu, started = time.process_time(), time.perf_counter()
    for module in modules:
        import_first(*([module] if isinstance(module, str) else module))
    return {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}


def import_first(name: str, *others: str) -> None:
    """Import a module, or else the first of the others that is there."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        if not others:
            raise
        import_first(*others)


def rss() -> int:
    """Return the bytes of memory this process holds."""
    import psutil  # late, so that what is timed does not find its imports done

    held: int = psutil.Process().memory_info().rss
    return held


if __name__ == "__main__":
    print(json.dumps(provider() if sys.argv[1] == PROVIDER else plain(sys.argv[1])))
