"""Which machine this is: Airflow asks here ([core] hostname_callable), so that one machine can play many."""

import os

VARIABLE = "PAI_TEST_MACHINE"


def name() -> str:
    """Return the name of the machine that this process plays."""
    return os.environ[VARIABLE]
