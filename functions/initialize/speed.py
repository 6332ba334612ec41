"""How fast ranks will be: as in the model's last run, else as on its card, else as assumed for any model."""

from __future__ import annotations

from typing import Any

from .contract.estimate import ASSUMED, Speed, vcpus
from .contract.fields import RecordError
from .contract.run_records import LastRun, last_run_key
from .records import ignore, read_json

_MOST_START_SECONDS = 900.0  # no Lambda runs longer
_SLOWEST = 7 / 8  # of the typical speed, where only that is known


def speed(s3: Any, bucket: str, model: str | None) -> Speed:
    """The speed of the ranks of a run with this model (its folder's key; None: the bundled one).

    The log names records that cannot be used. Nothing raises: a run can be planned without them.
    """
    return _of_last_run(s3, bucket, model) or _of_card(s3, bucket, model) or ASSUMED


def _of_last_run(s3: Any, bucket: str, model: str | None) -> Speed | None:
    key = last_run_key(model)
    content = read_json(s3, bucket, key)
    if content is None:
        return None
    try:
        last = LastRun.from_json(content)
        if not (0 < last.slowest <= last.fastest and last.memory > 0):
            raise RecordError("its speeds or its memory are impossible")
        if not last.typical_start <= last.longest_start <= _MOST_START_SECONDS:
            raise RecordError("its starts are impossible")
    except RecordError as error:
        ignore(bucket, key, error)
        return None
    cores = vcpus(last.memory)
    return Speed(
        (last.slowest / cores, last.fastest / cores),
        (last.typical_start, last.longest_start),
        f"the speed of this model's last run, {last.run_id[:80]}",
    )


def _of_card(s3: Any, bucket: str, model: str | None) -> Speed | None:
    """What `cosmicai model speed` has measured."""
    if model is None:
        return None
    key = f"{model}/card.json"
    content = read_json(s3, bucket, key)
    measured = content.get("speed") if isinstance(content, dict) else None
    if measured is None:
        return None
    try:
        rate = float(measured["images per second and thread"])
        if not 0 < rate < float("inf"):
            raise ValueError("the rate is impossible")
        machine = str(measured["machine"])[:80]
    except (KeyError, TypeError, ValueError) as error:
        ignore(bucket, key, error)
        return None
    source = f"the speed on the model's card, measured on {machine}"
    return Speed((_SLOWEST * rate, rate), ASSUMED.start_seconds, source)
