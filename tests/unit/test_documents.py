"""The documentation: README's length, the architecture picture, the checks of words, the repository layout."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cosmicai.packaging.places import ROOT

RULES = {"phrases": {r"\bfor want of\b": "because there is no"}, "longest_sentence": 10}


def _script(name: str) -> ModuleType:
    """A module of scripts/, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def architecture() -> ModuleType:
    return _script("architecture")


@pytest.fixture(scope="module")
def prose() -> ModuleType:
    return _script("prose")


@pytest.fixture(scope="module")
def modules() -> ModuleType:
    return _script("modules")


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1200


def test_the_screenshot_is_small() -> None:
    picture = ROOT / "docs" / "report.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 200_000


def test_the_architecture_picture_is_that_of_its_source(architecture: ModuleType) -> None:
    drawn = architecture.draw(architecture.BOXES, architecture.LABELS, architecture.ARROWS)
    assert architecture.PICTURE.read_text() == drawn, "run python scripts/architecture.py"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": "a title that is far too long"}, "does not fit into the box"),
        ({"lines": ("one", "two", "three")}, "does not fit into the box"),
        ({"arrow": ((0, 34), (90, 34))}, "runs through 'title'"),
        ({"label": (30, 34, "label")}, "covers"),
        ({"label": (80, 34, "label")}, "crosses the border"),
        ({"label": (990, 300, "label")}, "leaves the picture"),
    ],
)
def test_a_picture_that_cannot_be_read_is_refused(
    architecture: ModuleType, changes: dict[str, Any], message: str
) -> None:
    area = architecture.Area(10, 10, 90, 50)
    box = architecture.Box(area, changes.get("title", "title"), changes.get("lines", ()))
    labels = [architecture.Text(*changes["label"])] if "label" in changes else []
    arrows = [architecture.Arrow(changes["arrow"])] if "arrow" in changes else []
    with pytest.raises(architecture.DrawingError, match=message):
        architecture.draw([box], labels, arrows)


def test_every_module_has_a_readme_with_its_inputs_and_outputs(modules: ModuleType) -> None:
    folders = {path.parent for path in (ROOT / "terraform").glob("modules/*/main.tf")}
    assert folders | {ROOT / "terraform"} == set(modules.modules())
    for folder in modules.modules():
        page = (folder / "README.md").read_text()
        assert page == modules.readme(folder), "run python scripts/modules.py"
        assert re.search(r"^# .+\n\n\w", page), "a title, and what the module is for"
        for name in re.findall(r'^(?:variable|output) "(\w+)"', _sources(folder), re.MULTILINE):
            assert f"| `{name}` | " in page


def _sources(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("*s.tf"))


def _module(folder: Path, variable: str) -> Path:
    marker = "<!-- What follows is written by scripts/modules.py. -->"
    (folder / "README.md").write_text(f"# title\n\nPurpose.\n\n{marker}\n\nold\n")
    (folder / "variables.tf").write_text(variable)
    return folder


def test_an_input_has_its_type_its_default_and_its_fields(tmp_path: Path, modules: ModuleType) -> None:
    folder = _module(
        tmp_path,
        """
        variable "it" {
          description = <<-EOT
            What "it" is: a | b.

            - first: One.
            - second: Two.
            - third: Three.
          EOT
          type = object({
            first  = string # not, a } field
            second = optional(list(string), ["x, y", "z"])
            third  = optional(map(object({ a = number, b = bool })))
          })
          default = { first = "word", second = [] }
        }
        """,
    )
    page = modules.readme(folder)
    assert page.startswith("# title\n\nPurpose.\n\n<!-- ")
    assert "old" not in page
    assert page.endswith("## Outputs\n\nNone.\n")
    assert [line for line in page.splitlines() if line.startswith("| `")] == [
        r'| `it` | What "it" is: a \| b. | `object` | `{first = "word", second = []}` |',
        "| `it.first` | One. | `string` | required |",
        '| `it.second` | Two. | `list(string)` | `["x, y", "z"]` |',
        "| `it.third` | Three. | `map(object({a = number, b = bool}))` | `null` |",
    ]


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("type = string", "it has no description: add one"),
        (
            'description = "It.\\n- one: 1"\ntype = object({ two = string })',
            "describes the fields one and has two",
        ),
    ],
)
def test_an_input_that_is_not_described_is_refused(
    tmp_path: Path, modules: ModuleType, variable: str, message: str
) -> None:
    with pytest.raises(modules.ModuleError, match=message):
        modules.readme(_module(tmp_path, f'variable "it" {{\n{variable}\n}}\n'))


def test_a_phrase_is_found_across_lines_and_not_in_code(prose: ModuleType) -> None:
    page = "Good.\n\nIt fails for\nwant of `for want of`.\n\n```\nfor want of\n```\n[for](for want of.md)\n"
    faults = list(prose.phrases("page.md", prose.prose(page), RULES))
    assert [(fault.line, fault.text) for fault in faults] == [(3, "'for want of': write because there is no")]


def test_a_long_sentence_is_found_where_it_begins(prose: ModuleType) -> None:
    long, short = "word " * 11, "word " * 10
    page = f"{short}.\n\n- {short}\n- {short}\n\n| {short} | {short} |\n\n{long}."
    faults = list(prose.long_sentences("page.md", page, 10))
    assert [(fault.line, fault.text) for fault in faults] == [(8, "a sentence of 11 words: use at most 10")]


@pytest.mark.parametrize(
    ("row", "lines"),
    [
        ("| a | b |", []),
        ("| `a \\| b` | c |", []),
        ("| a | b\nand c |", [4, 5]),  # as an editor that fills paragraphs leaves it
        ("| a |", [4]),
        ("| a | b | c |", [4]),
        ("| a | b", [4]),
        ("\n|Δz| / (1 + z)", []),  # no row: the table has ended
    ],
)
def test_a_line_that_is_no_row_of_its_table_is_found(prose: ModuleType, row: str, lines: list[int]) -> None:
    page = f"Text:\n| first | second |\n| --- | ---: |\n{row}\n\n```\n| --- |\n| a | b |\n```\n"
    assert [fault.line for fault in prose.broken_tables("page.md", page)] == lines


def test_of_python_only_comments_and_strings_are_read(prose: ModuleType) -> None:
    source = 'for_want_of = 1  # for want of\ntext = """one\nfor want of"""\n'
    faults = list(prose.phrases("code.py", prose.comments(source), RULES))
    assert [fault.line for fault in faults] == [1, 3]


def test_documentation_and_code_have_no_fault(prose: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert prose.main() == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "page", "message"),
    [
        ("docs", "[a page](nowhere.md)", "'nowhere.md'"),
        ("docs", "[a heading](tutorial.md#nowhere)", "'#nowhere'"),
        ("prose", "It goes on.", "'goes on'"),
        ("prose", "A received answer.".replace("ei", "ie"), "ieved ==> received"),
    ],
)
def test_make_refuses_a_broken_link_and_a_wrong_word(
    tmp_path: Path, target: str, page: str, message: str
) -> None:
    for name in ("Makefile", "mkdocs.yml", "pyproject.toml", "scripts", "docs"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, tmp_path / name)  # type: ignore[operator]
    (tmp_path / "scripts" / "environment.sh").write_text("exit 0\n")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with (tmp_path / "docs" / "index.md").open("a") as index:
        index.write(f"\n{page}\n")
    made = subprocess.run(["make", target], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert made.returncode != 0
    assert message in made.stdout + made.stderr


def test_the_repository_layout_names_what_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = re.search(r"^## Repository layout\n+```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert tree is not None
    folder = Path()
    for line in tree.group(1).splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folder = Path(*folder.parts[:depth], name)
        assert (ROOT / folder).exists(), folder


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_paragraphs_of_a_help_fill_the_terminal(columns: int) -> None:
    command = [sys.executable, "-m", "cosmicai", "run", "--help"]
    environment = {**os.environ, "COLUMNS": str(columns)}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    lines = [line.strip() for line in shown.splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("The payload is checked"))
    paragraph = lines[first : lines.index("", first)]
    assert paragraph == textwrap.wrap(" ".join(paragraph), columns - 2)
