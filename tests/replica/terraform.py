"""The root module, of which some modules are applied to the replica."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from cosmicai.deploy.providers import plugin_dir
from cosmicai.packaging.places import ROOT

from . import Replica


class Root:
    """The root module with its state and working data in a folder."""

    def __init__(self, aws: Replica, folder: Path, variables: dict[str, Any]) -> None:
        self._aws, self._folder, self._variables = aws, folder, variables
        mirror = plugin_dir(aws.environment)
        plugins = [] if mirror is None else [f"-plugin-dir={mirror}"]
        self._terraform("init", "-input=false", "-lockfile=readonly", "-backend=false", *plugins)

    def run(self, command: str, *targets: str) -> str:
        """apply or destroy, of some modules and what they need."""
        values = self._folder / "values.tfvars.json"
        values.write_text(json.dumps(self._variables))
        options = ["-auto-approve", "-input=false", f"-var-file={values}", f"-state={self._folder / 'state'}"]
        return self._terraform(command, *(f"-target={target}" for target in targets), *options)

    def _terraform(self, *command: str) -> str:
        environment = {
            **self._aws.environment, "AWS_DEFAULT_REGION": "us-east-1",
            "TF_DATA_DIR": str(self._folder / "data"),
        }  # fmt: skip
        whole = ["terraform", f"-chdir={ROOT / 'terraform'}", *command]
        process = subprocess.run(whole, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr
        return process.stdout
