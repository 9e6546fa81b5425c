"""An S3-compatible store: path-style objects of one bucket, conditional writes, ranges, lists in pages, faults.

::

    with S3StandIn() as s3:
        s3.objects["prefix/images/<id>.png"]      # the bytes that lie there
        s3.fail(Fault.CUT, Fault.STATUS_503)      # of the next requests, one each
        s3.always = Fault.STATUS_500              # of all that follow
        s3.calls                                  # ("PUT", "prefix/images/<id>.png"), ...
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web

from tests.standins.server import StandIn

__all__ = ["BUCKET", "Fault", "S3StandIn"]

BUCKET = "artefacts"
KEY_ID, SECRET = "AKIDSTANDIN0", "standin/secret+0123456789"
_SIGNED = re.compile(r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/[\w-]+/s3/aws4_request, ")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Fault(StrEnum):
    NONE = "none"
    STATUS_500 = "status_500"
    STATUS_503 = "status_503"
    STATUS_403 = "status_403"
    CUT = "cut"  # the connection breaks in the middle of the body, or before an answer without one
    CUT_LATE = "cut_late"  # the work is done, and then the connection breaks
    WRONG_BODY = "wrong_body"  # as long as the right one


_REFUSALS = {
    Fault.STATUS_500: (500, "InternalError"),
    Fault.STATUS_503: (503, "SlowDown"),
    Fault.STATUS_403: (403, "AccessDenied"),
}


class S3StandIn(StandIn):
    """Attributes:
    objects: the bytes by their keys.
    modified: when each was last written, where a test says so; else now.
    page_size: how many keys a list tells at once.
    calls: method and key of every request that came.
    environment: variables with which a client finds it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, bytes] = {}
        self.modified: dict[str, datetime] = {}
        self.page_size = 1000
        self.always = Fault.NONE
        self.calls: list[tuple[str, str]] = []
        self._faults: deque[Fault] = deque()
        self.app.router.add_route("*", f"/{BUCKET}", self._bucket)
        self.app.router.add_route("*", f"/{BUCKET}/{{key:.*}}", self._object)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "eu-north-1",
        }

    def fail(self, *faults: Fault) -> None:
        """The next requests fail so, one each."""
        self._faults.extend(faults)

    def count(self, method: str) -> int:
        return sum(1 for called, _ in self.calls if called == method)

    async def _bucket(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.calls.append((request.method, ""))
        fault = self._faults.popleft() if self._faults else self.always
        if (refused := _refused(request, body, fault)) is not None:
            return refused
        if fault is Fault.CUT:
            return _broken_off(request)
        answer = _error(405, "MethodNotAllowed")
        if request.method == "POST" and "delete" in request.query:
            answer = self._delete_all(body)
        elif request.method == "GET" and request.query.get("list-type") == "2":
            answer = self._list(request)
        return _broken_off(request) if fault is Fault.CUT_LATE else answer

    async def _object(self, request: web.Request) -> web.StreamResponse:
        key, body = request.match_info["key"], await request.read()
        if not key:
            return await self._bucket(request)
        self.calls.append((request.method, key))
        fault = self._faults.popleft() if self._faults else self.always
        if (refused := _refused(request, body, fault)) is not None:
            return refused
        if fault is Fault.CUT and request.method != "GET":
            return _broken_off(request)
        if request.method == "PUT":
            answer = self._put(request, key, body)
        elif request.method == "DELETE":
            self.objects.pop(key, None)
            answer = web.Response(status=204)
        elif key not in self.objects:
            answer = _error(404, "NoSuchKey")
        else:
            return await self._get(request, key, fault)
        return _broken_off(request) if fault is Fault.CUT_LATE else answer

    def _put(self, request: web.Request, key: str, body: bytes) -> web.Response:
        if request.headers.get("If-None-Match") == "*" and key in self.objects:
            return _error(412, "PreconditionFailed")
        self.objects[key] = body
        self.modified.pop(key, None)
        return web.Response(headers={"ETag": _tag(body)})

    async def _get(self, request: web.Request, key: str, fault: Fault) -> web.StreamResponse:
        content = self.objects[key]
        headers = {"ETag": _tag(content), "Last-Modified": format_datetime(self._modified(key), usegmt=True)}
        if fault is Fault.WRONG_BODY:
            content = bytes(byte ^ 1 for byte in content)
        status, part = 200, content
        if found := _RANGE.fullmatch(request.headers.get("Range", "")):
            first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            status, part = 206, content[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = len(part)
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(part[: len(part) // 2] if fault is Fault.CUT else part)
        if fault is Fault.CUT:
            return _broken_off(request, response)
        await response.write_eof()
        return response

    def _list(self, request: web.Request) -> web.Response:
        prefix, after = request.query.get("prefix", ""), request.query.get("continuation-token", "")
        keys = [key for key in sorted(self.objects) if key.startswith(prefix) and key > after]
        told, more = keys[: self.page_size], len(keys) > self.page_size
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_stamp(self._modified(key))}</LastModified>"
            f"<ETag>{escape(_tag(self.objects[key]))}</ETag><Size>{len(self.objects[key])}</Size></Contents>"
            for key in told
        )
        token = f"<NextContinuationToken>{escape(told[-1])}</NextContinuationToken>" if more else ""
        head = f"<Name>{BUCKET}</Name><KeyCount>{len(told)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        return _xml(f"<ListBucketResult>{head}{token}{rows}</ListBucketResult>")

    def _delete_all(self, body: bytes) -> web.Response:
        keys = [found.text or "" for found in ElementTree.fromstring(body).iter() if found.tag.endswith("Key")]
        for key in keys:
            self.objects.pop(key, None)
        rows = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return _xml(f"<DeleteResult>{rows}</DeleteResult>")

    def _modified(self, key: str) -> datetime:
        return self.modified.get(key, datetime.now(UTC))


def _refused(request: web.Request, body: bytes, fault: Fault) -> web.Response | None:
    """What S3 says to a stranger and to a body that arrived damaged, and faults that are only a status."""
    signed = _SIGNED.match(request.headers.get("Authorization", ""))
    if signed is None or signed[1] != KEY_ID:
        return _error(403, "InvalidAccessKeyId")
    if request.headers["x-amz-content-sha256"] not in ("UNSIGNED-PAYLOAD", hashlib.sha256(body).hexdigest()):
        return _error(400, "XAmzContentSHA256Mismatch")
    return _error(*_REFUSALS[fault]) if fault in _REFUSALS else None


def _broken_off(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response()


def _error(status: int, code: str) -> web.Response:
    """Real ones tell the caller's key id in it."""
    return _xml(f"<Error><Code>{code}</Code><AWSAccessKeyId>{KEY_ID}</AWSAccessKeyId></Error>", status)


def _xml(body: str, status: int = 200) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>{body}'
    return web.Response(text=text, status=status, content_type="application/xml")


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _stamp(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.000Z"
