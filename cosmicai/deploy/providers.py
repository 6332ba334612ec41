"""Where Terraform's AWS provider comes from, for `cosmicai`, `make deploy` and `cosmicai doctor` alike.

Standard library only: `python cosmicai/deploy/providers.py` prints the folder of an offline mirror, or
nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

PLUGIN_DIR_VARIABLE = "COSMICAI_TERRAFORM_PLUGIN_DIR"
PROVIDER = Path("registry.terraform.io/hashicorp/aws")
_PREFIXES = ("/opt", "/usr/share", "/usr/local/share", "/usr/lib")


class ProviderError(RuntimeError):
    """The folder that the environment names is not a mirror of the provider."""


def plugin_dir(environment: Mapping[str, str]) -> Path | None:
    """An offline mirror of the AWS provider; None if the public registry is to be used.

    COSMICAI_TERRAFORM_PLUGIN_DIR names one; otherwise the usual prefixes are searched, one level deep. Raises
    ProviderError.
    """
    if chosen := environment.get(PLUGIN_DIR_VARIABLE):
        if not (Path(chosen) / PROVIDER).is_dir():
            raise ProviderError(f"{PLUGIN_DIR_VARIABLE}={chosen} holds no {PROVIDER}: correct it, or unset it")
        return Path(chosen)
    for prefix in map(Path, _PREFIXES):
        for folder in [prefix, *sorted(prefix.glob("*/"))]:
            if (folder / PROVIDER).is_dir():
                return folder
    return None


if __name__ == "__main__":
    try:
        print(plugin_dir(os.environ) or "")
    except ProviderError as error:
        sys.exit(f"error: {error}")
