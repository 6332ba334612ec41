"""Zips are reproducible, folders self-contained, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import distributions
from importlib.util import cache_from_source
from pathlib import Path

import pytest
import ziglang

from cosmicai.packaging import assembly, packages, places
from cosmicai.packaging.packages import NO_EXTRAS, ExtraPackages, PackagingError
from cosmicai.packaging.places import FUNCTIONS, ROOT, BuildFolder


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = BuildFolder(tmp_path / "a"), BuildFolder(tmp_path / "b")
    assembly.package(first)
    assembly.package(second)
    for function in places.ZIP_CONTENT:
        assert first.zip_file(function).read_bytes() == second.zip_file(function).read_bytes()


def test_processes_that_package_at_once_do_not_meet(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cosmicai.packaging import assembly, places\n"
        "for _ in range(12): assembly.package(places.BuildFolder(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[1] for process in started] == [""] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{f}.zip" for f in places.ZIP_CONTENT)


def test_zips_hold_their_folder_and_what_they_name(tmp_path: Path) -> None:
    build = BuildFolder(tmp_path)
    assembly.package(build)
    with zipfile.ZipFile(build.zip_file("initialize")) as archive:
        names = archive.namelist()
        assert "initialize/handler.py" in names
        assert archive.read("initialize/payload.schema.json") == places.SCHEMA.read_bytes()
    with zipfile.ZipFile(build.zip_file("summarize")) as archive:
        one_definition = (FUNCTIONS / "contract" / "accuracy.py").read_bytes()
        assert archive.read("summarize/contract/accuracy.py") == one_definition


@pytest.mark.parametrize("function", ["initialize", "rendezvous", "summarize"])
def test_zip_functions_need_the_standard_library_and_boto3_alone(function: str) -> None:
    for path in (*(FUNCTIONS / function).glob("*.py"), *(FUNCTIONS / "contract").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            roots = {name.partition(".")[0] for name in names}
            assert roots <= {*sys.stdlib_module_names, "boto3", "botocore", "urllib3"}, (
                f"{path.name} imports {roots}"
            )


@pytest.mark.parametrize("function", ["initialize", "inference", "rendezvous", "summarize"])
def test_no_function_imports_from_outside_its_own_folder(function: str) -> None:
    others = {"cosmicai", "initialize", "inference", "summarize"}
    for path in (FUNCTIONS / function).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert (node.module or "").partition(".")[0] not in others, path
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1 and path.parent.name == function)


def test_the_handler_starts_without_large_packages_in_the_assembled_task_folder(build: BuildFolder) -> None:
    """Runs in the same folder and interpreter as the embedded AWS, apart from this environment's packages."""
    code = (
        "import inference.handler, sys, numpy;"
        "print(numpy.__file__, *{'torch', 'rich', 'boto3', 'botocore', 'urllib3'} & set(sys.modules));"
        "import importlib.util as u; print(u.find_spec('rich'), u.find_spec('torch'));"
        "print(*inference.handler._sandbox._models)"
    )
    folder = build.images / "inference"
    keys = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token"}
    environment = {**keys, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1769", "AWS_REGION": "us-east-1"}
    process = subprocess.run(
        [build.python / "bin" / "python", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    imported, specs, *_ = process.stdout.splitlines()
    assert imported.startswith(str(folder))
    assert " " not in imported  # no package is named after numpy's file
    assert specs == "None None"
    assert "engine='onnxruntime'" in process.stdout  # loaded in the init phase, before any event


def test_the_image_holds_the_bytecode_of_its_modules(build: BuildFolder) -> None:
    """On Lambda nothing can be written beside them, so each cold start would compile them all."""
    modules = sorted((build.image("lean") / "inference").rglob("*.py"))
    flags = {Path(cache_from_source(str(module))).read_bytes()[4:8] for module in modules}
    assert "rank.py" in {module.name for module in modules}
    assert flags == {b"\x01\0\0\0"}  # used whatever the source's time is (PEP 552)


def test_the_image_is_assembled_by_the_same_steps_as_the_task_folder(
    build: BuildFolder, tmp_path: Path
) -> None:
    """What the Dockerfile copies is enough for its steps, and they give the same files as the embedded AWS."""
    lines = (ROOT / "docker" / "inference.Dockerfile").read_text().splitlines()
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    for source in (name for names in copied for name in names):
        assert any(source == one or source.startswith(f"{one}/") for one in sent), (
            f"{source} is not sent to Docker"
        )
        target = tmp_path / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(ROOT / source, target)
    steps = [line.partition("python -m ")[2].split()[:3] for line in lines if "python -m " in line]
    assert steps == [
        ["cosmicai.packaging", "packages", "/task"],
        ["cosmicai.packaging", "extra", "/task"],
        ["pip", "install", "--quiet"],
        ["cosmicai.packaging", "code", "/code"],
    ]
    for compiled in (tmp_path / "functions" / "inference" / "engine" / "kernels").glob("*.so"):
        compiled.unlink()  # a fresh clone has none
    compiler = tmp_path / "compiler"  # all that functions/build-requirements.lock names
    compiler.mkdir()
    (compiler / "ziglang").symlink_to(Path(ziglang.__file__).parent)
    bare = [str(build.python / "bin" / "python"), "-m", "cosmicai.packaging"]
    environment = {**os.environ, "PYTHONPATH": str(compiler)}
    subprocess.run([*bare, "code", "out"], cwd=tmp_path, env=environment, check=True)
    ours, theirs = (_content(folder / "inference") for folder in (build.images / "inference", tmp_path / "out"))
    assert ours == theirs
    kernels = f"engine/kernels/{platform.machine()}.so"
    assert {"models/dc2-small/model.safetensors", "models/dc2-small/model.onnx.weights", kernels} <= set(ours)


_ENTRY = re.compile(
    r"^([a-z0-9.-]+)==(\S+)(?: ; .*?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE
)
_ALL_LOCKS = {
    *(lock for locks in places.LOCKS.values() for lock in locks),
    places.RUNTIME_LOCK,
    places.COMPILER_LOCK,
}


def _locked(locks: Iterable[Path]) -> set[str]:
    entries = (entry for lock in locks for entry in _ENTRY.findall(lock.read_text()))
    return {f"{name}=={version.partition('+')[0]}" for name, version, _ in entries}


@pytest.mark.parametrize("lock", sorted(_ALL_LOCKS), ids=lambda lock: lock.name)
def test_a_lock_holds_hashes_of_the_projects_versions(lock: Path) -> None:
    """And nothing besides: every line is a comment, an index, or part of an entry with a hash."""
    rest = _ENTRY.sub("", lock.read_text())
    assert all(line.startswith(("#", "--extra-index-url https://")) for line in rest.splitlines() if line)
    ours = {line.lower().replace("_", "-") for line in (ROOT / "requirements.lock").read_text().splitlines()}
    torch_needs = (FUNCTIONS / "inference" / "requirements-torch.txt").read_text()
    ours |= set(re.findall(r"^setuptools==\S+", torch_needs, re.MULTILINE))
    others = {one.partition("==")[0] for one in _locked([lock]) - ours}
    if lock in places.LOCKS["cuda"]:  # another version of torch, and what its build for CUDA needs
        others -= {
            name for name in others if name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-"))
        }
    assert not others, "run `python scripts/lock.py`"


def test_the_lock_for_cuda_has_torch_of_pypi_for_cuda_12() -> None:
    locked = _locked(places.LOCKS["cuda"])
    requirements = (FUNCTIONS / "inference" / "requirements-cuda.txt").read_text()
    assert set(re.findall(r"^torch==\S+", requirements, re.MULTILINE)) <= locked
    assert any(one.startswith("nvidia-cuda-runtime-cu12==12.") for one in locked)
    assert "index" not in places.LOCKS["cuda"][0].read_text()


@pytest.mark.parametrize("variant", ["lean", "torch"])
def test_an_image_holds_what_its_locks_name(request: pytest.FixtureRequest, variant: str) -> None:
    build: BuildFolder = request.getfixturevalue("build" if variant == "lean" else "torch_build")
    installed = distributions(path=[str(build.image(variant))])
    names = {f"{one.name.lower().replace('_', '-')}=={one.version.partition('+')[0]}" for one in installed}
    assert names == _locked(places.LOCKS[variant])


def test_every_package_that_a_function_names_is_locked() -> None:
    named = {
        "requirements.txt": places.LOCKS["lean"],
        "requirements-torch.txt": places.LOCKS["torch"],
        "requirements-cuda.txt": places.LOCKS["cuda"],
    }
    for file, locks in named.items():
        lines = (FUNCTIONS / "inference" / file).read_text().splitlines()
        names = {line.partition("==")[0] for line in lines if line[0] not in "#-"}
        assert names <= {entry.partition("==")[0] for entry in _locked(locks)}


@pytest.mark.parametrize(
    "package",
    ["timm", "timm==", "timm>=0.4", "timm==0.4.*", "timm===0.4", "timm==0.4;x", "timm==0.4 --no-dep", "-e==1",
     "--index-url=http://x", "a b==1", "https://example.org/x.whl", "x@git==1", "timm==0.4\n", "$(id)==1", "",
     "timm==0.4 --hash=md5:0", "timm==0.4 --hash=sha256:0", f"timm==0.4 --hash=sha256:{'0' * 64} --no-deps",
     f"timm==0.4  --hash=sha256:{'0' * 64}", f"--hash=sha256:{'0' * 64}"],
)  # fmt: skip
def test_an_extra_package_is_a_name_and_one_version(package: str) -> None:
    with pytest.raises(PackagingError, match=r"is not allowed: give a package of PyPI and one version"):
        ExtraPackages((package,))


def test_extra_packages_are_named_once_and_change_the_image() -> None:
    with pytest.raises(PackagingError, match="name each package once"):
        ExtraPackages(("Ruamel.yaml==0.18.10", "ruamel-yaml==0.18.6"))
    packages = ExtraPackages.parse("timm==0.4.12 --no-deps einops==0.8.1")
    assert packages == ExtraPackages(("timm==0.4.12 --no-deps", "einops==0.8.1"))
    assert packages.versions(no_deps=True) == {"timm": "0.4.12"}
    assert packages.versions(no_deps=False) == {"einops": "0.8.1"}
    digest = f"--hash=sha256:{'0' * 64}"
    with_hashes = ExtraPackages.parse(f"timm==0.4.12 --no-deps {digest} {digest} six==1.17.0 {digest}")
    assert with_hashes.packages == (f"timm==0.4.12 --no-deps {digest} {digest}", f"six==1.17.0 {digest}")
    assert with_hashes.hashes() == {"timm": (digest, digest), "six": (digest,)}
    assert with_hashes.versions(no_deps=True) == {"timm": "0.4.12"}
    tags = {assembly.image_tag(one) for one in (NO_EXTRAS, packages, ExtraPackages.parse("einops==0.8.1"))}
    assert len(tags) == 3
    assert assembly.image_tag(ExtraPackages.parse("")) == assembly.image_tag()


def test_extra_packages_lie_beside_the_images_own(tmp_path: Path) -> None:
    """Real packages of PyPI: networkx alone, and python-dateutil with what it needs, of which six is there."""
    base, folder = tmp_path / "inference", tmp_path / "inference-more"
    (base / "inference").mkdir(parents=True)
    (base / "inference" / "handler.py").write_text("ours")
    (base / ".code").write_text("code")
    (base / ".requirements").write_text("base")
    (base / "six.py").write_text("the image's own")
    (base / "six-1.16.0.dist-info").mkdir()
    (base / "six-1.16.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: six\nVersion: 1.16.0\n"
    )
    extra = ExtraPackages(("networkx==3.4.2 --no-deps", "python-dateutil==2.9.0.post0"))
    assembly._extend(base, folder, extra)
    installed = {one.name.lower(): one.version for one in distributions(path=[str(folder)])}
    assert installed == {"networkx": "3.4.2", "python-dateutil": "2.9.0.post0", "six": "1.16.0"}
    assert (folder / "six.py").read_text() == "the image's own"
    assert not (folder / "inference").exists()  # copy_code adds it
    assert sorted(path.name for path in base.iterdir()) == [
        ".code", ".requirements", "inference", "six-1.16.0.dist-info", "six.py",
    ]  # fmt: skip
    (folder / "kept").touch()
    assembly._extend(base, folder, extra)
    assert (folder / "kept").exists()  # nothing is done twice
    (base / ".requirements").write_text("another base")
    assembly._extend(base, folder, extra)
    assert not (folder / "kept").exists()


@pytest.mark.parametrize(
    ("package", "fault"),
    [
        ("numpy==1.26.4", "the image has numpy 2.4.6 and was tested with it; leave yours out"),
        (
            "accelerate==1.13.0",
            'torch is needed, which the lean image does not have; choose the image variant "torch"',
        ),
        ("cosmicai-no-such-package==1.0", "pip could not install cosmicai-no-such-package==1.0"),
    ],
)
def test_extra_packages_that_cannot_be_had_are_refused(tmp_path: Path, package: str, fault: str) -> None:
    metadata = tmp_path / "task" / "numpy-2.4.6.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.4.6\n")
    with pytest.raises(PackagingError, match=re.escape(fault)):
        packages.install_extra(tmp_path / "task", ExtraPackages((package,)))


def test_a_package_whose_dependencies_depend_on_the_machine_is_refused_for_another(tmp_path: Path) -> None:
    """pip would take those of the machine that builds."""
    other = {"x86_64": "aarch64"}.get(platform.machine(), "x86_64")
    message = (
        f"sqlalchemy==2.0.36: what it needs depends on the machine .*greenlet.* the image for {other} is built"
    )
    (tmp_path / "task").mkdir()
    with pytest.raises(PackagingError, match=message):
        packages.install_extra(tmp_path / "task", ExtraPackages(("sqlalchemy==2.0.36",)), other)
    alone = ExtraPackages(("sqlalchemy==2.0.36 --no-deps", "simplejson==3.19.3"))
    packages.install_extra(tmp_path / "task", alone, other)
    (library,) = (tmp_path / "task" / "simplejson").glob("*.so")
    assert library.name.endswith(f"-{other}-linux-gnu.so")


def _content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
