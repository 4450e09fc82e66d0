"""A local OSS that verifies signatures: what oss2 sends must be signed as the vendor's pages say.

It shares no code with the provider. Versions 1 and 4 of the header signature, path-style addresses (oss2 uses
them for an IP address), objects, ranges, listings, deletion, copies, multipart uploads, security tokens.

Sources: help.aliyun.com/en/oss/developer-reference, its pages include-signatures-in-the-authorization-header
(version 1), recommend-to-use-signature-version-4, and those of the operations.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import itertools
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import formatdate, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

SUBRESOURCES = {
    *("acl", "uploads", "location", "cors", "logging", "website", "referer", "lifecycle", "delete", "append"),
    *("tagging", "objectMeta", "uploadId", "partNumber", "security-token", "position", "img", "style"),
    *(
        "styleName",
        "replication",
        "replicationProgress",
        "replicationLocation",
        "cname",
        "bucketInfo",
        "comp",
    ),
    *("qos", "live", "status", "vod", "startTime", "endTime", "symlink", "x-oss-process", "versionId"),
    *("response-content-type", "response-content-language", "response-expires", "response-cache-control"),
    *("response-content-disposition", "response-content-encoding", "continuation-token"),
}
"""The parameters that version 1 signs."""


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str = "no", more: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.message, self.more = status, code, message, more


@dataclass
class Stored:
    content: bytes
    etag: str
    modified: float = field(default_factory=lambda: datetime.now(timezone.utc).timestamp())


@dataclass
class Asked:
    """One request, as a handler reads it."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: Any
    body: bytes
    operation: str = ""
    access_key_id: str = ""
    version: str = ""


class OssStandIn:
    """Buckets in memory. ``fault`` is asked before each request that is signed well, and may raise."""

    def __init__(self, *buckets: str, region: str = "cn-hangzhou") -> None:
        self.region = region
        self.keys: dict[str, tuple[str, str | None, float]] = {}
        """By AccessKey id: its secret, the security token that must come along, and when they expire."""
        self.buckets: dict[str, dict[str, Stored]] = {bucket: {} for bucket in buckets}
        self.uploads: dict[str, tuple[str, str, dict[int, bytes]]] = {}
        self.requests: list[Asked] = []
        self.fault: Callable[[Asked], None] = lambda asked: None
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self.endpoint = ""

    def objects(self, bucket: str) -> dict[str, bytes]:
        return {key: stored.content for key, stored in self.buckets[bucket].items()}

    def accept(
        self,
        access_key_id: str,
        access_key_secret: str,
        security_token: str | None = None,
        expires_at: float | None = None,
    ) -> None:
        self.keys[access_key_id] = access_key_secret, security_token, expires_at or float("inf")

    @property
    def operations(self) -> list[str]:
        return [asked.operation for asked in self.requests]

    # --- who asks -----------------------------------------------------------------------------------------

    def authenticate(self, asked: Asked) -> None:
        header = asked.headers.get("authorization", "")
        version_1 = re.fullmatch(r"OSS ([^:]+):(.+)", header)
        version_4 = re.fullmatch(
            r"OSS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/oss/aliyun_v4_request, ?"
            r"Signature=([0-9a-f]{64})(?:, ?AdditionalHeaders=(.*))?",
            header,
        )
        found = version_1 or version_4
        if found is None:
            raise Refusal(403, "AccessDenied", "Anonymous access is forbidden for this operation.")
        asked.access_key_id = found[1]
        if found[1] not in self.keys:
            raise Refusal(403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist.")
        secret, token, expires_at = self.keys[found[1]]
        given = asked.headers.get("x-oss-security-token")
        if given != token:
            raise Refusal(403, "InvalidAccessKeyId", f"The security token {given} is not the key's.")
        if time.time() > expires_at:
            raise Refusal(403, "SecurityTokenExpired", f"The security token {given} has expired.")
        moment = asked.headers.get("x-oss-date")
        if version_4:
            asked.version = "4"
            if version_4[3] != self.region:
                raise Refusal(400, "InvalidArgument", "Invalid signing region in Authorization header.")
            text, wanted = self._version_4(asked, secret, moment, *version_4.group(2, 3, 5))
            signature = version_4[4]
            at = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        else:
            asked.version = "1"
            text, wanted = self._version_1(asked, secret, moment)
            signature = version_1[2] if version_1 else ""
            at = parsedate_to_datetime(moment or asked.headers["date"])
        if abs((datetime.now(timezone.utc) - at).total_seconds()) > 900:
            raise Refusal(403, "RequestTimeTooSkewed")
        if not hmac.compare_digest(signature, wanted):
            more = f"<StringToSign>{escape(text)}</StringToSign>"
            raise Refusal(403, "SignatureDoesNotMatch", "The request signature does not match.", more)

    def _version_1(self, asked: Asked, secret: str, moment: str | None) -> tuple[str, str]:
        headers = asked.headers
        own = sorted((name.lower(), value) for name, value in headers.items() if is_own(name))
        signed = sorted((name, value) for name, value in asked.query.items() if name in SUBRESOURCES)
        query = "&".join(f"{name}={value}" if value else name for name, value in signed)
        resource = f"/{asked.bucket}/{asked.key}" if asked.bucket else "/"
        text = "\n".join(
            [
                asked.method,
                headers.get("content-md5", ""),
                headers.get("content-type", ""),
                moment or headers["date"],
                "".join(f"{name}:{value}\n" for name, value in own) + resource + (query and f"?{query}"),
            ]
        )
        digest = hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()
        return text, base64.b64encode(digest).decode()

    def _version_4(
        self, asked: Asked, secret: str, moment: str, day: str, region: str, additional: str | None
    ) -> tuple[str, str]:
        others = (additional or "").split(";")
        signed = sorted(
            (name.lower(), value.strip())
            for name, value in asked.headers.items()
            if is_own(name) or name.lower() in ("content-type", "content-md5", *others)
        )
        uri = quote(f"/{asked.bucket}/{asked.key}" if asked.bucket else "/", safe="/-_.~")
        query = sorted(
            (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in asked.query.items()
        )
        request = "\n".join(
            [
                asked.method,
                uri,
                "&".join(f"{name}={value}" if value else name for name, value in query),
                "".join(f"{name}:{value}\n" for name, value in signed),
                additional or "",
                asked.headers["x-oss-content-sha256"],
            ]
        )
        scope = f"{day}/{region}/oss/aliyun_v4_request"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        text = f"OSS4-HMAC-SHA256\n{moment}\n{scope}\n{hashed}"
        key = f"aliyun_v4{secret}".encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return f"{request}\n{text}", hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    # --- what it does -------------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> tuple[int, dict[str, str], bytes]:
        asked.operation = operation_of(asked)
        with self._lock:
            self.requests.append(asked)
            self.authenticate(asked)
            self.fault(asked)
            md5 = asked.headers.get("content-md5")
            if md5 and base64.b64encode(hashlib.md5(asked.body).digest()).decode() != md5:
                raise Refusal(400, "InvalidDigest")
            if asked.bucket and asked.bucket not in self.buckets:
                raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.")
            return getattr(self, f"_{asked.operation}")(asked)  # type: ignore[no-any-return]

    def _stored(self, bucket: str, key: str) -> Stored:
        if key not in self.buckets.get(bucket, {}):
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.")
        return self.buckets[bucket][key]

    def _store(self, bucket: str, key: str, content: bytes) -> dict[str, str]:
        etag = hashlib.md5(content).hexdigest().upper()
        self.buckets[bucket][key] = Stored(content, etag)
        return {"ETag": f'"{etag}"'}

    def _ListBuckets(self, asked: Asked) -> Any:
        rows = "".join(
            f"<Bucket><Name>{name}</Name><CreationDate>2025-01-01T00:00:00.000Z</CreationDate>"
            f"<Location>oss-{self.region}</Location><StorageClass>Standard</StorageClass>"
            "<ExtranetEndpoint>127.0.0.1</ExtranetEndpoint><IntranetEndpoint>127.0.0.1</IntranetEndpoint></Bucket>"
            for name in sorted(self.buckets)
        )
        return (
            200,
            {},
            xml("ListAllMyBucketsResult", f"<IsTruncated>false</IsTruncated><Buckets>{rows}</Buckets>"),
        )

    def _PutObject(self, asked: Asked) -> Any:
        return 200, self._store(asked.bucket, asked.key, asked.body), b""

    def _CopyObject(self, asked: Asked) -> Any:
        bucket, _, key = unquote(asked.headers["x-oss-copy-source"]).lstrip("/").partition("/")
        headers = self._store(asked.bucket, asked.key, self._stored(bucket, key).content)
        text = f"<ETag>{headers['ETag']}</ETag><LastModified>2025-01-01T00:00:00.000Z</LastModified>"
        return 200, headers, xml("CopyObjectResult", text)

    def _HeadObject(self, asked: Asked) -> Any:
        status, headers, content = self._GetObject(asked)
        return status, {**headers, "Content-Length": str(len(content))}, b""

    def _GetObject(self, asked: Asked) -> Any:
        stored = self._stored(asked.bucket, asked.key)
        headers = {
            "ETag": f'"{stored.etag}"',
            "Last-Modified": formatdate(stored.modified, usegmt=True),
            "x-oss-object-type": "Normal",
        }
        if asked.headers.get("if-match", headers["ETag"]) != headers["ETag"]:
            raise Refusal(412, "PreconditionFailed", "At least one of the preconditions did not hold.")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", ""))
        if not wanted:
            return 200, headers, stored.content
        first, last = int(wanted[1]), int(wanted[2])
        if first >= len(stored.content) or last >= len(stored.content):
            raise Refusal(416, "InvalidRange")
        headers["Content-Range"] = f"bytes {first}-{last}/{len(stored.content)}"
        return 206, headers, stored.content[first : last + 1]

    def _DeleteObject(self, asked: Asked) -> Any:
        self.buckets[asked.bucket].pop(asked.key, None)
        return 204, {}, b""

    def _DeleteObjects(self, asked: Asked) -> Any:
        names = [each.findtext("Key") or "" for each in ElementTree.fromstring(asked.body).iter("Object")]
        if "" in names:
            raise Refusal(400, "MalformedXML")
        for name in names:
            self.buckets[asked.bucket].pop(name, None)
        rows = "".join(f"<Deleted><Key>{quote(name)}</Key></Deleted>" for name in names)
        return 200, {}, xml("DeleteResult", f"<EncodingType>url</EncodingType>{rows}")

    def _ListObjects(self, asked: Asked) -> Any:
        assert asked.query["list-type"] == "2", "the older listing is not asked for"
        prefix, delimiter = asked.query.get("prefix", ""), asked.query.get("delimiter", "")
        after, most = asked.query.get("continuation-token", ""), int(asked.query.get("max-keys", "100"))
        rows: dict[str, str] = {}
        for key, stored in sorted(self.buckets[asked.bucket].items()):
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folder = prefix + head + delimiter
                rows[folder] = f"<CommonPrefixes><Prefix>{quote(folder)}</Prefix></CommonPrefixes>"
            else:
                at = datetime.fromtimestamp(stored.modified, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                rows[key] = (
                    f"<Contents><Key>{quote(key)}</Key><LastModified>{at}</LastModified><ETag>&quot;"
                    f"{stored.etag}&quot;</ETag><Type>Normal</Type><Size>{len(stored.content)}</Size>"
                    "<StorageClass>Standard</StorageClass></Contents>"
                )
        names = [name for name in sorted(rows) if name > after]
        page, more = names[:most], len(names) > most
        token = f"<NextContinuationToken>{quote(page[-1])}</NextContinuationToken>" if more else ""
        text = "".join(rows[name] for name in page)
        kind = f"<EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
        return 200, {}, xml("ListBucketResult", f"<Name>{asked.bucket}</Name>{kind}{token}{text}")

    def _InitiateMultipartUpload(self, asked: Asked) -> Any:
        upload_id = uuid.uuid4().hex
        self.uploads[upload_id] = (asked.bucket, asked.key, {})
        return 200, {}, xml("InitiateMultipartUploadResult", f"<UploadId>{upload_id}</UploadId>")

    def _parts(self, asked: Asked) -> dict[int, bytes]:
        bucket, key, parts = self.uploads.get(asked.query["uploadId"], ("", "", {}))
        if (bucket, key) != (asked.bucket, asked.key):
            raise Refusal(404, "NoSuchUpload", "The specified upload does not exist.")
        return parts

    def _UploadPart(self, asked: Asked) -> Any:
        self._parts(asked)[int(asked.query["partNumber"])] = asked.body
        return 200, {"ETag": f'"{hashlib.md5(asked.body).hexdigest().upper()}"'}, b""

    def _CompleteMultipartUpload(self, asked: Asked) -> Any:
        parts = self._parts(asked)
        wanted = [int(each.findtext("PartNumber") or 0) for each in ElementTree.fromstring(asked.body)]
        if wanted != sorted(parts):
            raise Refusal(400, "InvalidPart")
        if any(len(parts[number]) < 100 * 1024 for number in wanted[:-1]):
            raise Refusal(400, "EntityTooSmall")
        del self.uploads[asked.query["uploadId"]]
        headers = self._store(asked.bucket, asked.key, b"".join(parts[number] for number in wanted))
        return 200, headers, xml("CompleteMultipartUploadResult", f"<ETag>{headers['ETag']}</ETag>")

    def _AbortMultipartUpload(self, asked: Asked) -> Any:
        self._parts(asked)
        del self.uploads[asked.query["uploadId"]]
        return 204, {}, b""


def is_own(name: str) -> bool:
    return name.lower().startswith("x-oss-")


def xml(name: str, content: str) -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'.encode()


def operation_of(asked: Asked) -> str:
    method, query = asked.method, asked.query
    if not asked.key:
        in_bucket = {"GET": "ListObjects", "POST": "DeleteObjects"}
        return in_bucket[method] if asked.bucket else "ListBuckets"
    if method == "POST":
        return "InitiateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
    if "uploadId" in query:
        return "UploadPart" if method == "PUT" else "AbortMultipartUpload"
    if method == "PUT" and asked.headers.get("x-oss-copy-source"):
        return "CopyObject"
    return {"GET": "GetObject", "HEAD": "HeadObject", "PUT": "PutObject", "DELETE": "DeleteObject"}[method]


@contextlib.contextmanager
def oss_stand_in(*buckets: str, region: str = "cn-hangzhou") -> Iterator[OssStandIn]:
    """Serve a stand-in on a free port of this machine."""
    store = OssStandIn(*buckets, region=region)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            query = dict(parse_qsl(parts.query, keep_blank_values=True))
            asked = Asked(self.command, bucket, key, query, self.headers, body)
            try:
                status, headers, content = store.answer(asked)
            except ConnectionAbortedError:
                self.close_connection = True
                return
            except Refusal as refusal:
                status = refusal.status
                content = xml(
                    "Error",
                    f"<Code>{refusal.code}</Code><Message>{escape(refusal.message)}</Message>"
                    f"<RequestId>{uuid.uuid4().hex}</RequestId>{refusal.more}",
                )
                headers = {"Content-Type": "application/xml"}
                if self.command == "HEAD":
                    headers, content = {"x-oss-err": base64.b64encode(content).decode()}, b""
            self.send_response(status)
            for name, value in {
                "x-oss-request-id": uuid.uuid4().hex,
                "Content-Length": str(len(content)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    store.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
