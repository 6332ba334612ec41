"""What make, deploy.sh and docker build call: `python -m cosmicai.packaging STEP [FOLDER]`."""

from __future__ import annotations

import argparse
import platform
import sys
from pathlib import Path

from cosmicai.packaging.assembly import copy_code, image_tag, package
from cosmicai.packaging.kernels import compile_kernels
from cosmicai.packaging.packages import ExtraPackages, PackagingError, install_extra, install_packages
from cosmicai.packaging.places import LOCKS, ZIP_CONTENT, BuildFolder

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""What Python calls the machines that images are built for, by Docker's TARGETARCH."""


def main() -> None:
    """Runs one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["zips", "tag", "packages", "extra", "kernels", "code"])
    parser.add_argument("folder", type=Path, nargs="?", help="the image's task folder")
    parser.add_argument("--variant", choices=list(LOCKS), default="lean", help="variant of the inference image")
    parser.add_argument("--extra", default="", help="packages for scripts, separated by spaces")
    parser.add_argument(
        "--architecture",
        choices=["", *MACHINES],
        default="",
        help="architecture of the image; default: this machine's",
    )
    arguments = parser.parse_args()
    if arguments.step in ("packages", "extra", "code") and arguments.folder is None:
        parser.error(f"{arguments.step} needs the FOLDER to fill")
    try:
        _step(arguments, ExtraPackages.parse(arguments.extra))
    except PackagingError as error:
        sys.exit(f"error: {error}")


def _step(arguments: argparse.Namespace, extra: ExtraPackages) -> None:
    folder, machine = arguments.folder, MACHINES.get(arguments.architecture, platform.machine())
    if arguments.step == "zips":
        package(BuildFolder())
        print("\n".join(str(BuildFolder().zip_file(function)) for function in ZIP_CONTENT))
    elif arguments.step == "tag":
        print(image_tag(extra))
    elif arguments.step == "kernels":
        compile_kernels(machine)
    elif arguments.step == "packages":
        install_packages(folder, LOCKS[arguments.variant], machine)
    elif arguments.step == "extra":
        installed = install_extra(folder, extra, machine)
        print(
            f"extra packages: {' '.join(f'{name}=={version}' for name, version in installed.items()) or 'none'}"
        )
    else:
        copy_code(folder, machine)


if __name__ == "__main__":
    main()
