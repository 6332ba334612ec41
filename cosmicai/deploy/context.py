"""The build context of the inference image as `docker build` would send it. Standard library only."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

DOCKERFILE = "docker/inference.Dockerfile"
_IGNORE = ".dockerignore"
_ALWAYS_SENT = (_IGNORE, DOCKERFILE)  # even if .dockerignore names them
_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_SIGN = re.compile(r"\*\*/|\*\*|\*|\?|\[[^]]+\]|\\.|.", re.DOTALL)


@dataclass(frozen=True)
class _Pattern:
    """One line of a .dockerignore. keeps: whether it begins with an exclamation mark."""

    text: str
    keeps: bool

    def names(self, path: str) -> bool:
        """Whether it matches the path or a folder that the path is in."""
        parts, expression = path.split("/"), _expression(self.text)
        return any(expression.fullmatch("/".join(parts[:depth])) for depth in range(1, len(parts) + 1))


class Ignored:
    """Which paths a .dockerignore leaves out: the last line that matches decides
    (https://docs.docker.com/build/concepts/context/#dockerignore-files)."""

    def __init__(self, text: str) -> None:
        lines = (line.strip() for line in text.lstrip("\ufeff").splitlines())
        self._patterns = [_pattern(line) for line in lines if line and not line.startswith("#")]

    def leaves_out(self, path: str) -> bool:
        """path: relative to the context's root, with slashes."""
        left_out = False
        for pattern in self._patterns:
            if pattern.keeps == left_out and pattern.names(path):
                left_out = not pattern.keeps
        return left_out

    def may_keep_below(self, folder: str) -> bool:
        """Whether a line with an exclamation mark keeps something in a folder that is left out."""
        return any(one.keeps and f"{one.text}/".startswith(f"{folder}/") for one in self._patterns)


def _pattern(line: str) -> _Pattern:
    keeps = line.startswith("!")
    text = os.path.normpath(line[1:].strip() if keeps else line).lstrip("/")
    return _Pattern(text, keeps)


def _expression(pattern: str) -> re.Pattern[str]:
    """Go's filepath.Match, in which ** also matches any number of folders."""
    return re.compile("".join(_MEANINGS.get(sign) or _kept(sign) for sign in _SIGN.findall(pattern)), re.DOTALL)


def _kept(sign: str) -> str:
    return sign if len(sign) > 1 else re.escape(sign)  # longer: a set of characters, or one after a backslash


def context_files(root: Path) -> list[str]:
    """Files and links of the context, relative to its root, in order of their names."""
    ignored = Ignored((root / _IGNORE).read_text(encoding="utf-8"))
    return sorted({*_ALWAYS_SENT, *_sent(root, "", ignored)})


def _sent(root: Path, folder: str, ignored: Ignored) -> Iterator[str]:
    for entry in os.scandir(root / folder):
        path = f"{folder}/{entry.name}" if folder else entry.name
        left_out = ignored.leaves_out(path)
        if entry.is_dir(follow_symlinks=False):
            if not left_out or ignored.may_keep_below(path):
                yield from _sent(root, path, ignored)
        elif not left_out:
            yield path


def write_context(root: Path, target: BinaryIO) -> None:
    """The context as a compressed tar archive; the same files give the same bytes."""
    with (
        gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name in context_files(root):
            archive.addfile(*_packed(root / name, name))


def _packed(path: Path, name: str) -> tuple[tarfile.TarInfo, BinaryIO | None]:
    info = tarfile.TarInfo(name)
    if path.is_symlink():
        info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
        return info, None
    content = path.read_bytes()
    info.size, info.mode = len(content), path.stat().st_mode & 0o777
    return info, io.BytesIO(content)
