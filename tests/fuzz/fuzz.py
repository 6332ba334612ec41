"""Fuzzes one target by coverage, with atheris, for a number of seconds or inputs; campaign.py runs all of them.

Its inputs are kept in .cosmicai/fuzz/TARGET. An input that breaks a promise becomes crash-TARGET-… there.
`python -m tests.fuzz.fuzz TARGET FILE` runs it again, without atheris. It becomes a test, as earlier ones did.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
from pathlib import Path
from random import Random
from typing import Any

FOLDER = Path(".cosmicai") / "fuzz"
_INSTRUMENTED = ["initialize", "inference", "rendezvous", "summarize", "cosmicai.model.foreign"]
_SLOWER = 5  # times, that instrumented code may be slower than it is by itself


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("file", nargs="?", type=Path, help="an input to be run once")
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--runs", type=int, default=-1, help="as many inputs, instead of so long")
    parser.add_argument("--corpus", type=Path, help="where inputs are kept")
    parser.add_argument("--bytes", action="store_true", help="change bytes only, to compare with")
    arguments = parser.parse_args()
    if arguments.file:
        importlib.import_module("tests.fuzz.targets").TARGETS[arguments.target].run(arguments.file.read_bytes())
    else:
        _fuzz(arguments)


def _fuzz(arguments: argparse.Namespace) -> None:
    import atheris

    with atheris.instrument_imports(include=_INSTRUMENTED):
        files, targets = (importlib.import_module(f"tests.fuzz.{name}") for name in ("files", "targets"))
    files.SECONDS *= _SLOWER
    target = targets.TARGETS[arguments.target]
    corpus = arguments.corpus or FOLDER / arguments.target
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    limits = [
        f"-max_total_time={arguments.seconds}",
        f"-runs={arguments.runs}",
        "-timeout=30",
        "-max_len=100000",
    ]
    options = [
        f"-artifact_prefix={FOLDER}/crash-{arguments.target}-",
        "-print_final_stats=1",
        "-rss_limit_mb=3000",
    ]
    own = {} if arguments.bytes else _mutators(target)
    atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], target.run, **own)
    atheris.Fuzz()


def _mutators(target: Any) -> dict[str, Any]:
    """What makes inputs in place of libFuzzer, where a target has it."""
    made: dict[str, Any] = {}
    if target.change:
        made["custom_mutator"] = lambda data, size, seed: target.change(data, Random(seed))[:size]
    if target.splice:
        made["custom_crossover"] = lambda one, two, size, seed: target.splice(one, two, Random(seed))[:size]
    return made


if __name__ == "__main__":
    main()
