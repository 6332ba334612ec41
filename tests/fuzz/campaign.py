"""Fuzzes targets one after the other, each for the given seconds, and prints the outcomes: `make fuzz`.

A target that has broken a promise continues until its time is over. Exits with 1 if any target broke one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.fuzz.fuzz import FOLDER
from tests.fuzz.targets import TARGETS

_MOST_FINDINGS = 10  # of a target, after which it is left
_STATE = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)", re.MULTILINE)
_FAULT = re.compile(r"^ *=== Uncaught Python exception: ===\n(.*(?:\n.*)?)", re.MULTILINE)


@dataclass
class Result:
    """edges: of the code that were run, as libFuzzer counts them (cov). findings: files and what broke."""

    executions: int = 0
    edges: int = 0
    seconds: float = 0.0
    findings: dict[Path, str] = field(default_factory=dict)


def main() -> None:
    seconds, *names = sys.argv[1:]
    if unknown := [name for name in names if name not in TARGETS]:
        sys.exit(f"there is no target {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    results = {name: fuzzed(name, int(seconds)) for name in names or TARGETS}
    _print(results)
    sys.exit(any(result.findings for result in results.values()))


def fuzzed(name: str, seconds: int) -> Result:
    result, began = Result(), time.monotonic()
    log = FOLDER / f"{name}.log"
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"fuzzing {name} for {seconds} s, log in {log}", flush=True)
    log.write_text("")
    while (left := seconds - int(result.seconds)) > 0 and len(result.findings) < _MOST_FINDINGS:
        before = set(FOLDER.glob(f"crash-{name}-*"))
        output = _run(name, left)
        with log.open("a") as file:
            file.write(output)
        states = [tuple(map(int, state)) for state in _STATE.findall(output)]
        result.executions += max((count for count, _, _ in states), default=0)
        result.edges = max([result.edges, *(edges for _, edges, _ in states)])
        result.seconds = time.monotonic() - began
        new = set(FOLDER.glob(f"crash-{name}-*")) - before
        if not new and not states:
            sys.exit(f"{name} does not run; see {log}")
        fault = _FAULT.search(output)
        result.findings |= dict.fromkeys(new, fault[1].strip() if fault else "too slow, too large or killed")
    return result


def _run(name: str, seconds: int) -> str:
    command = [sys.executable, "-m", "tests.fuzz.fuzz", name, "--seconds", str(seconds)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return ended.stdout.decode(errors="replace")


def _print(results: dict[str, Result]) -> None:
    table = Table("target", "executions", "executions/s", "edges", "new findings", title="Fuzzed by coverage")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, result in results.items():
        rate = result.executions / max(result.seconds, 1)
        table.add_row(
            name, f"{result.executions:,}", f"{rate:,.1f}", f"{result.edges:,}", str(len(result.findings))
        )
    total = [sum(getattr(result, part) for result in results.values()) for part in ("executions", "seconds")]
    findings = sum(len(result.findings) for result in results.values())
    table.add_section()
    table.add_row("all", f"{total[0]:,}", f"{total[0] / max(total[1], 1):,.1f}", "", str(findings))
    console = Console(width=100)
    console.print(table)
    console.print(f"{total[1] / 60:.1f} minutes in all")
    for result in results.values():
        for path, fault in result.findings.items():
            console.print(f"{path}: {fault}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
