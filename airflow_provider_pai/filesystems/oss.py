"""What Airflow asks for a filesystem of the scheme ``oss`` (provider info ``filesystems``).

Airflow imports this module for any path of its object storage, ``file://`` too. So what the extra ``oss``
installs is imported for the first path of ``oss://``.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_pai.api.errors import PaiConfigurationError
from airflow_provider_pai.filesystems import paths as paths  # from here on a path of oss:// has a bucket

__all__ = ["get_fs", "schemes"]

schemes = ["oss"]


def get_fs(conn_id: str | None, storage_options: dict[str, Any] | None = None) -> Any:
    """Return a filesystem with the credentials of a connection, which is read for the first request.

    :param conn_id: a connection of type ``pai``, ``alibaba_cloud`` or ``oss``; without one ``pai_default``.
    :param storage_options: ``endpoint``, ``region``, ``default_block_size``, ``default_cache_type``.
    :raises PaiConfigurationError: the extra ``oss`` is not installed, or there is no such option.
    """
    try:
        from airflow_provider_pai.filesystems.oss_storage import OssFileSystem
    except ImportError as error:
        raise PaiConfigurationError(
            "Paths of oss:// need ossfs, which is not installed here: "
            f"pip install 'airflow-provider-pai[oss]' ({error})."
        ) from error
    options = storage_options or {}
    unknown = sorted(options.keys() - {"endpoint", "region", "default_block_size", "default_cache_type"})
    if unknown:
        raise PaiConfigurationError(
            f"oss:// has no storage option {unknown[0]!r}; it takes endpoint, region, default_block_size and "
            "default_cache_type. Credentials come from the connection."
        )
    return OssFileSystem(conn_id=conn_id or "pai_default", **options)
