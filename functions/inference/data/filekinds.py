"""Recognises, by its first bytes, a file that is not one of torch.save."""

from __future__ import annotations

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"\xfd7zXZ\x00", "is compressed with xz: decompress it first (xz -d)"),
    (b"\x1f\x8b", "is compressed with gzip: decompress it first (gzip -d)"),
    (b"BZh", "is compressed with bzip2: decompress it first (bzip2 -d)"),
    (b"(\xb5/\xfd", "is compressed with zstd: decompress it first (zstd -d)"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it first"),
    (b"\x89HDF", "is an HDF5 file, not one of torch.save"),
    (b"SIMPLE  =", "is a FITS file, not one of torch.save"),
    (b"\x93NUMPY", "is a numpy array, not one of torch.save"),
    (
        b"\x80",
        "is a plain pickle: load it where it was made, and save it with torch.save",
    ),
)


def other_kind(start: bytes) -> str | None:
    """What a file with this beginning is, and the remedy; None if its kind is not known here.

    start: at least the first 300 bytes, or the whole of a shorter file.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page (HTML), not the file itself: download it again, by its direct link or signed in"
    if start[257:262] == b"ustar":
        return "is a tar archive: unpack it first, or save it again if torch before 0.1.10 wrote it"
    if start[:1] == b"\x08" and start[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42"):
        return "is an ONNX file, not one of torch.save (`cosmicai model import-onnx` reads networks in ONNX)"
    return next((kind for beginning, kind in _BEGINNINGS if start.startswith(beginning)), None)
