"""Apache Airflow provider for Alibaba Cloud PAI (AIWorkSpace) experiment tracking.

Importing this package imports nothing of Airflow, so that Airflow can read the provider's metadata,
and a script can use :mod:`airflow_provider_pai.api`, without paying for more.
"""

from __future__ import annotations

__all__ = ["__version__", "get_provider_info"]

__version__ = "0.1.0"


def get_provider_info() -> dict[str, object]:
    """Describe this provider to Airflow (entry point ``apache_airflow_provider``).

    The dict validates against ``airflow/provider_info.schema.json`` of every supported version.
    """
    from airflow_provider_pai import connection_form

    name = "Alibaba Cloud PAI"
    version = {"version_added": __version__, "example": None}
    return {
        "package-name": "airflow-provider-pai",
        "name": name,
        "description": "Query, await and gate on the runs of Alibaba Cloud PAI experiment tracking.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": name,
                "external-doc-url": "https://www.alibabacloud.com/help/en/pai/",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": name, "python-modules": ["airflow_provider_pai.hooks"]}],
        "operators": [{"integration-name": name, "python-modules": ["airflow_provider_pai.operators"]}],
        "sensors": [{"integration-name": name, "python-modules": ["airflow_provider_pai.sensors"]}],
        "triggers": [
            {
                "integration-name": name,
                "python-modules": [
                    "airflow_provider_pai.triggers",
                    "airflow_provider_pai.registry.events",
                    "airflow_provider_pai.registry.trigger",
                    "airflow_provider_pai.waiting.events",
                ],
            }
        ],
        "task-decorators": [
            {"name": "pai_run", "class-name": "airflow_provider_pai.tracking.decorator.pai_run_task"}
        ],
        "filesystems": ["airflow_provider_pai.filesystems.oss"],
        "config": {
            "pai": {
                "description": "How often a triggerer asks Alibaba Cloud PAI.",
                "options": {
                    "max_requests": {
                        **version,
                        "description": (
                            "How many requests one triggerer sends to a region of PAI in any 3 seconds at "
                            "most: a third of them are polls, the rest is all that goes beyond. PAI's quota "
                            "for ListRuns is 50 for the whole account: share it among your triggerers, and "
                            "leave some for workers."
                        ),
                        "type": "integer",
                        "default": "24",
                    },
                    "read_back_share": {
                        **version,
                        "description": (
                            "Which share of max_requests may look for changes of which there is no sign: "
                            "late labels where PAI tells no TotalCount, and values logged to runs that are "
                            "not among the newest 100. From 0 to 1; one request in 3 seconds at least."
                        ),
                        "type": "float",
                        "default": "0.6",
                    },
                },
            }
        },
        "extra-links": [
            "airflow_provider_pai.links.PaiRunLink",
            "airflow_provider_pai.links.PaiVerdictLink",  # only gates on Airflow 3.1 and later have it
        ],
        "connection-types": [
            {
                "connection-type": connection_form.CONNECTION_TYPE,
                "hook-class-name": "airflow_provider_pai.hooks.PaiHook",
                "hook-name": name,
                "ui-field-behaviour": connection_form.FIELD_BEHAVIOUR,
                "conn-fields": connection_form.FIELDS,
            }
        ],
    }
