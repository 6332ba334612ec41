"""The architecture: imports without circles, functions that stand alone, names, short files and functions."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from cosmicai.packaging.places import FUNCTIONS, ROOT, BuildFolder

Function = ast.FunctionDef | ast.AsyncFunctionDef

PACKAGES = dict.fromkeys(("inference", "initialize", "rendezvous", "summarize"), FUNCTIONS) | {"cosmicai": ROOT}
OTHERS = [path for part in ("benchmarks", "scripts", "tests") for path in sorted((ROOT / part).rglob("*.py"))]
VAGUE = {"found", "told", "wanted", "done", "given", "got"}
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 50


def _modules() -> dict[str, Path]:
    """The files of all packages by dotted name; those of the contract under the name of each function."""
    modules = {}
    for package, above in PACKAGES.items():
        for folder, _, names in os.walk(above / package, followlinks=True):
            for path in (Path(folder) / name for name in names if name.endswith(".py")):
                parts = path.relative_to(above).with_suffix("").parts
                modules[".".join(part for part in parts if part != "__init__")] = path
    return modules


MODULES = _modules()


def _imported(name: str, path: Path) -> set[str]:
    """The modules of ours that a module needs before it can be imported itself."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    needed: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            within = {f"{source}.{alias.name}" for alias in node.names}
            needed |= {one if one in MODULES else source for one in within}
    return needed & MODULES.keys() - {name}


def test_imports_have_no_circle() -> None:
    graph = {name: _imported(name, path) for name, path in MODULES.items()}
    assert "inference.contract.event" in graph["inference.rank"], "relative imports are understood"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("function", ["inference", "initialize", "rendezvous", "summarize"])
def test_a_function_imports_nothing_from_outside_its_folder(function: str) -> None:
    for name, path in MODULES.items():
        if name.split(".")[0] == function:
            others = {one for one in _imported(name, path) if one.split(".")[0] != function}
            assert not others, f"{name} imports {others}"


@pytest.mark.parametrize("function", ["initialize", "rendezvous", "summarize"])
def test_a_folder_that_is_zipped_alone_runs(function: str, build: BuildFolder, tmp_path: Path) -> None:
    """With nothing besides boto3, which Lambda's runtime brings."""
    archive = tmp_path / "alone.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for folder, _, names in os.walk(FUNCTIONS / function, followlinks=True):
            for path in (Path(folder) / name for name in names):
                file.write(path, path.relative_to(FUNCTIONS))
    code = f"import {function}.handler as handler; print(handler.__file__, callable(handler.handler))"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join((str(archive), str(build.runtime))),
        "AWS_DEFAULT_REGION": "us-east-1",
        "PORT": "10000",
        "STATE_MACHINE_ARN": "arn",
    }
    command = [sys.executable, "-S", "-c", code]
    process = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == [f"{archive}/{function}/handler.py", "True"]


def test_files_and_functions_stay_short() -> None:
    own = {path for path in MODULES.values() if "contract" not in path.parts} | set(
        (FUNCTIONS / "contract").glob("*.py")
    )
    lengths = {path.relative_to(ROOT).as_posix(): _lines(path) for path in (*own, *OTHERS)}
    long = {name: lines for name, lines in lengths.items() if lines > MOST_LINES}
    assert long == LONGER, "split them, or shorten the list where they have become shorter"
    functions = {_place(path, node): _length(node) for path in (*own, *OTHERS) for node in _functions(path)}
    long = {place: lines for place, lines in functions.items() if lines > MOST_LINES_OF_A_FUNCTION}
    assert not long, "divide them by subject"


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def _functions(path: Path) -> list[Function]:
    """Nested ones too."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def _place(path: Path, node: Function) -> str:
    return f"{path}:{node.lineno}: {node.name}"


def _length(node: Function) -> int:
    """Lines without decorators and docstring."""
    first = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
    return (node.end_lineno or 0) - first


LONGER = {"functions/rendezvous/server.py": 505}
"""Files that are longer, with their lines. The server is one file because it runs alone on its host."""


def test_helpers_of_tests_return_what_tests_assert() -> None:
    """A helper that is named after an assertion makes one; what it finds belongs in the test that calls it."""
    helpers = {_place(path, node) for path in OTHERS for node in _functions(path) if _is_assertion(node.name)}
    assert not helpers, "let them return a list of problems, or what there is"


def _is_assertion(name: str) -> bool:
    return name.lstrip("_").startswith("assert_")


def test_names_say_what_a_value_holds() -> None:
    """Of functions, parameters, variables and fields of classes, which are also names in JSON."""
    vague = {
        f"{path}:{node.lineno}: {name}"
        for path in (*MODULES.values(), *OTHERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if (name := _bound(node)).strip("_") in VAGUE
    }
    assert not vague


def _bound(node: ast.AST) -> str:
    """The name that a node gives to a value, or nothing."""
    match node:
        case ast.Name(ctx=ast.Store()):
            return node.id
        case ast.arg():
            return node.arg
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return node.name
        case ast.ExceptHandler():
            return node.name or ""
    return ""
