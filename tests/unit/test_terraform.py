"""`terraform test`, `validate` and `fmt`, and finding the provider."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import hcl2
import pytest
from python_terraform import IsFlagged, Terraform

from cosmicai.deploy.providers import PLUGIN_DIR_VARIABLE, PROVIDER, ProviderError, plugin_dir
from cosmicai.deploy.terraform import TERRAFORM
from cosmicai.emulator.guard import guard_command
from cosmicai.packaging.assembly import package
from cosmicai.packaging.places import BuildFolder


@dataclass(frozen=True)
class _Done:
    returncode: int
    stdout: str
    stderr: str


def _terraform(
    data: Path, command: str, folder: Path = TERRAFORM, provider: str = "", **options: object
) -> _Done:
    """Runs a Terraform command in a folder, with its working data in `data`.

    provider: the address of one that runs; without it, Terraform starts its own.
    """
    environment = {"TF_DATA_DIR": str(data), "AWS_EC2_METADATA_DISABLED": "true"}
    environment |= {"TF_REATTACH_PROVIDERS": provider} if provider else {}
    with mock.patch.dict(os.environ, environment), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # python-terraform logs a failure by Logger.warn
        terraform = Terraform(working_dir=str(folder))
        return _Done(*terraform.cmd(command, no_color=IsFlagged, **options))


@pytest.fixture(scope="module")
def initialised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package(BuildFolder())
    data = tmp_path_factory.mktemp("terraform")
    process = _terraform(data, "init", backend=False, plugin_dir=plugin_dir(os.environ))
    assert process.returncode == 0, process.stderr
    return data


@pytest.fixture(scope="module")
def provider(initialised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running provider, the locked one.

    Else `terraform test` starts a provider of 700 MB three times for each of its 93 runs, and every command
    hashes it again.
    """
    (program,) = initialised.glob(f"providers/{PROVIDER}/*/*/terraform-provider-aws_*")
    command = guard_command(tmp_path_factory.mktemp("provider"), [str(program), "-debug"])
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin
        assert process.stdout
        addresses = (re.search(r"TF_REATTACH_PROVIDERS='(.+)'", line) for line in process.stdout)
        yield next(address[1] for address in addresses if address)
        process.stdin.close()  # which ends it


@pytest.mark.slow
def test_every_module_and_every_validation(initialised: Path, provider: str) -> None:
    process = _terraform(initialised, "test", provider=provider)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "0 failed" in process.stdout


def test_it_is_valid(initialised: Path, provider: str) -> None:
    process = _terraform(initialised, "validate", provider=provider)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the examples beside the root module, initialised together with the locked provider."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(TERRAFORM, folder / "terraform", ignore=shutil.ignore_patterns(".terraform"))
    copy = folder / "terraform" / "examples"
    calls = [
        f'module "{path.parent.name}" {{ source = "./{path.parent.name}" }}' for path in copy.glob("*/main.tf")
    ]
    assert len(calls) >= 2
    (copy / "main.tf").write_text("\n".join(calls))
    shutil.copy(TERRAFORM / ".terraform.lock.hcl", copy)
    options = {"backend": False, "lockfile": "readonly", "plugin_dir": plugin_dir(os.environ)}
    process = _terraform(folder / "data", "init", folder=copy, **options)
    assert process.returncode == 0, process.stderr
    return copy


def test_the_examples_are_valid(examples: Path, provider: str) -> None:
    process = _terraform(examples.parents[1] / "data", "validate", examples, provider)
    assert process.returncode == 0, process.stdout + process.stderr


def test_the_values_of_an_example_are_checked_too(examples: Path, provider: str) -> None:
    minimal = examples / "minimal" / "main.tf"
    source = minimal.read_text()
    minimal.write_text(source.replace('"team3"', '"Team_3"'))
    process = _terraform(examples.parents[1] / "data", "validate", examples, provider)
    minimal.write_text(source)
    assert "team must be 2 to 32 lower-case letters" in process.stderr


def test_the_examples_set_every_option() -> None:
    """Each variable, each attribute of its object; what excludes another option may be commented out."""
    examples = [path.read_text() for path in (TERRAFORM / "examples").glob("*/main.tf")]
    in_comments = re.compile(r"^( *)# (\w+ += )", re.MULTILINE)
    assigned: dict[str, set[str]] = {}
    for text in examples:
        for tree in (hcl2.loads(text), hcl2.loads(in_comments.sub(r"\1\2", text))):
            for name, value in tree["module"][0]['"cosmicai"'].items():
                assigned.setdefault(name, set()).update(_keys(value))
    for block in hcl2.loads((TERRAFORM / "variables.tf").read_text())["variable"]:
        ((quoted, variable),) = block.items()
        name = quoted.strip('"')
        assert name in assigned
        attributes = set(re.findall(r"^ +(\w+) += ", _object_of(name), re.MULTILINE))
        assert attributes <= assigned[name], name
        assert variable["description"]


def _keys(value: object) -> set[str]:
    """Of an object and of the objects in it."""
    return set(value).union(*map(_keys, value.values())) if isinstance(value, dict) else set()


def _object_of(variable: str) -> str:
    """The lines of its type, if that is an object."""
    source = (TERRAFORM / "variables.tf").read_text()
    body = source.partition(f'variable "{variable}" {{')[2].partition("\n}\n")[0]
    return body.partition("  type = object({\n")[2].partition("\n  })")[0]


def test_every_validation_has_a_test() -> None:
    """Counts `validation` and `precondition` blocks against the refusals in tests/."""
    sources = [path.read_text() for path in TERRAFORM.rglob("*.tf")]
    rules = sum(text.count("\n  validation {") + text.count("\n    precondition {") for text in sources)
    tests = "".join(path.read_text() for path in (TERRAFORM / "tests").glob("*.hcl"))
    assert tests.count("expect_failures") == rules


def test_a_named_mirror_comes_first(tmp_path: Path) -> None:
    mirror = tmp_path / "registry.terraform.io" / "hashicorp" / "aws"
    mirror.mkdir(parents=True)
    assert plugin_dir({PLUGIN_DIR_VARIABLE: str(tmp_path)}) == tmp_path


def test_a_named_mirror_without_the_provider_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=f"{PLUGIN_DIR_VARIABLE}=.* holds no registry.terraform.io"):
        plugin_dir({PLUGIN_DIR_VARIABLE: str(tmp_path)})
