"""Questions to AWS by its command line, for what runs without boto3. Standard library alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

Ask = Callable[..., Any]
"""Arguments of the aws command line to its answer. Raises AskError."""


class AskError(RuntimeError):
    """AWS refused to answer, or could not be reached; the message is the command line's own."""


def by_command_line(region: str, environment: Mapping[str, str]) -> Ask:
    def ask(*arguments: str) -> Any:
        command = ["aws", "--region", region, "--output", "json", "--cli-connect-timeout", "10", *arguments]
        done = subprocess.run(
            command,
            env={**environment, "AWS_PAGER": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise AskError(" ".join((done.stderr or done.stdout).split()))
        return json.loads(done.stdout or "{}")

    return ask
