"""Whether a run may add to the catalogue that its payload names, before anything is computed."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from .contract.columns import PARTITION
from .contract.fields import RecordError
from .contract.growing import LOG, CatalogueError, Form, latest
from .contract.mapping import Mapping
from .contract.s3 import repeated
from .payload import PayloadError, cut

_LOOKED_AT = 1000  # objects of a folder that is to become a catalogue


def check_catalogue(s3: Any, payload: dict[str, Any], graphs: Any) -> None:
    """Raises PayloadError for a catalogue of another model, another network or other outputs, one within
    another, and a folder that holds something else.

    graphs: what check_model returned.
    """
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
            _check_network(payload, graphs, form, place)
        else:
            _check_new(s3, bucket, catalogue, place)
    except CatalogueError as error:
        raise PayloadError(f"catalogue: {error}") from error


def _check_network(payload: dict[str, Any], graphs: Any, form: Form, place: str) -> None:
    """Raises CatalogueError where the model's folder holds another network than the one of the catalogue.

    What graphs.json does not say is seen when the ranks have ended.
    """
    network = graphs.get("network") if isinstance(graphs, dict) else None
    if not isinstance(network, str) or network == form.network or not form.network:
        return
    more = [name for name in _columns(graphs) if name not in form.columns]
    raise CatalogueError(
        f"{place} holds predictions of another network, or of another mapping of its outputs, than "
        f"s3://{payload['bucket']}/{payload['model']} has now"
        + (f"; the catalogue has no column {', '.join(more)}" if more else "")
        + ". Give another catalogue, or put the earlier network back"
    )


def _columns(graphs: Any) -> tuple[str, ...]:
    """Those of an imported network's predictions."""
    try:
        return Mapping.from_json(graphs["mapping"]).columns
    except (KeyError, RecordError):
        return ()


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
