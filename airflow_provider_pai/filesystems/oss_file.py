"""An object that is being read, or written: whole, or not at all.

A small object is one request, a larger one a multipart upload, which is aborted when writing fails. What was
there before stays until all of the new object is there.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from collections.abc import Callable
from typing import Any

import oss2
from fsspec.spec import AbstractBufferedFile

from airflow_provider_pai.api.errors import PaiUsageError

__all__ = ["PART", "Layered", "OssFile"]

log = logging.getLogger(__name__)

PART = 8 * 2**20
"""The size of a part. It doubles every 1,000 parts, of which OSS takes 10,000."""
SMALLEST_PART = 2**20


class OssFile(AbstractBufferedFile):  # type: ignore[misc]
    """An object that is read in ranges of one version, or written. It exists only once it is complete.

    As a context manager it throws away what was written if the block raises.
    """

    def __init__(self, fs: Any, path: str, mode: str, block_size: int, *args: Any, **kwargs: Any):
        if mode == "wb":
            block_size = max(block_size, SMALLEST_PART)
        self._bucket, self._key = fs.split_path(path)
        if not self._key:
            raise PaiUsageError(f"{path!r} names a bucket, not an object in it.")
        self._name = f"oss://{self._bucket}/{self._key}"
        self._upload_id: str | None = None
        self._parts: list[Any] = []
        self._discarded = False
        super().__init__(fs, path, mode, block_size, *args, **kwargs)

    def _ask(self, verb: str, do: Callable[[Any], Any]) -> Any:
        return self.fs.ask(f"OSS {verb} {self._name}", self._bucket, do)

    def _fetch_range(self, start: int, end: int) -> bytes:
        # Of the version that was opened: another one may have replaced it.
        headers = {"x-oss-range-behavior": "standard", "If-Match": f'"{self.details["ETag"]}"'}
        if start >= end:
            return b""

        def read(oss: Any) -> bytes:
            return bytes(oss.get_object(self._key, byte_range=(start, end - 1), headers=headers).read())

        return bytes(self._ask("GetObject", read))

    def write(self, data: Any) -> int:
        """Write. After :meth:`discard` ignore the data: a compression still writes when it is closed."""
        data = memoryview(data).cast("B")
        if not self._discarded:
            for start in range(0, len(data), self.blocksize):
                super().write(data[start : start + self.blocksize])
        return len(data)

    def flush(self, force: bool = False) -> None:
        """Send what fills a part; ``force`` sends the rest."""
        if not self._discarded:
            super().flush(force)

    def _upload_chunk(self, final: bool = False) -> bool:
        data = self.buffer.getvalue()
        digest = hashlib.md5(data, usedforsecurity=False).digest()
        headers = {"Content-MD5": base64.b64encode(digest).decode()}
        try:
            if final and self.autocommit and not self._parts:
                self._ask("PutObject", lambda oss: oss.put_object(self._key, data, headers=headers))
                return True
            if self._upload_id is None:
                began = self._ask("InitiateMultipartUpload", lambda oss: oss.init_multipart_upload(self._key))
                self._upload_id = began.upload_id
            if data or not self._parts:
                number = len(self._parts) + 1
                sent = self._ask(
                    "UploadPart",
                    lambda oss: oss.upload_part(self._key, self._upload_id, number, data, headers=headers),
                )
                self._parts.append(oss2.models.PartInfo(number, sent.etag, size=len(data)))
                if number % 1000 == 0:
                    self.blocksize *= 2
            if final and self.autocommit:
                self.commit()
        except BaseException:
            self.discard()
            raise
        return True

    def commit(self) -> None:
        """Let the parts become the object."""
        self._ask(
            "CompleteMultipartUpload",
            lambda oss: oss.complete_multipart_upload(self._key, self._upload_id, self._parts),
        )
        self._upload_id = None

    def discard(self) -> None:
        """Throw away what was written; what was there before stays. It raises nothing."""
        self.closed = self._discarded = True
        upload_id, self._upload_id = self._upload_id, None
        if upload_id is None:
            return
        try:
            self._ask("AbortMultipartUpload", lambda oss: oss.abort_multipart_upload(self._key, upload_id))
        except Exception as error:  # it must not hide why this is thrown away
            log.warning(
                "The parts of a multipart upload to %s are left, and cost storage until they are deleted "
                "(%s). A lifecycle rule of the bucket can do that.",
                self._name,
                error,
            )

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None and self.mode == "wb":
            self.discard()
        self.close()


class Layered:
    """A compression, an encoding, or both, over a file: closed with it, and thrown away with it.

    fsspec returns the upper layer alone, which commits the file below whatever happens, or never closes it.
    """

    def __init__(
        self, file: OssFile, path: str, compression: str | None, text: dict[str, Any] | None
    ) -> None:
        self._file = file
        self._upper: Any = file
        if compression:
            from fsspec.compression import compr
            from fsspec.core import get_compression

            found = get_compression(path, compression)
            self._upper = compr[found](file, mode="w") if found else file
        if text is not None:
            self._upper = io.TextIOWrapper(self._upper, **text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._upper, name)

    def __iter__(self) -> Any:
        return iter(self._upper)

    def __enter__(self) -> Layered:
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            self._file.discard()
        self.close()

    def close(self) -> None:
        """Finish the upper layer, then the file."""
        self._upper.close()
        self._file.close()
