"""The emulator with PAI's own Python SDK (alipai), a client that signs the older way.

Its pins fit beside no Airflow, so it has an environment of its own, which `make test` makes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from airflow_provider_pai.emulator import PaiEmulator

TESTS = Path(__file__).parent
PYTHON = Path(os.environ.get("ALIPAI_PYTHON") or TESTS.parent / ".venvs" / "alipai" / "bin" / "python")


def test_alipai_creates_finds_and_lists_experiments(pai_emulator: PaiEmulator) -> None:
    if not PYTHON.exists():
        pytest.skip("alipai is not installed in .venvs/alipai")
    environment = {"PATH": os.environ.get("PATH", ""), "NO_PROXY": "127.0.0.1", "HOME": "/nonexistent"}
    command = [PYTHON, "-W", "ignore", TESTS / "with_alipai.py", pai_emulator.host_port, "145884"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    left = [
        (body["ExperimentId"], body["Name"], body["ArtifactUri"])
        for body in pai_emulator.state.experiments("145884")
    ]
    assert left == [(seen["made"][1], "letters", seen["uri"])]
    assert seen["uri"].startswith("oss://")
    assert (seen["workspace"], seen["refused"]) == ("research", "ExperimentAlreadyExists")
    assert (seen["listed"], seen["named"]) == (["digits", "digits-2"], ["digits-2"])
    assert (seen["found"], seen["nothing"]) == (seen["made"][0], None)
    assert {request.access_key_id for request in pai_emulator.requests} == {"emulator"}
