"""Queries AWS through its command line, for code that runs without boto3. Standard library only."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

Ask = Callable[..., Any]
"""Runs the aws command line with the arguments; returns its answer. Raises AskError."""


class AskError(RuntimeError):
    """AWS refused to answer, or could not be reached; the message is the command line's own."""


def by_command_line(region: str, environment: Mapping[str, str]) -> Ask:
    def ask(*arguments: str) -> Any:
        command = ["aws", "--region", region, "--output", "json", "--cli-connect-timeout", "10", *arguments]
        completed = subprocess.run(
            command,
            env={**environment, "AWS_PAGER": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if completed.returncode:
            raise AskError(" ".join((completed.stderr or completed.stdout).split()))
        return json.loads(completed.stdout or "{}")

    return ask
