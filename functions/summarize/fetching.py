"""Reading hundreds of small objects within a second of one vCPU."""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Self
from urllib.parse import parse_qs, quote, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.httpsession import get_cert_path

from .contract.s3 import read

_SECONDS = 10.0  # for one object; boto3 then tries again
_VALID_SECONDS = 60  # of an address, which is used at once
_MOST_FAULTS = 8  # of connections, after which boto3 reads the rest

_TLS = ssl.create_default_context(cafile=get_cert_path(True))
"""For all connections: botocore and urllib3 read the certificates for each of them, in 20 ms of CPU."""


class Fetcher:
    """Reads objects of one bucket by signed addresses, without boto3, in a fifth of its CPU time.

    s3: boto3's client, with signature_version s3v4; it also reads what cannot be read so, with its repetitions
    and errors. credentials: botocore's, with which the client signs. Threads may share it. A context manager,
    which closes the connections.
    """

    def __init__(self, s3: Any, credentials: Any, bucket: str) -> None:
        self._s3, self._credentials, self._bucket = s3, credentials, bucket
        self._idle: list[HTTPConnection] = []
        self._faults = 0
        # How boto3 addresses the bucket, and for which region it signs, is in an address that it has signed.
        example = {"Bucket": bucket, "Key": "-"}
        address = s3.generate_presigned_url("get_object", Params=example, ExpiresIn=_VALID_SECONDS)
        parts = urlsplit(address)
        self._host, self._path = f"{parts.scheme}://{parts.netloc}", parts.path.removesuffix("-")
        scope = parse_qs(parts.query)["X-Amz-Credential"][0]
        _, _, self._region, self._service, _ = scope.rsplit("/", 4)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()

    def __call__(self, key: str, size: int) -> bytes:
        """The object; a listing has given its size. Raises botocore's ClientError, or one of BROKEN."""
        body = self._fetched(key, size) if self._faults < _MOST_FAULTS else None
        return read(self._s3, self._bucket, key)[0] if body is None else body

    def _fetched(self, key: str, size: int) -> bytes | None:
        """The object; None where S3 does not answer with that many bytes: it may have been replaced."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connection()
        try:
            connection.request("GET", self.address(key).removeprefix(self._host))
            answer = connection.getresponse()
            if answer.status != 200 or answer.length != size:
                connection.close()
                return None
            return answer.read()
        except (OSError, HTTPException):
            connection.close()  # the next request opens it again
            self._faults += 1
            return None
        finally:
            self._idle.append(connection)

    def _connection(self) -> HTTPConnection:
        scheme, _, host = self._host.partition("://")
        if scheme == "https":
            return HTTPSConnection(host, timeout=_SECONDS, context=_TLS)
        return HTTPConnection(host, timeout=_SECONDS)

    def address(self, key: str) -> str:
        """The object's address, signed as boto3 does, but built without its models: in a third of the time."""
        request = AWSRequest("GET", f"{self._host}{self._path}{quote(key, safe='/~')}")
        credentials = self._credentials.get_frozen_credentials()
        S3SigV4QueryAuth(credentials, self._service, self._region, _VALID_SECONDS).add_auth(request)
        return str(request.url)
