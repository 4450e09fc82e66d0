"""Where in OSS the files of a model are, as PAI's registry takes it."""

from __future__ import annotations

from typing import Any

from airflow_provider_pai._compat import get_connection
from airflow_provider_pai.api.errors import PaiUsageError
from airflow_provider_pai.api.model_parameters import check_uri
from airflow_provider_pai.connection import OssSettings

__all__ = ["of_airflow", "pai_uri"]

SCHEME = "oss://"


def of_airflow(uri: Any) -> bool:
    """Tell whether this is a path of Airflow's object storage that names a connection."""
    return isinstance(uri, str) and uri.startswith(SCHEME) and "@" in uri[len(SCHEME) :].partition("/")[0]


def pai_uri(uri: Any) -> str:
    """Return the address of a model's files as PAI takes it.

    ``oss://conn@bucket/key``, as text or as an ``ObjectStoragePath``, becomes ``oss://bucket.endpoint/key``,
    with the connection's endpoint. Others are checked and returned.

    :raises PaiUsageError: PAI would refuse it; the text says what to write instead.
    :raises PaiConfigurationError: the connection names no endpoint of OSS, nor a region.
    """
    if hasattr(uri, "protocol"):
        uri = str(uri)
    if not of_airflow(uri):
        return check_uri(uri)
    host, _, key = uri[len(SCHEME) :].partition("/")
    conn_id, _, bucket = host.rpartition("@")
    connection = get_connection(conn_id)
    endpoint = OssSettings.of(connection, connection.extra_dejson).endpoint.partition("://")[2]
    address = f"{SCHEME}{bucket}.{endpoint}/{key}"
    try:
        return check_uri(address)
    except PaiUsageError:
        if not key:
            raise
        raise PaiUsageError(
            f"uri names the connection {conn_id!r}, whose endpoint is {endpoint!r}, and PAI does not accept "
            f"{address!r}. Write the bucket's own endpoint: 'oss://{bucket}.oss-cn-hangzhou.aliyuncs.com/{key}'."
        ) from None
