"""Drive the emulator with PAI's own Python SDK, in the environment of that SDK; prints what it saw as JSON.

``python with_alipai.py HOST:PORT WORKSPACE``. Called by test_emulator_with_alipai.py.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from alibabacloud_credentials.models import Config as CredentialConfig
from alibabacloud_tea_openapi.models import Config
from pai.experiment import Experiment
from pai.libs.alibabacloud_aiworkspace20210204.client import Client
from pai.session import Session


def connect(host_port: str, workspace_id: str) -> Session:
    key = CredentialConfig(type="access_key", access_key_id="emulator", access_key_secret="emulator-secret")
    session = Session("cn-hangzhou", workspace_id, key, network="PUBLIC")
    # Its own factory knows the vendor's endpoints only. All else is as there.
    session.acs_client_container["aiworkspace"] = Client(
        Config(
            credential=session._acs_credential_client(),
            region_id="cn-hangzhou",
            endpoint=host_port,
            protocol="http",
            signature_algorithm="v2",
        )
    )
    return session


def drive(session: Session) -> dict[str, Any]:
    uri = session.workspace_api.get_default_storage_uri(session.workspace_id)
    made = [Experiment.create(uri, name, session=session) for name in ("digits", "digits-2")]
    try:
        Experiment.create(uri, "digits", session=session)
        refused = ""
    except Exception as error:
        refused = str(getattr(error, "code", error))
    seen = {
        "workspace": session.workspace_name,
        "uri": uri,
        "made": [experiment.experiment_id for experiment in made],
        "refused": refused,
        "listed": sorted(experiment.name for experiment in Experiment.list(session=session)),
        "named": sorted(experiment.name for experiment in Experiment.list("s-2", session=session)),
        "found": Experiment.get_by_name("digits", session=session).experiment_id,
        "nothing": Experiment.get_by_name("digit", session=session),
    }
    made[1].update("letters")
    made[0].delete()
    return seen


if __name__ == "__main__":
    print(json.dumps(drive(connect(*sys.argv[1:]))))
