"""What a user sees when a command cannot do what was asked: one or two lines, and an exit status."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, TextIO

import typer

from cosmicai.cli.common import tell_error
from cosmicai.packaging.extras import remedy

if TYPE_CHECKING:
    from collections.abc import Callable

ClickException: type[Exception] = typer.BadParameter.__mro__[2]  # Typer bundles its own click
_OURS = ("cosmicai", "initialize", "inference", "rendezvous", "summarize")
_MISUSED, _FAILED = 2, 1  # exit statuses: the command line is wrong; the command failed
_IN_ASCII = {"…": "...", "×": "x", "→": "->", "✓": "yes", "✗": "no", "–": "-", "—": "-", "·": "|", "Δ": "d"}


def guarded(call: Callable[[], Any]) -> int:
    """The exit status of a call of the command line.

    Errors of our own packages, of AWS and of the file system are messages to the user. Any other is a fault of
    ours and keeps its traceback.
    """
    try:
        return int(call() or 0)
    except typer.Abort:
        tell_error("aborted")
        return _FAILED
    except ClickException as error:
        return _misused(error)
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        tell_error(f"error: {message}")
        return _FAILED


def _misused(error: Any) -> int:
    """Says what is wrong with the command line, and where its help is."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return _MISUSED
    message = error.message if isinstance(error, typer.BadParameter) else error.format_message()
    if type(error).__name__ == "MissingParameter":
        message = "is missing"
    message = " ".join(message.removeprefix("Value error, ").split())
    hint = getattr(error, "param_hint", None)
    prefix = f"{hint} " if hint else f"{_name(parameter)} " if parameter is not None else ""
    tell_error(f"error: {prefix}{message}", lines=False)
    if context is not None:
        tell_error(f"`{context.command_path} --help` shows its options", lines=False)
    return _MISUSED


def _name(parameter: Any) -> str:
    """As a message names it: --batch-size for an option, SOURCES for an argument."""
    longest: str = max(parameter.opts, key=len)
    return longest if longest.startswith("-") else longest.upper()


def _message(error: Exception) -> str | None:
    """What an error means to the user; None for a fault of ours."""
    from cosmicai.deploy.target import explained

    if type(error).__module__.partition(".")[0] in _OURS:
        return str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return remedy(error.name)
    if isinstance(error, MemoryError):
        return "out of memory: give smaller partitions or batches, or fewer processes"
    return explained(error)


def show_everything(*streams: TextIO) -> None:
    """Lets streams that are not in UTF-8 show substitutes for the characters that they lack."""
    codecs.register_error("cosmicai", _replaced)
    for stream in streams:
        if not (stream.encoding or "").lower().startswith("utf") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="cosmicai")


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(character, "?") for character in characters), error.end
