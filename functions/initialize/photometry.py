"""Whether partitions are what the run's network takes, by their photometry.json and the card of its model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from .contract.photometry import (
    MOST_BYTES,
    Photometry,
    PhotometryError,
    check_model,
    common,
    of_card,
    parsed,
)
from .contract.s3 import BROKEN, read_small
from .plan import PlanError, named
from .records import ignore, read_json

_MOST = 16  # photometry.json that are read


def check_photometry(s3: Any, payload: dict[str, Any], keys: Sequence[str], bundled_card: Any) -> list[str]:
    """Raises PlanError for a photometry.json that is broken, or contradicts another one or the model's card.

    keys: of each photometry.json among the partitions. bundled_card: the card of the bundled model. Returns
    notes on those that were not compared. A script's own network has no card.
    """
    if not keys or "script" in payload:
        return []
    bucket, model = payload["data_bucket"], payload.get("model")
    try:
        described, notes = described_by(s3, bucket, keys)
        common(described)
        card = bundled_card if model is None else read_json(s3, payload["bucket"], f"{model}/card.json")
        name = "the bundled model" if model is None else f"s3://{payload['bucket']}/{model}"
        for place, photometry in described:
            check_model(place, photometry, name, _stated_on(card, name))
    except PhotometryError as error:
        raise PlanError(f"data_prefix: {error}") from error
    return notes


def described_by(s3: Any, bucket: str, keys: Sequence[str]) -> tuple[list[tuple[str, Photometry]], list[str]]:
    """Each photometry.json with its place, and notes on those that are not read. Raises PhotometryError."""
    notes = (
        [f"only {_MOST} of {len(keys)} photometry.json in s3://{bucket} were read"] if len(keys) > _MOST else []
    )

    def body(key: str) -> bytes | Exception:
        try:
            return read_small(s3, bucket, key, MOST_BYTES)
        except ValueError as error:
            raise PhotometryError(f"s3://{bucket}/{key}: {error}; correct the file") from error
        except (ClientError, *BROKEN) as error:
            ignore(bucket, key, error)
            return error

    chosen = keys[:_MOST]
    with ThreadPoolExecutor(_MOST) as pool:
        bodies = dict(zip(chosen, pool.map(body, chosen), strict=True))
    unread = [key for key, one in bodies.items() if isinstance(one, Exception)]
    if unread:
        notes.append(f"could not be read, and so was not compared with the model: {named(unread)}")
    places = {f"s3://{bucket}/{key}": one for key, one in bodies.items() if isinstance(one, bytes)}
    return [(place, parsed(one, place)) for place, one in places.items()], notes


def _stated_on(card: Any, name: str) -> Photometry:
    try:
        return of_card(card)
    except PhotometryError as error:
        raise PhotometryError(f"card.json of {name}: photometry {error}; correct the card") from error
