"""make deploy, destroy and clean execute no word, read no comment, mistake no team and lose nothing unasked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cosmicai.deploy.providers import PLUGIN_DIR_VARIABLE, plugin_dir
from cosmicai.packaging.places import ROOT
from tests.root_module import ROOT_MODULE

_MODULE = f"""{ROOT_MODULE}output "repository_url" {{ value = "1.dkr.ecr.us-east-1.amazonaws.com/team3" }}
"""
_RECORD = '#!/bin/sh\necho "$(basename "$0")" "$@" >> "$CALLS"\n'


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The Makefile and what its scripts read, over a root module that needs no AWS."""
    tree = tmp_path / "tree"
    for name in (
        "Makefile",
        "scripts",
        "docker",
        "cosmicai/packaging",
        "cosmicai/deploy/providers.py",
        "functions/inference",
        "functions/build-requirements.lock",
    ):
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)  # type: ignore[operator]
    (tree / "terraform" / "teams").mkdir(parents=True)
    (tree / "terraform" / "modules").mkdir()
    (tree / "terraform" / "main.tf").write_text(_MODULE)
    (tree / "terraform" / "teams" / "team3.tfvars").write_text('team = "team3"\n')
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("aws", "docker", "python"):
        (tools / name).write_text(_RECORD)
        (tools / name).chmod(0o755)
    return tree


def _run(tree: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Without what an outer make hands to an inner one, which would then print where it is.
    own = ("TF_", "MAKE", "MFLAGS")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    variables = {
        **inherited,
        "PATH": f"{tree.parent / 'tools'}:{os.environ['PATH']}",
        "CALLS": str(tree.parent / "calls"),
        "CHECKPOINT_DISABLE": "1",
        "PREFLIGHT": "skip",
        **environment,
    }
    return subprocess.run(
        command, cwd=tree, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )


def _calls(tree: Path) -> str:
    calls = tree.parent / "calls"
    return calls.read_text() if calls.exists() else ""


def _state(tree: Path) -> Path:
    return tree / ".cosmicai" / "terraform" / "team3.tfstate"


INJECTIONS = [
    'a"; touch PWNED; echo "',
    "a'; touch PWNED; echo '",
    "$$(touch PWNED)",
    "$(touch PWNED)",
    "$(shell touch PWNED)",
    "${shell touch PWNED}",
    "`touch PWNED`",
    "team3; touch PWNED",
    "team3\n\ttouch PWNED",
    "team3 -auto-approve",
]


@pytest.mark.parametrize("word", INJECTIONS)
@pytest.mark.parametrize("manner", ["argument", "environment"])
@pytest.mark.parametrize("target", ["plan", "deploy", "destroy"])
def test_a_team_is_not_executed(tree: Path, target: str, manner: str, word: str) -> None:
    """By make, by the recipe's shell or by the script; no tool of AWS is called."""
    arguments = [f"TEAM={word}"] if manner == "argument" else []
    environment = {"TEAM": word} if manner == "environment" else {}
    process = _run(tree, "make", target, "PYTHON=python", *arguments, **environment)
    assert process.returncode != 0
    assert list(tree.rglob("PWNED")) == []
    assert "terraform" not in _calls(tree)
    assert not (tree / ".cosmicai").exists()


@pytest.mark.parametrize("name", ["PYTHON", "SECONDS", "IMAGE", "BUILD", "APPROVE"])
@pytest.mark.parametrize("word", INJECTIONS[:7])
def test_no_other_variable_is_executed(tree: Path, name: str, word: str) -> None:
    for target in ("package", "plan", "destroy", "deploy"):
        _run(tree, "make", target, "TEAM=team3", f"{name}={word}")
    assert list(tree.rglob("PWNED")) == []


@pytest.mark.parametrize(
    "name",
    ["Team3", "3team", "t", "-team", "team-", "team_3", "team.3", "../team3", "a/b", "téam", "team 3",
     "team3\n", "team3\nteam4", "a" * 33, "team3\x1b[31m"],
)  # fmt: skip
@pytest.mark.parametrize("script", ["plan.sh", "deploy.sh", "destroy.sh"])
def test_names_are_those_that_terraform_takes(tree: Path, script: str, name: str) -> None:
    process = _run(tree, "sh", f"scripts/{script}", name)
    assert process.returncode == 1
    assert process.stderr.startswith(
        "error: TEAM is not a team's name: give 2 to 32 lower-case letters, digits and"
    )
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["t3", "team-3", "a" * 32, "a-b-c"])
def test_names_that_terraform_takes_are_taken(tree: Path, name: str) -> None:
    process = _run(tree, "sh", "scripts/deploy.sh", name)
    assert process.stderr.startswith(f"error: terraform/teams/{name}.tfvars is missing")


def test_nothing_is_applied_or_destroyed_unasked(tree: Path) -> None:
    """With the real Terraform: what a CI system sets is no answer, and APPROVE is one for this team alone."""
    automation = {"IMAGE": "x/y:z", "TF_IN_AUTOMATION": "1", "CI": "true"}
    assert _run(tree, "sh", "scripts/deploy.sh", "team3", **automation).returncode != 0
    assert not _state(tree).exists()
    process = _run(tree, "sh", "scripts/deploy.sh", "team3", **automation, APPROVE="team3")
    assert process.returncode == 0, process.stderr
    before = _state(tree).read_bytes()
    assert b"terraform_data" in before

    assert _run(tree, "sh", "scripts/destroy.sh", "team3", **automation).returncode != 0
    other = _run(tree, "sh", "scripts/destroy.sh", "team3", APPROVE="team4")
    assert other.stderr == "error: APPROVE names another team than TEAM=team3: nothing was done\n"
    assert _state(tree).read_bytes() == before
    process = _run(tree, "sh", "scripts/destroy.sh", "team3", APPROVE="team3")
    assert process.returncode == 0, process.stderr
    assert b"terraform_data" not in _state(tree).read_bytes()


def test_a_plan_changes_nothing(tree: Path) -> None:
    """With the real Terraform, before a deployment and after it."""
    python = sys._base_executable  # type: ignore[attr-defined]
    process = _run(tree, "sh", "scripts/plan.sh", "team3", PYTHON=python)
    assert process.returncode == 0, process.stderr
    assert "1 to add, 0 to change, 0 to destroy" in process.stdout
    assert not _state(tree).exists()
    assert _run(tree, "sh", "scripts/deploy.sh", "team3", IMAGE="x/y:z", APPROVE="team3").returncode == 0
    before = _state(tree).read_bytes()
    process = _run(tree, "sh", "scripts/plan.sh", "team3", PYTHON=python)
    assert "No changes" in process.stdout
    assert _state(tree).read_bytes() == before
    assert _calls(tree) == ""


def test_a_plan_without_credentials_says_how_to_sign_in(tree: Path) -> None:
    """With the real command line of AWS."""
    (tree.parent / "tools" / "aws").unlink()
    (tree.parent / "tools" / "aws").symlink_to(Path(sys.executable).with_name("aws"))
    for name in ("preflight.py", "commandline.py"):
        shutil.copyfile(ROOT / "cosmicai" / "deploy" / name, tree / "cosmicai" / "deploy" / name)
    nothing = {name: "" for name in os.environ if name.startswith("AWS_")}
    nothing |= {"HOME": str(tree), "AWS_EC2_METADATA_DISABLED": "true", "PREFLIGHT": ""}
    python = sys._base_executable  # type: ignore[attr-defined]
    process = _run(tree, "sh", "scripts/plan.sh", "team3", PYTHON=python, **nothing)
    assert process.returncode == 1
    assert process.stderr.startswith("error: credentials: ")
    assert "sign in (`aws sso login`, `aws configure`), or set AWS_PROFILE" in process.stderr
    assert "Plan:" not in process.stdout


def test_another_teams_tfvars_are_neither_applied_nor_destroyed(tree: Path) -> None:
    """With the real Terraform: a copy of a tfvars file in which the name was not changed."""
    process = _run(tree, "sh", "scripts/deploy.sh", "team3", IMAGE="x/y:z", APPROVE="team3")
    assert process.returncode == 0, process.stderr
    deployed = _state(tree).read_bytes()
    (tree / "terraform" / "teams" / "team3.tfvars").write_text('team = "team4" # not "team3"\n')
    for script in ("deploy.sh", "destroy.sh"):
        process = _run(tree, "sh", f"scripts/{script}", "team3", IMAGE="x/y:z", APPROVE="team3")
        assert process.returncode == 1
        assert process.stderr.endswith(
            'error: TEAM=team3, but terraform/teams/team3.tfvars has team = "team4": nothing was done; '
            'set team = "team3" there, or give TEAM=team4\n'
        )
        assert _state(tree).read_bytes() == deployed


@pytest.mark.parametrize("variable", ["TF_VAR_team", "terraform.tfvars", "x.auto.tfvars"])
def test_the_team_is_the_one_that_terraform_applies(tree: Path, variable: str) -> None:
    """Values from elsewhere, which Terraform ranks below the team's own file, change nothing."""
    if variable.endswith("tfvars"):
        (tree / "terraform" / variable).write_text('team = "team4"\n')
    process = _run(
        tree, "sh", "scripts/deploy.sh", "team3", IMAGE="x/y:z", APPROVE="team3", TF_VAR_team="team4"
    )
    assert process.returncode == 0, process.stderr
    assert b'"team3"' in _state(tree).read_bytes()
    assert b"team4" not in _state(tree).read_bytes()


def test_a_variable_of_an_earlier_version_stops_the_deployment(tree: Path) -> None:
    """Terraform only warns of it, and would apply without its value."""
    tfvars = tree / "terraform" / "teams" / "team3.tfvars"
    tfvars.write_text(
        tfvars.read_text() + 'kms_key_arn = "arn:aws:kms:us-east-1:1:key/a"\nalarm_email = "a@b.c"\n'
    )
    process = _run(tree, "sh", "scripts/deploy.sh", "team3", APPROVE="team3")
    assert process.returncode != 0
    assert (
        "are not variables of this version: alarm_email kms_key_arn; terraform/README.md lists them"
        in process.stderr
    )
    assert not _state(tree).exists()


@pytest.mark.parametrize("script", ["deploy", "plan"])
def test_a_misspelt_name_in_a_group_stops_the_deployment(tree: Path, script: str) -> None:
    """Terraform would drop it without a word."""
    tfvars = tree / "terraform" / "teams" / "team3.tfvars"
    tfvars.write_text(
        tfvars.read_text() + 'inference = { architecture = "x86_64", memroy_mb = 4096 }\n'
        "storage = { delete_result_on_destroy = true }\n"
        'rendezvous = { limits = { pairs = 3 } }\ntags = { owner = "me" }\n'
    )
    (tree / "terraform" / "more.tf").write_text(
        'variable "tags" { default = {} }\nvariable "rendezvous" {\n  type = object({ limits = '
        "optional(object({ relays = optional(number, 9) }), {}) })\n  default = {}\n}\n"
    )
    process = _run(tree, "sh", f"scripts/{script}.sh", "team3", APPROVE="team3")
    assert process.returncode != 0
    names = "version: inference.memroy_mb rendezvous.limits.pairs storage.delete_result_on_destroy; "
    assert names in process.stderr
    assert not _state(tree).exists()


def test_destroy_without_the_tfvars_says_what_is_missing(tree: Path) -> None:
    _state(tree).parent.mkdir(parents=True)
    _state(tree).write_text("{}")
    (tree / "terraform" / "teams" / "team3.tfvars").unlink()
    process = _run(tree, "sh", "scripts/destroy.sh", "team3", APPROVE="team3")
    assert process.returncode == 1
    assert process.stderr.startswith("error: terraform/teams/team3.tfvars is missing")


@pytest.mark.parametrize("fault", ["another hash", "no lock"])
def test_a_provider_that_is_not_locked_is_not_started(tree: Path, fault: str) -> None:
    """With the real Terraform and the real provider, from a mirror or the registry."""
    (tree / "terraform" / "versions.tf").write_text((ROOT / "terraform" / "versions.tf").read_text())
    (tree / "terraform" / "more.tf").write_text(
        'variable "s3_use_path_style" { default = false }\nvariable "tags" { default = {} }\n'
    )
    lock = (ROOT / "terraform" / ".terraform.lock.hcl").read_text()
    if fault == "another hash":
        wrong = re.sub(r"(?<=:)[^:\n]{8}(?=[^:\n]{30,}\",)", "AAAAAAAA", lock)
        assert wrong.count("AAAAAAAA") == lock.count('"h1:') + lock.count('"zh:') > 15
        (tree / "terraform" / ".terraform.lock.hcl").write_text(wrong)
    mirror = plugin_dir(os.environ)
    named = {"TF_CLI_ARGS_init": "-no-color", **({PLUGIN_DIR_VARIABLE: str(mirror)} if mirror else {})}
    process = _run(tree, "sh", "scripts/deploy.sh", "team3", IMAGE="x/y:z", APPROVE="team3", **named)
    assert process.returncode != 0
    message = re.sub(r"[\s│╷╵]+", " ", process.stderr)
    assert ("any of the checksums" if fault == "another hash" else "the lock file is read-only") in message
    assert not _state(tree).exists()


def test_a_comment_is_no_part_of_a_value(tree: Path) -> None:
    """With the real Terraform as the reader of a tfvars file that is full of quotation marks."""
    (tree / "terraform" / "teams" / "team3.tfvars").write_text(
        """team = "team3" # not "team4"
        # image = { variant = "torch" }
        image = {
          variant = "lean" // was "torch", see "notes"
          /* extra_packages = ["evil==1"] */
          extra_packages = [ # "none"
            "six==1.17.0", # "$(touch PWNED)"
          ]
        }
        /* inference = { architecture = "arm64" } */
        inference = { architecture = "x86_64" } # "arm64"
        """
    )
    python = sys._base_executable  # type: ignore[attr-defined]
    process = _run(tree, "sh", "scripts/deploy.sh", "team3", APPROVE="team3", PYTHON=python)
    assert process.returncode == 0, process.stderr
    calls = _calls(tree)
    assert "imageTag=" in calls
    assert "-lean" in calls
    assert list(tree.rglob("PWNED")) == []
    answer = '[ "$2" != describe-images ] || { echo ImageNotFoundException >&2; exit 1; }\n'
    (tree.parent / "tools" / "aws").write_text(_RECORD + answer)
    process = _run(tree, "sh", "scripts/deploy.sh", "team3", APPROVE="team3", PYTHON=python)
    assert process.returncode == 0, process.stderr
    assert "--platform linux/amd64" in _calls(tree)
    assert "--build-arg VARIANT=lean --build-arg EXTRA_PACKAGES=six==1.17.0 -t" in _calls(tree)


@pytest.mark.parametrize(
    "package", ["six==1 $(touch PWNED)", 'a\\"b==1', "six==1; touch PWNED", "--index-url=x"]
)
def test_a_value_that_is_no_package_stops_the_deployment(tree: Path, package: str) -> None:
    (tree / "terraform" / "teams" / "team3.tfvars").write_text(
        f'team = "team3"\nimage = {{ extra_packages = ["{package}"] }}\n'
    )
    python = sys._base_executable  # type: ignore[attr-defined]
    process = _run(tree, "sh", "scripts/deploy.sh", "team3", APPROVE="team3", PYTHON=python)
    assert process.returncode != 0
    assert not _state(tree).exists()
    assert list(tree.rglob("PWNED")) == []


def test_clean_keeps_the_state_of_deployments(tree: Path) -> None:
    names = ("team3.tfstate", "team3.tfstate.backup", "team4.outputs.json", "team3/terraform.tfstate")
    kept = {f".cosmicai/terraform/{name}" for name in names}
    gone = {".cosmicai/cache/x", ".cosmicai/local/log", ".venv/x", "build/x", "results/x"}
    for name in kept | gone:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    process = _run(tree, "make", "clean")
    assert process.returncode == 0, process.stderr
    assert {name for name in kept | gone if (tree / name).exists()} == kept
    assert all((tree / name).read_text() == name for name in kept)
    assert process.stdout == "kept: .cosmicai/terraform, the state of what is deployed on AWS\n"


def test_clean_does_not_pull_the_ground_from_under_a_running_aws(tree: Path) -> None:
    running = tree / ".venv" / "bin" / "cosmicai"
    running.parent.mkdir(parents=True)
    running.write_text("#!/bin/sh\n")
    running.chmod(0o755)
    process = _run(tree, "make", "clean")
    assert process.returncode != 0
    assert "stop it first with .venv/bin/cosmicai local down" in process.stderr
    assert running.exists()
