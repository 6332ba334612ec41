"""What a wheel holds: one package, `cosmicai`, with the functions, Terraform's modules and the payloads.

In a checkout, as in Lambda's task folder, the functions are packages of their own: `inference`, `summarize` and
so on. Such common names do not belong into site-packages: a wheel has `cosmicai.functions.inference`, and the
modules of `cosmicai` import it from there.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
FUNCTIONS = ("inference", "initialize", "rendezvous", "summarize")
WITHIN = "cosmicai.functions"
OWN = find_packages(str(HERE), include=["cosmicai*"])
OF_FUNCTIONS = find_packages(str(HERE / "functions"), include=[f"{name}*" for name in FUNCTIONS])
FILES = {
    "cosmicai": ["py.typed", "experiments/sweep.html"],
    f"{WITHIN}.inference": [
        "models/**",
        "shims/**",
        "engine/speeds.json",
        "engine/kernels/*",
        "engine/kernels/.*",
        "*.txt",
        "*.lock",
    ],
    f"{WITHIN}.summarize": ["page/*"],
}
FOLDERS = {
    "terraform": ["*.tf", ".terraform.lock.hcl", "modules/*/*"],
    "statemachine": ["*.json"],
    "payloads": ["*.json"],
    "functions": ["*.txt", "*.lock"],
}
"""Folders of the checkout without code of Python, and what a wheel takes of them, below cosmicai/."""


def moved(source: str) -> str:
    """A module whose imports of functions name the place that these have in a wheel.

    Raises ValueError for `import inference.x`, which binds the name of a package that is not there.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        at = getattr(node, "lineno", 1) - 1
        if isinstance(node, ast.ImportFrom) and not node.level and _is_function(node.module or ""):
            lines[at] = re.sub(r"\bfrom (\w)", rf"from {WITHIN}.\1", lines[at], count=1)
        if isinstance(node, ast.Import) and any(_is_function(alias.name) for alias in node.names):
            if len(node.names) > 1 or node.names[0].name not in FUNCTIONS:
                raise ValueError(f"line {node.lineno}: write `from {node.names[0].name} import …`")
            lines[at] = re.sub(r"\bimport (\w)", rf"from {WITHIN} import \1", lines[at], count=1)
    return "".join(lines)


def _is_function(module: str) -> bool:
    return module.partition(".")[0] in FUNCTIONS


class BuildPackage(build_py):
    """Compiles the kernels for every machine, copies the packages, and changes what imports a function."""

    def run(self) -> None:
        if not self.editable_mode:
            sys.path.insert(0, str(HERE))
            from cosmicai.packaging.kernels import MACHINES, compile_kernels

            for machine in MACHINES:
                compile_kernels(machine)
        super().run()

    def build_module(self, module: str, module_file: Any, package: Any) -> Any:
        built = super().build_module(module, module_file, package)
        if isinstance(package, str) and package in OWN and not self.editable_mode:
            path = Path(self.get_module_outfile(self.build_lib, package.split("."), module))
            source = path.read_text(encoding="utf-8")
            changed = moved(source)
            if changed != source:
                path.write_text(changed, encoding="utf-8")
        return built


def packages() -> dict[str, Any]:
    """setuptools' arguments: for a checkout that is installed as it is, or for a wheel."""
    if "editable_wheel" in sys.argv:
        at = {name: f"functions/{name}" for name in FUNCTIONS}
        return {"packages": [*OWN, *OF_FUNCTIONS], "package_dir": at}
    folders = [f"cosmicai.{name}" for name in FOLDERS]
    at = {f"cosmicai.{name}": name for name in FOLDERS}
    files = {**FILES, **{f"cosmicai.{name}": patterns for name, patterns in FOLDERS.items()}}
    inside = [f"{WITHIN}.{name}" for name in OF_FUNCTIONS]
    return {"packages": [*OWN, *folders, *inside], "package_dir": at, "package_data": files}


setup(cmdclass={"build_py": BuildPackage}, **packages())
