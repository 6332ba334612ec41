"""An S3 client with the boto3 methods that we need, under the same names and with the same answers."""

from __future__ import annotations

import base64
import random
import re
import ssl
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from .signing import Credentials, path_of, query_of, signed

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_SECONDS = 30.0  # for which a connection may be silent
_ATTEMPTS = 5
_PAUSE, _LONGEST_PAUSE = 0.2, 5.0  # seconds before another attempt: random, at most doubled each time
_MOST_ERROR = 1 << 16  # bytes that are read of an error's body
_PASSING = frozenset({429, 500, 502, 503, 504})
_PASSING_CODES = frozenset({"RequestTimeout", "SlowDown", "Throttling", "InternalError", "ServiceUnavailable"})
"""Errors after which the same request may succeed
(https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html)."""
_REGION = re.compile("[a-z]{2,8}(-[a-z0-9]{1,16}){1,4}")  # it becomes part of a host's name
_DOMAINS = {
    "cn-": "amazonaws.com.cn", "us-iso-": "c2s.ic.gov", "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov", "eu-isoe-": "cloud.adc-e.uk", "eusc-": "amazonaws.eu",
}  # fmt: skip
"""Domains of AWS's partitions, by the beginning of a region's name; all other regions are in amazonaws.com."""
Json = dict[str, Any]


class S3Error(Exception):
    """S3 has refused a request. response: the same as that of botocore's ClientError."""

    def __init__(self, code: str, message: str, method: str, key: str) -> None:
        super().__init__(f"S3 answers {code} to {method} {key}: {message}")
        self.response: Json = {"Error": {"Code": code, "Message": message}}


class NoSuchKey(S3Error):
    """There is no such object."""


class Broken(Exception):
    """A connection broke; the request may be made again."""


class _Exceptions:
    """The exceptions by name, as the attribute `exceptions` of boto3's client has them."""

    ClientError, NoSuchKey = S3Error, NoSuchKey


class Body:
    """An object's bytes as they arrive. Raises Broken if fewer arrive than S3 has announced."""

    def __init__(self, answer: HTTPResponse, connection: HTTPConnection, idle: list[HTTPConnection]) -> None:
        self._answer, self._connection, self._idle = answer, connection, idle

    def read(self, amount: int | None = None) -> bytes:
        """At most this many bytes, or all that are left; none at the end."""
        if self._answer.isclosed():
            return b""
        try:
            piece = self._answer.read() if amount is None else self._answer.read(amount)
        except (OSError, HTTPException) as error:
            self.close()
            raise Broken(_described(error)) from error
        if self._answer.length and amount is not None and len(piece) < amount:  # http.client does not say so
            self.close()
            raise Broken(f"{self._answer.length:,} bytes are missing")
        if self._answer.isclosed() and self._connection.sock is not None:
            self._idle.append(self._connection)
        return piece

    def close(self) -> None:
        """Closes the connection, even if it still holds bytes."""
        self._answer.close()
        self._connection.close()


class S3:
    """One account's S3. Threads may share it.

    endpoint: the URL of an emulator or a VPC endpoint; None for AWS's own. Methods raise S3Error, or Broken
    after several attempts.
    """

    BROKEN = (Broken,)
    exceptions = _Exceptions

    def __init__(self, credentials: Credentials, region: str, endpoint: str | None = None) -> None:
        self._credentials, self._region, self._endpoint = credentials, region, endpoint
        self._tls = None if (endpoint or "").startswith("http:") else _trusting()  # one for all connections
        self._regions: dict[str, str] = {}  # of buckets that are not in ours
        self._idle: dict[str, list[HTTPConnection]] = {}

    def close(self) -> None:
        """Closes the idle connections."""
        for idle in self._idle.values():
            _close_all(idle)

    def get_object(
        self, *, Bucket: str, Key: str, Range: str | None = None, IfMatch: str | None = None
    ) -> Json:
        """Range: such as bytes=0-99. IfMatch: the ETag that the object must have."""
        headers = {
            name: value for name, value in (("Range", Range), ("If-Match", IfMatch)) if value is not None
        }
        answer, body = self._asked("GET", Bucket, Key, headers=headers)
        if answer.length is None:  # S3 always says it
            body.close()
            raise Broken("the answer does not say how long it is")
        return {
            "Body": body,
            "ETag": answer.headers["ETag"],
            "ContentLength": answer.length,
            "ContentRange": answer.headers["Content-Range"],
        }

    def put_object(
        self, *, Bucket: str, Key: str, Body: bytes, ContentType: str = "binary/octet-stream"
    ) -> None:
        """Sends a checksum as well, as boto3 does: S3 verifies and keeps it, and Object Lock demands one."""
        content = bytes(Body)
        checksum = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
        headers = {"Content-Type": ContentType, "x-amz-checksum-crc32": checksum}
        _, body = self._asked("PUT", Bucket, Key, headers=headers, content=content)
        body.read()

    def delete_object(self, *, Bucket: str, Key: str) -> None:
        _, body = self._asked("DELETE", Bucket, Key)
        body.read()

    def list_objects_v2(self, *, Bucket: str, Prefix: str, ContinuationToken: str | None = None) -> Json:
        """A page of at most 1,000 objects, each with Key, ETag, Size and LastModified."""
        query = {"list-type": "2", "encoding-type": "url", "prefix": Prefix}
        if ContinuationToken is not None:
            query["continuation-token"] = ContinuationToken
        _, body = self._asked("GET", Bucket, "", query)
        return _listing(body.read())

    def _asked(
        self,
        method: str,
        bucket: str,
        key: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> tuple[HTTPResponse, Body]:
        """S3's answer; after a transient error the request is made again."""
        once = partial(self._once, method, bucket, key, query or {}, headers or {}, content)
        fault: Exception = Broken("no attempt was made")
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, min(_PAUSE * 2**attempt, _LONGEST_PAUSE)))  # noqa: S311
            try:
                region = self._regions.get(bucket, self._region)
                answer, body = once(region)
                if answer.status >= 300 and (other := _other_region(answer, region)):
                    body.close()
                    self._regions[bucket] = other
                    answer, body = once(other)
                if answer.status < 300:
                    return answer, body
                fault = refusal = _error(answer, body, method, key)
            except (OSError, HTTPException) as error:
                fault = Broken(_described(error))
            except Broken as error:  # while the body of an error was read
                fault = error
            else:
                code = refusal.response["Error"]["Code"]
                if answer.status not in _PASSING and code not in _PASSING_CODES:
                    raise refusal
        raise fault

    def _once(
        self,
        method: str,
        bucket: str,
        key: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        content: bytes,
        region: str,
    ) -> tuple[HTTPResponse, Body]:
        address, path = place(bucket, region, self._endpoint)
        path, text = path + path_of(key), query_of(query)
        whole = {"Host": urlsplit(address).netloc, **headers}
        own = signed(method, path, text, whole, content, self._credentials, region, datetime.now(UTC))
        target = f"{path}?{text}" if text else path
        idle = self._idle.setdefault(address, [])
        while True:
            connection, used = self._connection(address, idle)
            try:
                answer = _answer(connection, method, target, content, own)
                return answer, Body(answer, connection, idle)
            except (OSError, HTTPException) as error:
                connection.close()
                if not used:
                    raise  # S3 may close a used connection while it is idle: then another one is tried
                if isinstance(error, TimeoutError):
                    _close_all(idle)  # each of them might take as long

    def _connection(self, address: str, idle: list[HTTPConnection]) -> tuple[HTTPConnection, bool]:
        """A connection, and whether it was used before."""
        try:
            return idle.pop(), True
        except IndexError:
            host = urlsplit(address).netloc
            if self._tls is None:
                return HTTPConnection(host, timeout=_SECONDS), False
            try:
                return HTTPSConnection(host, timeout=_SECONDS, context=self._tls.result()), False
            except OSError:  # no file could be opened just then, for example: they are read again
                self._tls = _trusting()
                raise


def place(bucket: str, region: str, endpoint: str | None = None) -> tuple[str, str]:
    """The address of a bucket, https://HOST, and the beginning of its objects' paths.

    A bucket's name is part of the host's name, unless it has dots, for which AWS has no certificate
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/VirtualHosting.html).
    """
    if endpoint is not None:
        parts = urlsplit(endpoint)
        return f"{parts.scheme}://{parts.netloc}", f"{parts.path.rstrip('/')}/{bucket}/"
    domain = next((one for begin, one in _DOMAINS.items() if region.startswith(begin)), "amazonaws.com")
    if "." in bucket:
        return f"https://s3.{region}.{domain}", f"/{bucket}/"
    return f"https://{bucket}.s3.{region}.{domain}", "/"


def _answer(
    connection: HTTPConnection, method: str, target: str, content: bytes, headers: Mapping[str, str]
) -> HTTPResponse:
    """The answer to a request. S3 may refuse a request, and stop reading it, before all of it has been sent."""
    try:
        connection.request(method, target, content or None, headers)
    except (BrokenPipeError, ConnectionResetError):
        answer = connection.getresponse()
        if answer.status < 300:
            raise
        if connection.sock is not None:  # the answer keeps a reference to it
            connection.sock.close()
            connection.sock = None  # so that no other request follows the unfinished one
        return answer
    return connection.getresponse()


def _other_region(answer: HTTPResponse, region: str) -> str | None:
    """The region of the bucket, if S3's answer names another one than `region`
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingBucket.html)."""
    other = answer.headers["x-amz-bucket-region"] or ""
    return other if _REGION.fullmatch(other) and other != region else None


def _close_all(idle: list[HTTPConnection]) -> None:
    """Closes idle connections. Other threads may take some of them meanwhile."""
    with suppress(IndexError):
        while True:
            idle.pop().close()


def _trusting() -> Future[ssl.SSLContext]:
    """TLS with the certificates that botocore brings along, or else with the system's.

    Reading them takes 20 ms, in which the caller may load a network.
    """
    thread = ThreadPoolExecutor(1, "certificates")
    context = thread.submit(_read_certificates)
    thread.shutdown(wait=False)
    return context


def _read_certificates() -> ssl.SSLContext:
    botocore = find_spec("botocore")
    bundle = Path(botocore.origin or "").with_name("cacert.pem") if botocore is not None else None
    return ssl.create_default_context(cafile=str(bundle) if bundle is not None and bundle.exists() else None)


def _error(answer: HTTPResponse, body: Body, method: str, key: str) -> S3Error:
    """The error in S3's XML, or one made from the status if the answer is not XML. Raises Broken."""
    text = body.read(_MOST_ERROR)
    if not answer.isclosed():
        body.close()
    try:
        root = _xml(text)
        code, message = root.findtext("Code") or "", root.findtext("Message") or ""
    except ValueError:
        code, message = "", ""
    kind = NoSuchKey if code == "NoSuchKey" else S3Error
    return kind(code or str(answer.status), message or answer.reason, method, key)


def _xml(text: bytes) -> Element:
    """The root of S3's XML. Raises ValueError for anything else."""
    from xml.etree import ElementTree  # only listings and errors need it

    try:
        return ElementTree.fromstring(text)  # noqa: S314 - S3 wrote it, and expat limits what it expands
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error


def _listing(text: bytes) -> Json:
    try:
        root = _xml(text)
    except ValueError as error:
        raise Broken(f"a listing is not XML: {error}") from error
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""

    def value(element: Element, name: str) -> str:
        return element.findtext(f"{space}{name}") or ""

    decoded = unquote_plus if value(root, "EncodingType") == "url" else str  # emulators may not encode keys
    contents = [
        {
            "Key": decoded(value(one, "Key")),
            "ETag": value(one, "ETag"),
            "Size": int(value(one, "Size")),
            "LastModified": datetime.fromisoformat(value(one, "LastModified").replace("Z", "+00:00")),
        }
        for one in root.iter(f"{space}Contents")
    ]
    page: Json = {"Contents": contents} if contents else {}
    token = value(root, "NextContinuationToken")
    return {**page, "NextContinuationToken": token} if token else page


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
