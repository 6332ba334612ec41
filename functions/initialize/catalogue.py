"""Whether a run may add to the catalogue that its payload names, before anything is computed."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from .contract.columns import PARTITION
from .contract.growing import LOG, CatalogueError, latest
from .contract.s3 import repeated
from .payload import PayloadError, cut

_LOOKED_AT = 1000  # objects of a folder that is to become a catalogue


def check_catalogue(s3: Any, payload: dict[str, Any]) -> None:
    """Raises PayloadError for a catalogue of another model or other outputs, one within another, and a folder
    that holds something else."""
    catalogue = payload.get("catalogue")
    if catalogue is None:
        return
    bucket, place = payload["bucket"], f"s3://{payload['bucket']}/{catalogue}"
    try:
        for above in list(accumulate(catalogue.split("/"), "{}/{}".format))[:-1]:
            if _first_keys(s3, bucket, f"{above}/{LOG}/", 1):
                raise CatalogueError(
                    f"s3://{bucket}/{above} is a catalogue itself, whose `vacuum` would delete one within it; "
                    "give a folder elsewhere"
                )
        _, form = latest(s3, bucket, catalogue)
        if form is not None:
            form.check_payload(payload, place)
        else:
            _check_new(s3, bucket, catalogue, place)
    except CatalogueError as error:
        raise PayloadError(f"catalogue: {error}") from error


def _check_new(s3: Any, bucket: str, catalogue: str, place: str) -> None:
    """Only arrivals of runs that have not ended, or failed, may be in a folder that is not a table yet."""
    keys = _first_keys(s3, bucket, f"{catalogue}/", _LOOKED_AT)
    names = (key.removeprefix(f"{catalogue}/") for key in keys)
    others = [name for name in names if name and not name.startswith(f"{PARTITION}=")]
    if others:
        raise CatalogueError(f"{place} holds something else ({cut(others[0])}); give a folder of its own")


def _first_keys(s3: Any, bucket: str, prefix: str, most: int) -> list[str]:
    answer = repeated(lambda: s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=most))
    return [item["Key"] for item in answer.get("Contents", [])]
