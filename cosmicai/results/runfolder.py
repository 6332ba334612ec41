"""A folder of results holds the files of one run, and a record of which they are.

A user's own files may be next to them; they stay when the results of another run replace these.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cosmicai.results.outputs import OutputError, exclusive, made, merge, new_folder
from inference.contract.paths import PathError, below
from inference.contract.run_records import COPIES

RECORD = ".cosmicai-run.json"
_WRITTEN_AGAIN = (
    "report.html", "Results.json", "inference.png", "columns.csv",
    *(f"catalogue.{kind}" for kind in ("csv", "parquet", "fits", "vot", "qp.hdf5", "hats")),
)  # fmt: skip
"""What `cosmicai report` and `cosmicai catalogue` write after the record; some of them are folders."""
_OF_A_RUN = re.compile(
    r"(run|manifest|metrics|combined_data|summary|Results|(0|[1-9][0-9]*))\.json|report\.html|inference\.png|"
    r"(?:copies/)?predictions/(0|[1-9][0-9]*)\.npz|(?:copies/)?failures/(0|[1-9][0-9]*)\.json|"
    r"copies/(?:combined_data|(0|[1-9][0-9]*))\.json"
)
_SHOWN = 5  # files that a message names


@dataclass(frozen=True)
class _Record:
    """The run whose files are in a folder, and their paths below it; not complete while they are replaced."""

    run_id: str | None = None
    files: set[str] = field(default_factory=set)
    complete: bool = True

    def write(self, folder: Path) -> None:
        content = {"run_id": self.run_id, "complete": self.complete, "files": sorted(self.files)}
        (folder / RECORD).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _recorded(folder: Path) -> _Record:
    """What the record says; of a folder without one, as earlier versions left it, what its run.json says."""
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {name for name in content["files"] if below(folder, name)}
        return _Record(str(content["run_id"]), {*files, *_WRITTEN_AGAIN}, bool(content["complete"]))
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError, PathError, RecursionError) as error:
        raise OutputError(
            f"{folder / RECORD} is not what this tool wrote ({error}); write elsewhere"
        ) from error
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return _Record(str(run["run_id"]), _results_in(folder, int(run["world_size"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return _Record()


def _results_in(folder: Path, ranks: int | None = None) -> set[str]:
    """The files of a folder that are named like those of a run with `ranks` ranks; None: with any number."""
    own = (".", "predictions", "failures")
    places = [
        path for place in (folder, folder / COPIES) for below_ in own for path in (place / below_).glob("*")
    ]
    names = (path.relative_to(folder).as_posix() for path in places if path.is_file())
    matches = [match for match in map(_OF_A_RUN.fullmatch, names) if match]
    numbers = {match[0]: next((int(part) for part in match.groups()[1:] if part), 0) for match in matches}
    return {name for name, rank in numbers.items() if ranks is None or rank < ranks}


def check_complete(folder: Path) -> None:
    """Raises OutputError if results were being replaced by those of another run."""
    if not _recorded(folder).complete:
        raise OutputError(
            f"{folder} holds a part of the results of a run: the command that writes them still runs, or was "
            "cut off; give the same command again"
        )


@contextmanager
def run_folder(folder: Path, run_id: str, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill with the results of a run, which appear in `folder` together at the end.

    Results of the same run there are replaced, and those of another one if `overwrite` is set; other files
    stay. After an error nothing has changed. Raises OutputError if the folder holds other results, or if
    another process writes to it.
    """
    with made(folder.absolute()), exclusive(folder):
        earlier = _recorded(folder)
        _check(folder, earlier, run_id, overwrite)
        with new_folder(folder) as scratch:
            yield scratch
            _publish(scratch, folder, earlier, run_id)


def _check(folder: Path, earlier: _Record, run_id: str, overwrite: bool) -> None:
    unknown = sorted(_results_in(folder) - earlier.files)
    if unknown:
        raise OutputError(
            f"{folder} holds results of an unknown run: {', '.join(unknown[:_SHOWN])} ({len(unknown)} "
            "files); move them away, or write elsewhere"
        )
    if earlier.run_id not in (None, run_id) and not overwrite:
        raise OutputError(
            f"{folder} holds the results of the run {earlier.run_id}; give --overwrite to put these in their "
            "place, or write elsewhere"
        )


def _publish(scratch: Path, folder: Path, earlier: _Record, run_id: str) -> None:
    files = {path.relative_to(scratch).as_posix() for path in scratch.rglob("*") if not path.is_dir()}
    foreign = sorted(name for name in files - earlier.files if (folder / name).is_file())
    if foreign:
        raise OutputError(
            f"{folder / foreign[0]} is not a result of an earlier call, and would be replaced: move it away"
        )
    _Record(run_id, files | earlier.files, complete=False).write(folder)
    for name in earlier.files:
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    for place in sorted({(folder / name).parent for name in earlier.files} - {folder}, reverse=True):
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
    merge(scratch, folder)
    _Record(run_id, files).write(folder)
