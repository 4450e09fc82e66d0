"""A local PAI AIWorkSpace to test against: `python -m airflow_provider_pai.emulator`, or `PaiEmulator`.

It is written from the vendor's specification and imports nothing of the provider, so that client and
emulator cannot share a mistake. A request passes through these modules::

    server   a thread and a port                   PaiEmulator; __main__ has the command line
    origin   refuses web pages of other sites
    wire     records it, applies faults, verifies  faults, signature; control serves other processes
    routes   finds the operation                   runs, experiments, registry, versions; parameters and
                                                   paging read the request
    account  carries it out                        models, records, clock
    state    SQLite                                listing, the index of ListRuns
"""

from __future__ import annotations

from .errors import RefusedError
from .faults import Fault, Quirks
from .server import PaiEmulator
from .wire import RecordedRequest

__all__ = ["Fault", "PaiEmulator", "Quirks", "RecordedRequest", "RefusedError"]
