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
    from airflow_provider_pai._metadata import provider_info

    return provider_info()
