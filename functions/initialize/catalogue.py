"""Whether a run may add to the catalogue that its payload names, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from .arrival import Arrival, check_arrival
from .contract.columns import PARTITION, redshift_grid
from .contract.fields import RecordError
from .contract.growing import LOG, CatalogueError, Form, digest_of, latest
from .contract.mapping import Mapping
from .contract.model_files import CALIBRATION, NOVELTY
from .contract.s3 import repeated
from .model_folder import Model
from .payload import PayloadError, cut

_SCORE = "ood_score"  # the column that ranks write if the model has novelty.json
_LOOKED_AT = 1000  # objects of a folder that is to become a catalogue


@dataclass(frozen=True)
class Ranks:
    """The ranks that are to run.

    hands: the keys of the partitions of each. are_all: whether no other rank has ended.
    """

    hands: Sequence[Sequence[str]]
    are_all: bool


def check_catalogue(s3: Any, payload: dict[str, Any], model: Model, ranks: Ranks) -> list[str]:
    """Raises PayloadError if the run cannot add to its catalogue; returns notes on what could not be checked.

    A catalogue is refused if it has another model, another network, other redshifts of p(z), other outputs or
    other columns than the run, if it is within another catalogue, and if its folder holds other objects.
    model: the run's.
    """
    catalogue = payload.get("catalogue")
    if catalogue is None:
        return []
    bucket, place = payload["bucket"], f"s3://{payload['bucket']}/{catalogue}"
    try:
        for above in list(accumulate(catalogue.split("/"), "{}/{}".format))[:-1]:
            if _first_keys(s3, bucket, f"{above}/{LOG}/", 1):
                raise CatalogueError(
                    f"s3://{bucket}/{above} is a catalogue, and its `vacuum` would delete a catalogue "
                    "within it; give a folder elsewhere"
                )
        _, form = latest(s3, bucket, catalogue)
        if form is not None:
            form.check_payload(payload, place)
        else:
            _check_new(s3, bucket, catalogue, place)
        if not ranks.hands:  # all ranks have ended: today's network cannot change what they have computed
            return []
        if form is not None:
            _check_network(payload, model.graphs, form, place)
            _check_probabilities(payload, model.calibration, form, place)
            _check_scores(payload, model.has_novelty, form, place)
        return _check_columns(s3, payload, model.graphs, ranks, form, place)
    except CatalogueError as error:
        raise PayloadError(f"catalogue: {error}") from error


def _check_network(payload: dict[str, Any], graphs: Any, form: Form, place: str) -> None:
    """Raises CatalogueError if the run's network differs from that of the catalogue.

    If graphs.json does not name the network, Summarize compares it when the ranks have ended.
    """
    network = graphs.get("network") if isinstance(graphs, dict) else None
    if not isinstance(network, str) or network == form.network or not form.network:
        return
    mapping = _mapping(graphs)
    more = [name for name in (() if mapping is None else mapping.columns) if name not in form.columns]
    present = f"{_folder(payload)} holds" if "model" in payload else "this deployment bundles"
    raise CatalogueError(
        f"{place} holds predictions of another network, or of another mapping of its outputs, "
        f"than {present} now"
        + (f"; the catalogue has no column {', '.join(more)}" if more else "")
        + f". Give another catalogue, or {_earlier(payload, 'network')}"
    )


def _check_probabilities(payload: dict[str, Any], calibration: Any, form: Form, place: str) -> None:
    """Raises CatalogueError where only one of run and catalogue has p(z), or both at different redshifts.

    A calibration.json that is not known or malformed is left to the ranks.
    """
    if "script" in payload or not isinstance(calibration, dict):
        return
    if bool(calibration) != ("z_median" in form.columns):
        fault = (
            "has no p(z), which {} gives"
            if calibration
            else "has p(z), which {} does not give: it lacks " + CALIBRATION
        )
    else:
        try:
            grid = _grid(calibration["redshifts"]) if form.z_grid else []
        except (KeyError, TypeError, ValueError, ArithmeticError):
            return
        fault = "" if digest_of(grid) == form.z_grid else "has p(z) at other redshifts than {} gives it"
    if fault:
        name = _folder(payload) if "model" in payload else "the bundled model"
        raise CatalogueError(
            f"{place} {fault.format(name)}. Give another catalogue, or {_earlier(payload, CALIBRATION)}"
        )


def _check_scores(payload: dict[str, Any], has_novelty: bool | None, form: Form, place: str) -> None:
    """Raises CatalogueError where only one of run and catalogue has the scores of novelty.json.

    That of the bundled model is not known here: Summarize compares the columns when the ranks have ended.
    """
    if "script" in payload or has_novelty is None or has_novelty == (_SCORE in form.columns):
        return
    name = _folder(payload)
    fault = (
        f"has no {_SCORE}, which {name} gives by its {NOVELTY}"
        if has_novelty
        else f"has {_SCORE}, which {name} does not give: it lacks {NOVELTY}"
    )
    remedy = f"remove {NOVELTY}" if has_novelty else _earlier(payload, NOVELTY)
    raise CatalogueError(f"{place} {fault}. Give another catalogue, or {remedy}")


def _grid(redshifts: Any) -> list[float]:
    return redshift_grid(float(redshifts["to"]), float(redshifts["step"]))


def _folder(payload: dict[str, Any]) -> str:
    return f"s3://{payload['bucket']}/{payload['model']}"


def _earlier(payload: dict[str, Any], what: str) -> str:
    """The remedy where the model has changed."""
    if "model" in payload:
        return f"put the earlier {what} back"
    return f"deploy the version with the earlier {what} again"


def _mapping(graphs: dict[str, Any]) -> Mapping | None:
    """That of an imported network."""
    try:
        return Mapping.from_json(graphs["mapping"])
    except (KeyError, RecordError):
        return None


def _check_columns(
    s3: Any, payload: dict[str, Any], graphs: Any, ranks: Ranks, form: Form | None, place: str
) -> list[str]:
    """Raises CatalogueError for partitions whose columns do not fit; returns notes on what is not certain."""
    content = graphs if isinstance(graphs, dict) else {}
    # What was computed by another network has other columns, and they are not those of partitions.
    same = form is None or content.get("network") == form.network
    arrival = Arrival(
        payload["data_bucket"],
        payload["data_prefix"],
        ranks.hands,
        ranks.are_all,
        _mapping(content),
        knows_outputs="model" not in payload or same,
    )
    return check_arrival(s3, arrival, form, place)


def _check_new(s3: Any, bucket: str, catalogue: str, place: str) -> None:
    """Only arrivals of runs that have not ended, or failed, may be in a folder that is not a table yet."""
    keys = _first_keys(s3, bucket, f"{catalogue}/", _LOOKED_AT)
    names = (key.removeprefix(f"{catalogue}/") for key in keys)
    others = [name for name in names if name and not name.startswith(f"{PARTITION}=")]
    if others:
        raise CatalogueError(
            f"{place} holds other objects, such as {cut(others[0])}; give the catalogue a folder of its own"
        )


def _first_keys(s3: Any, bucket: str, prefix: str, most: int) -> list[str]:
    answer = repeated(lambda: s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=most))
    return [item["Key"] for item in answer.get("Contents", [])]
