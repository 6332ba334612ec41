"""A set of partitions on its way into a folder or an S3 prefix: never mixed with another set, never half of it.

A new set waits in a hidden folder until it is complete; then it takes the place of what was there. What is
there already with the same content stays, so that the same call finishes one that was interrupted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Protocol

from cosmicai.data.photometry import Photometry
from initialize.plan import Listing

_SHOWN = 5  # files that a message names
_NUMBERED = re.compile(r"[1-9][0-9]*\.pt")


class SetError(RuntimeError):
    """A place holds other partitions, or another process writes to it; the message says what to do."""


class Place(Protocol):
    """Where a set goes: a folder, or a prefix in S3. Names are paths below it."""

    def locked(self) -> AbstractContextManager[None]:
        """Holds the place. Raises SetError or OutputError while another process writes to it."""

    def listing(self) -> Listing: ...

    def wrote(self, name: str) -> bool:
        """Whether this tool wrote what is there under a name that is not NUMBER.pt."""

    def digest(self, name: str) -> str | None:
        """SHA-256 of what is there under a name; "" if it is not known, None if nothing is there."""

    def waits(self, name: str, digest: str) -> bool:
        """Whether a partition of this content waits already."""

    def stage(self, name: str, body: BinaryIO, digest: str) -> None:
        """Lets a partition wait; it does so whole or not at all."""

    def describe(self, photometry: Photometry) -> None:
        """Sets the photometry that `publish` stores next to the partitions."""

    def publish(self, names: Sequence[str], old: Sequence[str]) -> None:
        """Removes the old ones, puts those that wait in their place, and drops whatever else waits."""

    def give_up(self, refused: bool) -> None:
        """Drops what waits unless it is of use to the same call, or completes a set that is there in part."""


class NewSet:
    """The set that is being written. `add` may be called by several threads."""

    def __init__(self, place: Place, overwrite: bool, may_hold: Callable[[str], bool]) -> None:
        self._place, self._overwrite = place, overwrite
        listing = place.listing()
        self._there = [file.key for file in listing.files]
        self._same: set[str] = set()
        self._names: set[str] = set()
        self._check(others=[name for name in self._there if not may_hold(name)])

    def _check(self, others: Sequence[str]) -> None:
        """Raises SetError if partitions of another set may not be removed."""
        if not others:
            return
        names = ", ".join(others[:_SHOWN]) + (f" and {len(others) - _SHOWN} more" * (len(others) > _SHOWN))
        if not self._overwrite:
            raise SetError(
                f"{self._place} holds partitions of another set: {names}; give --overwrite to put this set in "
                "their place, or write elsewhere"
            )
        foreign = [name for name in others if not _NUMBERED.fullmatch(name) and not self._place.wrote(name)]
        if foreign:
            raise SetError(
                f"{self._place} holds {', '.join(foreign[:_SHOWN])}, which a run would read but this tool did "
                f"not write ({len(foreign)} files): move them away, or write elsewhere"
            )

    def add(self, name: str, body: BinaryIO, digest: str) -> bool:
        """Adds a partition, from its body's current position; returns whether it had to be written.

        Raises SetError if another one is in its place.
        """
        self._names.add(name)
        if name in self._there:
            if self._place.digest(name) == digest:
                self._same.add(name)
                return False
            self._check([name])
        if self._place.waits(name, digest):
            return False
        self._place.stage(name, body, digest)
        return True

    def finish(self) -> list[str]:
        """Puts the set in its place; returns the names of the partitions that were removed."""
        left = [name for name in self._there if name not in self._names]
        self._check(left)
        old = [name for name in self._there if name not in self._same]
        self._place.publish(sorted(self._names - self._same), old)
        return left


@contextmanager
def new_set(
    place: Place, overwrite: bool = False, may_hold: Callable[[str], bool] = lambda name: True
) -> Iterator[NewSet]:
    """A set to add partitions to and to finish; may_hold: whether it may have one of a name.

    After an error the place is as before. What waits stays for the same call, unless it was refused. Raises
    SetError if the place holds another set that is not to be overwritten, or if another process writes to it.
    """
    with place.locked():
        try:
            yield NewSet(place, overwrite, may_hold)
        except SetError:
            place.give_up(refused=True)
            raise
        except BaseException:
            place.give_up(refused=False)
            raise
