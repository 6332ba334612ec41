"""photometry.json of partitions in folders, and the card of a model folder: where they are on this machine.

contract.photometry defines what they mean and when they contradict each other, as for Initialize.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cosmicai.data.listing import list_folder
from initialize.contract.photometry import (
    FILE,
    Photometry,
    PhotometryError,
    check_model,
    common,
    of_card,
    parsed,
)

__all__ = [
    "FILE",
    "Described",
    "Photometry",
    "PhotometryError",
    "check",
    "common_to",
    "of_model",
    "read",
    "write",
]


def read(folder: Path) -> Photometry:
    """That of the partitions in a folder itself; all unknown if it has no photometry.json."""
    path = folder / FILE
    return parsed(path.read_bytes(), str(path)) if path.exists() else Photometry()


def write(photometry: Photometry, folder: Path) -> None:
    (folder / FILE).write_bytes(as_bytes(photometry))


def as_bytes(photometry: Photometry) -> bytes:
    """The content of a photometry.json."""
    return f"{json.dumps(asdict(photometry), indent=2)}\n".encode()


_TRAINING_OPTIONS = {
    "bands": "--bands",
    "zero_point": "--zero-point or --flux-unit",
    "pixel_scale": "--pixel-scale",
    "flux_unit": "--flux-unit",
}


@dataclass(frozen=True)
class Described:
    """What the photometry.json of a source says. place: where it is, empty without one."""

    place: str = ""
    photometry: Photometry = field(default_factory=Photometry)

    @classmethod
    def of(cls, source: Path) -> Described:
        """Raises PhotometryError for one that is broken, or for two that disagree."""
        described = beside(source)
        place = described[0][0] if described else ""
        more = f" (and {len(described) - 1} in its subfolders)" if len(described) > 1 else ""
        return cls(place + more, common(described))


def beside(source: Path) -> list[tuple[str, Photometry]]:
    """Each photometry.json that describes a source, by its path.

    That is the one next to a partition, or those in a folder and its subfolders. Raises PhotometryError for a
    broken one.
    """
    if source.is_dir():
        paths = [source / key for key in list_folder(source).descriptions]
    else:
        paths = [path for path in [source.parent / FILE] if path.exists()]
    return [(str(path), parsed(path.read_bytes(), str(path))) for path in paths]


def common_to(sources: Iterable[Path]) -> Photometry:
    """What all descriptions of the sources agree on. Raises PhotometryError if two of them disagree."""
    return common(one for source in sources for one in beside(source))


def of_model(folder: Path) -> Photometry:
    """What the card of a model folder states; all unknown without a card. Raises PhotometryError."""
    path = folder / "card.json"
    if not path.exists():
        return Photometry()
    try:
        return of_card(json.loads(path.read_bytes()))
    except (PhotometryError, RecursionError, ValueError) as error:
        raise PhotometryError(f"{path}: photometry {error}; correct the card") from error


def check(described: Sequence[tuple[str, Photometry]], model: Path | None) -> None:
    """Raises PhotometryError where descriptions contradict each other, or a model folder's card."""
    common(described)
    if model is not None and described:
        card = of_model(model)
        for place, photometry in described:
            check_model(place, photometry, f"the model {model}", card)


def check_options(described: Described, options: Photometry, names: Mapping[str, str]) -> None:
    """Raises PhotometryError where options contradict partitions. names: of the options, by the field."""
    for name, said, option in described.photometry.differences(options):
        raise PhotometryError(
            f"{described.place}: {name} is {said}, but {names[name]} says {option}: leave the option out, or "
            "correct the file"
        )


def stated_for(folders: Sequence[Path], options: Photometry, model: Path | None) -> Photometry:
    """What partitions and options say to the training of a network. model: what it begins with, if anything.

    Raises PhotometryError where they contradict each other or the model's card.
    """
    described = [one for folder in folders for one in beside(folder)]
    for place, photometry in described:
        check_options(Described(place, photometry), options, _TRAINING_OPTIONS)
    check([*described, ("the options", options)], model)
    return options.completed(common(described))
