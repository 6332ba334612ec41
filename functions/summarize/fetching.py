"""Reading hundreds of small objects within a second of one vCPU."""

from __future__ import annotations

from typing import Any

import urllib3
from botocore.httpsession import get_cert_path
from urllib3.exceptions import HTTPError

from .contract.s3 import read

_SECONDS = 10.0  # for one object; boto3 then tries again
_VALID_SECONDS = 60  # of an address, which is used at once


class Fetcher:
    """Reads objects by addresses that boto3 signs, without boto3: a quarter of the 2 ms of CPU for each.

    s3: boto3's client, with signature_version s3v4. What cannot be read so is read by boto3, with its
    repetitions and errors.
    """

    def __init__(self, s3: Any, connections: int) -> None:
        self._s3, self._works = s3, True
        self._pool = urllib3.PoolManager(
            maxsize=connections, retries=False, timeout=_SECONDS, ca_certs=get_cert_path(True)
        )

    def __call__(self, bucket: str, key: str, size: int) -> bytes:
        """The object; a listing has given its size. Raises botocore's ClientError, or one of BROKEN."""
        if self._works:
            place = {"Bucket": bucket, "Key": key}
            address = self._s3.generate_presigned_url("get_object", Params=place, ExpiresIn=_VALID_SECONDS)
            try:
                answer = self._pool.request("GET", address)
                if answer.status == 200 and len(answer.data) == size:  # else it was cut off, or replaced
                    return answer.data
            except HTTPError:
                self._works = False  # nothing is lost but time
        return read(self._s3, bucket, key)[0]
