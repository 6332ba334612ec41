"""The base of files for zipfile whose bytes are fetched in parts."""

from __future__ import annotations

import io


class Seekable(io.RawIOBase):
    """A file of `size` bytes. Subclasses write `readinto`, which reads from `place` on."""

    def __init__(self, size: int) -> None:
        self.size, self.place = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}, before the beginning of the file")
        self.place = base + offset
        return self.place
