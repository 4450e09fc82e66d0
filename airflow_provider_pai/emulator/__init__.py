"""A local PAI AIWorkSpace to test against: `python -m airflow_provider_pai.emulator`, or `PaiEmulator`.

It is written from the vendor's specification and imports nothing of the provider, so that client and
emulator cannot share a mistake. A request goes this way::

    server  a thread and a port          PaiEmulator, and its command line in __main__
    wire    record, faults, signature    faults, signature; control serves other processes
    routes  which operation              runs, experiments; parameters and paging read the request
    account what a test or a call does   records, clock
    state   SQLite                       listing, the index of ListRuns
"""

from __future__ import annotations

from .errors import PaiError
from .faults import Fault, Quirks
from .server import PaiEmulator
from .wire import RecordedRequest

__all__ = ["Fault", "PaiEmulator", "PaiError", "Quirks", "RecordedRequest"]
