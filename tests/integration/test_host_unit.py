"""The rendezvous host as it boots on EC2: its real user data, under a real systemd, in a container.

The container's root is this machine's, with changes in memory alone. What differs from EC2: the distribution,
its Python, the version of the AWS CLI, and credentials from the environment instead of the instance.
"""

from __future__ import annotations

import base64
import gzip
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from cosmicai.deploy.terraform import emulated_variables
from cosmicai.emulator import Emulator
from cosmicai.packaging.places import FUNCTIONS
from rendezvous.contract.host import NotHealthy, health

sys.path.append(str(FUNCTIONS / "inference"))
import fmi

from tests.unit.fmi_ranks import together

from .conftest import deployed

PORT = 10_007
LIMIT = 3_000_000
BUCKET = "booted-cosmicai"
UNIT = "/etc/systemd/system/rendezvous.service"
SERVER = "/opt/rendezvous/server.py"

_ENDS = "import sys; sys.exit({})\n"
# $1: the folder with files to lay into the root. Mounts end with this shell.
_BOOT = """
mount -t tmpfs tmpfs "$1/memory" && mkdir "$1/memory/upper" "$1/memory/work" "$1/memory/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/memory/upper,workdir=$1/memory/work" "$1/memory/root"
cp -r "$1/files/." "$1/memory/root/"
exec systemd-nspawn --quiet --boot --register=no --keep-unit --directory="$1/memory/root" \
  --machine="$2" --bind-ro="$3:/opt/aws-cli" systemd.unit=rendezvous.service
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("systemd-nspawn"),
    reason="a boot needs root on Linux, and the package systemd-container",
)


@pytest.fixture(scope="module")
def user_data(aws: Emulator) -> bytes:
    """What EC2 gives the host when it boots."""
    settings = {"address": None, "port": PORT, "limits": {"relay_bytes": LIMIT}}
    deployed(aws, "booted", emulated_variables("booted", aws, rendezvous=settings))
    ec2 = aws.client("ec2")
    names = [{"Name": "tag:Name", "Values": [f"{BUCKET}-rendezvous-host"]}]
    (instance,) = ec2.describe_instances(Filters=names)["Reservations"][0]["Instances"]
    attribute = ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
    return base64.b64decode(attribute["UserData"]["Value"])


@pytest.fixture(scope="module")
def cloud_config(user_data: bytes) -> bytes:
    """The user data, unpacked."""
    return gzip.decompress(user_data)


@pytest.fixture(scope="module")
def files(cloud_config: bytes) -> dict[str, bytes]:
    """What cloud-init writes on the host, by path."""
    return {file["path"]: _content(file) for file in yaml.safe_load(cloud_config)["write_files"]}


def _content(file: dict[str, Any]) -> bytes:
    """By cloud-init's rules (https://cloudinit.readthedocs.io/en/latest/reference/modules.html#write-files)."""
    content = str(file["content"]).encode()
    return gzip.decompress(base64.b64decode(content)) if file.get("encoding") == "gz+b64" else content


@pytest.fixture
def boot(aws: Emulator, tmp_path: Path) -> Iterator[Callable[[dict[str, bytes]], subprocess.Popen[bytes]]]:
    """Boots a host with these files; what systemd and the server say is in tmp_path/console."""
    containers: list[subprocess.Popen[bytes]] = []
    lines = [f"Environment={name}={value}" for name, value in aws.environment.items()]
    account = "\n".join(["[Service]", *lines, ""]).encode()
    more = {
        f"{UNIT}.d/account.conf": account,
        "/usr/bin/aws": b'#!/bin/sh\nPYTHONPATH=/opt/aws-cli exec /usr/bin/python3 -m awscli "$@"\n',
    }

    def start(files: dict[str, bytes]) -> subprocess.Popen[bytes]:
        (tmp_path / "memory").mkdir()
        for path, content in (files | more).items():
            file = tmp_path / "files" / path[1:]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o755)
        packages = next(path for path in sys.path if path.endswith("site-packages"))
        command = ["unshare", "--mount", "sh", "-c", _BOOT, "sh"]
        command += [str(tmp_path), f"host-{os.getpid()}", packages]
        with (tmp_path / "console").open("wb") as console:
            containers.append(
                subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
            )
        return containers[-1]

    yield start
    for container in containers:
        if container.poll() is None:
            container.terminate()
        with suppress(subprocess.TimeoutExpired):
            container.wait(30)
        container.kill()
        container.wait()


def until(condition: Callable[[], Any], folder: Path, seconds: float = 120) -> Any:
    """What the condition gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        console = (folder / "console").read_text(errors="replace")
        assert time.monotonic() < deadline, console[-3000:]
        time.sleep(0.2)
    return value


def test_ec2_and_cloud_init_can_take_the_user_data(user_data: bytes, cloud_config: bytes) -> None:
    assert len(user_data) <= 16_384
    assert cloud_config.startswith(b"#cloud-config\n")


@pytest.mark.skipif(not shutil.which("cloud-init"), reason="cloud-init is a package of its own")
def test_cloud_init_takes_the_user_data(cloud_config: bytes, tmp_path: Path) -> None:
    (tmp_path / "user-data").write_bytes(cloud_config)
    check = ["cloud-init", "schema", "--config-file", str(tmp_path / "user-data")]
    process = subprocess.run(check, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert "Valid" in process.stdout


def test_a_small_machine_installs_nothing_when_it_boots(cloud_config: bytes) -> None:
    """dnf alone needs more memory than a t4g.nano has free."""
    commands = yaml.safe_load(cloud_config)["runcmd"]
    assert commands == ["systemctl daemon-reload", "systemctl enable --now rendezvous.service"]


def test_the_host_boots_publishes_its_key_and_relays(
    aws: Emulator,
    files: dict[str, bytes],
    boot: Callable[[dict[str, bytes]], subprocess.Popen[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With all of its hardening. When its server is killed, it powers off."""
    monkeypatch.setattr("fmi.direct.PUNCH_SECONDS", 0.3)
    monkeypatch.setattr("fmi.punching._dialled", lambda own, address: None)
    s3 = aws.client("s3")

    def published() -> bytes:
        try:
            body: bytes = s3.get_object(Bucket=BUCKET, Key=".cosmicai/relay-key")["Body"].read()
        except s3.exceptions.NoSuchKey:
            return b""
        return body

    def healthy() -> Any:
        with suppress(NotHealthy):
            return health(f"127.0.0.1:{PORT}")

    def sums_and_relayed() -> tuple[list[Any], list[bool]]:
        ranks = [fmi.Direct(rank, 2, "boot-", "127.0.0.1", PORT, b"s", published) for rank in range(2)]
        sums = together(ranks, lambda group: float(group.allreduce(np.ones(1000), np.add).sum()), 60)
        return sums, [bool(rank.statistics.relayed) for rank in ranks]

    s3.delete_object(Bucket=BUCKET, Key=".cosmicai/relay-key")  # the emulator's own host is not meant here
    container = boot(files)
    assert until(healthy, tmp_path)["relaying"]
    first = until(published, tmp_path)
    assert len(first) == 32
    assert sums_and_relayed() == ([2000.0, 2000.0], [True, True])
    server = _process()
    uids = server.uids()
    assert uids.real == uids.effective >= 61_184  # a dynamic user (systemd.exec(5), DynamicUser=)
    status = Path(f"/proc/{server.pid}/status").read_text()
    assert "CapBnd:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    assert f"--relay-bytes {LIMIT}" in " ".join(server.cmdline())
    log = (tmp_path / "console").read_text(errors="replace")
    assert '"message": ' in log  # `aws ec2 get-console-output` shows the server's own lines
    assert "Traceback" not in log
    assert first.hex() not in log
    assert base64.b64encode(first).decode() not in log
    server.send_signal(signal.SIGKILL)
    until(lambda: container.poll() is not None, tmp_path)
    assert container.returncode == 0


def _process() -> psutil.Process:
    """The server in the container, as this machine sees it."""
    (server,) = (one for one in psutil.process_iter(["cmdline"]) if SERVER in (one.info["cmdline"] or ()))
    return server


@pytest.mark.parametrize("status", [0, 1])
def test_a_host_whose_server_ends_powers_off(
    files: dict[str, bytes],
    boot: Callable[[dict[str, bytes]], subprocess.Popen[bytes]],
    tmp_path: Path,
    status: int,
) -> None:
    """Whether it ended well or could not be started."""
    container = boot(files | {SERVER: _ENDS.format(status).encode()})
    until(lambda: container.poll() is not None, tmp_path)
    console = (tmp_path / "console").read_text(errors="replace")
    assert "Power" in console
    assert container.returncode == 0, console[-2000:]


def test_a_host_that_cannot_publish_its_key_pairs_all_the_same(
    files: dict[str, bytes],
    boot: Callable[[dict[str, bytes]], subprocess.Popen[bytes]],
    tmp_path: Path,
) -> None:
    """No key can be made either: there is no random device."""
    unit = files[UNIT].replace(b"/dev/urandom", b"/dev/nothing").replace(b"--bucket ", b"--bucket no-such-")
    boot(files | {UNIT: unit})

    def healthy() -> Any:
        with suppress(NotHealthy):
            return health(f"127.0.0.1:{PORT}")

    assert until(healthy, tmp_path)["relaying"] is False
    ranks = [fmi.Direct(rank, 2, "boot-", "127.0.0.1", PORT, b"s") for rank in range(2)]
    assert together(ranks, lambda group: group.barrier(), 60) == [None, None]
