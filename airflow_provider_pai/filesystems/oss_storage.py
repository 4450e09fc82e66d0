"""The filesystem behind ``oss://``: ossfs with a connection's credentials, and with complete writes.

This module overrides what ossfs does otherwise:

- It writes by appending, after it has deleted what was there: half of a file stays when writing fails. Here
  a file is one request, or a multipart upload, which is aborted then (``oss_file.py``).
- It keeps a key for ever. Here every request is signed with what the connection's source returns then.
- It caches listings, finds an object by listing its folder, and reads one byte more than a range has. If OSS
  refuses a request, it reports an empty folder or a missing file.

It imports ossfs, so :mod:`airflow_provider_pai.filesystems.oss` imports it late.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any
from xml.etree.ElementTree import ParseError

import oss2
import requests
from fsspec.spec import AbstractFileSystem
from ossfs import OSSFileSystem

from airflow_provider_pai._compat import get_connection
from airflow_provider_pai.api import flow
from airflow_provider_pai.api.credentials import RenewableSource
from airflow_provider_pai.api.errors import PaiError, PaiUsageError
from airflow_provider_pai.connection import OssSettings
from airflow_provider_pai.filesystems.oss_errors import (
    OssAuthenticationError,
    OssNotFoundError,
    OssPermissionError,
    describe,
)
from airflow_provider_pai.filesystems.oss_file import PART, Layered, OssFile

__all__ = ["OssFileSystem"]

log = logging.getLogger(__name__)

for _name in ("oss2.api", "oss2.auth", "oss2.http"):
    # At level debug they show whole requests with their tokens, and what was signed.
    logging.getLogger(_name).setLevel(logging.WARNING)

COPY_LIMIT = 2**30
"""What OSS copies in one request; larger objects are read and written."""


class Access:
    """The credential and the endpoint of a connection, which is read for the first request.

    oss2 asks it for a credential before every request.
    """

    def __init__(self, conn_id: str, **overrides: str | None) -> None:
        self._conn_id = conn_id
        self._overrides = overrides
        self._lock = threading.Lock()
        self._settings: OssSettings | None = None
        self._used: Any = None

    def settings(self) -> OssSettings:
        """Return the settings of the connection. Raises ``PaiConfigurationError`` with what to correct."""
        if self._settings is None:
            self._settings = self._read()
        return self._settings

    def _read(self) -> OssSettings:
        connection = get_connection(self._conn_id)
        return OssSettings.of(connection, connection.extra_dejson, **self._overrides)

    def get_credentials(self) -> Any:
        """Return a credential that is valid now, as oss2 takes it."""
        self._used = found = self.settings().credentials.get()
        return oss2.credentials.Credentials(
            found.access_key_id, found.access_key_secret, found.security_token or ""
        )

    def redact(self, text: bytes) -> bytes:
        """Return a text of OSS without the secrets of the credential that was used last."""
        return bytes(self._used.redact(text)) if self._used is not None else text

    def renew(self) -> bool:
        """Look for another credential after OSS refused the last one; tell whether there is one."""
        with self._lock:
            refused = self._used
            try:
                settings = self._read()  # another program may have put a new key there
                source = settings.credentials
                if source == self.settings().credentials and isinstance(source, RenewableSource):
                    source.replace(refused)
                self._settings = settings
                return bool(source.get() != refused)
            except Exception as error:  # the refusal is raised, which says more
                log.warning("No other credential could be obtained (%s).", type(error).__name__)
                return False


class OssFileSystem(OSSFileSystem):  # type: ignore[misc]
    """OSS with the credentials of a connection. Its repr and its pickle hold the connection's id alone."""

    whole_or_not_at_all = True
    """What is written replaces what was there once all of it is there: a failure leaves nothing to remove."""
    cachable = False  # fsspec would share one among those whose arguments are equal

    def __init__(
        self,
        conn_id: str = "pai_default",
        *,
        endpoint: str | None = None,
        region: str | None = None,
        default_block_size: int | None = None,
        default_cache_type: str = "readahead",
    ) -> None:
        super().__init__(
            endpoint="https://the-connection-names-it",  # without one it would warn
            default_block_size=default_block_size,
            default_cache_type=default_cache_type,
        )
        self._access = Access(conn_id, endpoint=endpoint, region=region)
        self._process = os.getpid()

    def ask(self, action: str, bucket: str, do: Callable[[Any], Any], attempts: int = flow.ATTEMPTS) -> Any:
        """Return what ``do`` gets from a bucket, or from the service where the bucket's name is empty.

        Tried again after a transient fault, and once more where a refused credential can be renewed.
        """
        attempt, renewed = 1, False
        while True:
            try:
                return do(self._service(bucket))
            except (oss2.exceptions.OssError, requests.RequestException, ParseError) as error:
                failure = describe(action, error, self._access.redact)
            except PaiError as error:
                failure = error
            # Raised out here, it does not carry the library's error, whose text may hold a token.
            if not renewed and _may_be_renewed(failure) and self._access.renew():
                renewed = True
            elif failure.transient and attempt < attempts:
                time.sleep(random.uniform(0, flow.BACKOFF_SECONDS * 2**attempt))
                attempt += 1
            else:
                raise failure

    def _service(self, bucket: str) -> Any:
        if self._process != os.getpid():  # forked: the connections belong to the parent
            self._session, self._process = oss2.Session(), os.getpid()
        settings = self._access.settings()
        kind = oss2.ProviderAuthV4 if settings.region else oss2.ProviderAuth
        common = {"session": self._session, "app_name": "airflow-provider-pai", "region": settings.region}
        if not bucket:
            return oss2.Service(kind(self._access), settings.endpoint, **common)
        try:
            # No CRC: without a C compiler it is computed in Python, at a few MB/s. What is sent has its MD5.
            return oss2.Bucket(kind(self._access), settings.endpoint, bucket, enable_crc=False, **common)
        except oss2.exceptions.ClientError as error:
            raise PaiUsageError(f"oss://{bucket} cannot be used: {error.body}") from None

    def _call_oss(
        self,
        method_name: str,
        *args: Any,
        bucket: str = "",
        timeout: Any = None,
        retry: int = 0,
        **kwargs: Any,
    ) -> Any:
        def do(service: Any) -> Any:
            return getattr(service, method_name)(*args, **kwargs)

        return self.ask(f"OSS {method_name} in {bucket or 'all buckets'}", bucket, do)

    # --- what is there ------------------------------------------------------------------------------------

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Describe an object or a folder. A folder exists if the name of an object begins with it."""
        name = self._strip_protocol(path).strip("/")
        bucket, key = self.split_path(name)
        if not bucket:
            return {"name": "", "size": 0, "type": "directory"}
        action = f"OSS HeadObject oss://{name}"
        if key:
            try:
                found = self.ask(action, bucket, lambda oss: oss.head_object(key))
            except OssNotFoundError as error:
                missing = error
            else:
                return {
                    **{"name": name, "Key": name, "type": "file"},
                    **{"size": found.content_length, "Size": found.content_length},
                    **{"LastModified": found.last_modified, "ETag": found.etag},
                }
        below = self.ask(
            f"OSS ListObjects oss://{name}/",
            bucket,
            lambda oss: oss.list_objects_v2(prefix=f"{key}/" if key else "", max_keys=1),
        )
        if key and not below.object_list:
            raise missing
        return {"name": name, "Key": name, "size": 0, "Size": 0, "type": "directory"}

    def _type(self, path: str) -> str:
        """Return file, directory or nothing. A refusal is raised, since it says nothing about the path."""
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return ""

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Tell whether an object or a folder is there."""
        return bool(self._type(path))

    def isfile(self, path: str) -> bool:
        """Tell whether an object is there."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Tell whether there is an object in a folder, or a bucket."""
        return self._type(path) == "directory"

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List what is directly in a folder or bucket, all buckets, or the object of a path."""
        name = self._strip_protocol(path).strip("/")
        bucket, key = self.split_path(name)
        if not bucket:
            buckets = self.ask("OSS ListBuckets", "", lambda oss: list(oss2.BucketIterator(oss)))
            found = [{"name": each.name, "size": 0, "type": "directory"} for each in buckets]
        else:
            found = self._below(bucket, f"{key}/" if key else "")
        if not found and key:
            found = [self.info(name)]
        return found if detail else [each["name"] for each in found]

    def _below(self, bucket: str, prefix: str) -> list[dict[str, Any]]:
        def everything(oss: Any) -> list[Any]:
            return list(oss2.ObjectIteratorV2(oss, prefix=prefix, delimiter="/", max_keys=1000))

        found = []
        for each in self.ask(f"OSS ListObjects oss://{bucket}/{prefix}", bucket, everything):
            if each.key == prefix:  # a console's mark that the folder is there
                continue
            name = f"{bucket}/{each.key}".rstrip("/")
            kind, size = ("directory", 0) if each.is_prefix() else ("file", each.size)
            entry = {"name": name, "Key": name, "type": kind, "size": size, "Size": size}
            if kind == "file":
                entry |= {"LastModified": each.last_modified, "ETag": each.etag}
            found.append(entry)
        return found

    def ukey(self, path: str) -> str:
        """Return what changes with an object's content."""
        return str(self.info(path)["ETag"])

    # --- reading and writing ------------------------------------------------------------------------------

    find = AbstractFileSystem.find
    cat_file = AbstractFileSystem.cat_file
    get_file = AbstractFileSystem.get_file
    pipe_file = AbstractFileSystem.pipe_file
    put_file = AbstractFileSystem.put_file

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Open an object; see ``fsspec``. Text and compressed objects too are written whole or not at all."""
        if "r" in mode or ("b" in mode and not kwargs.get("compression")):
            return super().open(path, mode, **kwargs)
        layers: dict[str, Any] = {
            name: kwargs.pop(name) for name in ("encoding", "errors", "newline") if name in kwargs
        }
        compression = kwargs.pop("compression", None)
        file = super().open(path, mode.replace("t", "").replace("b", "") + "b", **kwargs)
        return Layered(file, path, compression, None if "b" in mode else layers)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: Any = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **kwargs: Any,
    ) -> OssFile:
        if mode not in ("rb", "wb"):
            raise PaiUsageError(f"oss:// has no mode {mode!r}: an object is read, or written as a whole.")
        if not block_size or block_size == "default":
            block_size = self._default_block_size if mode == "rb" else PART
        kwargs.setdefault("cache_type", self._default_cache_type)
        return OssFile(self, path, mode, block_size, autocommit, cache_options=cache_options, **kwargs)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy an object: by OSS itself up to 1 GiB, else by reading and writing it."""
        found = self.info(path1)
        if found["type"] == "directory":
            return
        (source, key), (bucket, new) = self.split_path(path1), self.split_path(path2)
        if found["size"] <= COPY_LIMIT:
            action = f"OSS CopyObject oss://{source}/{key} to oss://{bucket}/{new}"
            self.ask(action, bucket, lambda oss: oss.copy_object(source, key, new))
            return
        with self.open(path1, "rb") as reading, self.open(path2, "wb") as writing:
            shutil.copyfileobj(reading, writing, PART)


def _may_be_renewed(failure: PaiError) -> bool:
    # An answer to HEAD has no body, and may come without a code.
    without_code = isinstance(failure, OssPermissionError) and not failure.code
    return without_code or (
        isinstance(failure, OssAuthenticationError) and failure.code != "RequestTimeTooSkewed"
    )
