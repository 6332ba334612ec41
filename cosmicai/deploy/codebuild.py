"""Builds the inference image in the deployment's AWS CodeBuild project, and shows the build's log.

scripts/deploy.sh calls it if the image is not built by Docker. Like that script, it needs only the standard
library and the aws command line. See `python -m cosmicai.deploy.codebuild --help`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmicai.deploy.commandline import Ask, AskError, by_command_line
from cosmicai.deploy.context import write_context
from cosmicai.printable import printable

_CONTEXTS = ".cosmicai/build"  # in the bucket, as terraform/modules/image_builder allows its role
_PAUSE_SECONDS = 3.0
_QUOTA = (
    "the account may run no build of this kind: ask for one in the console under Service Quotas, AWS "
    "CodeBuild, Concurrently running builds for ARM/Small (arm64) or Linux/Small (x86_64), or use Docker"
)


class BuildError(RuntimeError):
    """The image was not built; the message is the build's own, and says where its log is."""


@dataclass(frozen=True)
class Order:
    """What to build. image: URI that it is pushed to. packages: extra packages, separated by spaces."""

    region: str
    project: str
    bucket: str
    image: str
    architecture: str
    variant: str
    packages: str

    def variables(self, context: str) -> dict[str, str]:
        """The variables of the buildspec. context: URI of the build context in S3."""
        platform = "linux/arm64" if self.architecture == "arm64" else "linux/amd64"
        return {
            "CONTEXT": context, "IMAGE": self.image, "PLATFORM": platform, "VARIANT": self.variant,
            "EXTRA_PACKAGES": self.packages,
        }  # fmt: skip


def build(
    order: Order, root: Path, ask: Ask, say: Callable[[str], object], pause: float = _PAUSE_SECONDS
) -> None:
    """Uploads the context of the project's root, builds the image, and deletes the context.

    say: called with each line of the log. If this is interrupted, or can no longer follow the build, it stops
    the build. Raises BuildError, and AskError for what AWS refuses.
    """
    key = f"{_CONTEXTS}/{uuid.uuid4()}.tar.gz"
    place = ["--bucket", order.bucket, "--key", key]
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "context.tar.gz")
        with archive.open("wb") as file:
            write_context(root, file)
        say(f"uploading the build context, {archive.stat().st_size / 1e6:.1f} MB, to s3://{order.bucket}/{key}")
        try:
            ask("s3api", "put-object", *place, "--body", str(archive))
            _run(order, f"s3://{order.bucket}/{key}", ask, say, pause)
        finally:
            try:
                ask("s3api", "delete-object", *place)
            except AskError as error:  # a day later the bucket deletes it
                say(f"the build context was not deleted from s3://{order.bucket}/{key}: {error}")


def _run(order: Order, context: str, ask: Ask, say: Callable[[str], object], pause: float) -> None:
    variables = [
        {"name": name, "value": value, "type": "PLAINTEXT"} for name, value in order.variables(context).items()
    ]
    start = ["codebuild", "start-build", "--project-name", order.project]
    build_id = ""
    try:
        build_id = ask(*start, "--environment-variables-override", json.dumps(variables))["build"]["id"]
        say(f"building {order.image} in {build_id}; Ctrl-C stops it")
        ended = _followed(build_id, ask, say, pause)
    except BaseException as error:
        if "AccountLimitExceeded" in str(error):
            raise BuildError(f"{error}: {_QUOTA}") from None
        _stop(order, build_id, context, ask, say)
        raise
    if ended["buildStatus"] != "SUCCEEDED":
        raise BuildError(_reason(ended))


def _stop(order: Order, build_id: str, context: str, ask: Ask, say: Callable[[str], object]) -> None:
    """Says what became of the build. build_id: empty, if AWS did not answer whether it started one."""
    try:
        build_id = build_id or _build_of(order.project, context, ask)
        if build_id:
            ask("codebuild", "stop-build", "--id", build_id)
            say(f"stopped {build_id}")
    except AskError as error:
        command = f"aws codebuild stop-build --region {order.region} --id {build_id or 'ID'}"
        listing = (
            f"aws codebuild list-builds-for-project --region {order.region} --project-name {order.project}"
        )
        known = build_id or f"a build of {order.project} (its id is in the output of: {listing})"
        say(f"{known} may still be running, and cost money, since it could not be stopped: {error}")
        say(f"stop it by: {command}")


def _build_of(project: str, context: str, ask: Ask) -> str:
    """Id of the build of this context, empty if there is none. The newest builds come first."""
    newest = ask("codebuild", "list-builds-for-project", "--project-name", project)["ids"][:10]
    builds = ask("codebuild", "batch-get-builds", "--ids", *newest)["builds"] if newest else []
    for build in builds:
        if {"CONTEXT": context}.items() <= {
            one["name"]: one["value"] for one in build["environment"].get("environmentVariables", [])
        }.items():
            return str(build["id"])
    return ""


def _followed(build_id: str, ask: Ask, say: Callable[[str], object], pause: float) -> dict[str, Any]:
    """The build once it has ended; all lines of its log have been passed to `say`."""
    log, parent = _Log(ask), os.getppid()
    while True:
        if os.getppid() != parent:
            raise BuildError("deploy.sh ended before the build, so nothing would deploy the image")
        now: dict[str, Any] = ask("codebuild", "batch-get-builds", "--ids", build_id)["builds"][0]
        has_ended = now["buildStatus"] != "IN_PROGRESS"
        if has_ended:
            time.sleep(pause)  # the last lines come later than the end
        for line in log.news(now.get("logs", {})):
            say(printable(line.rstrip("\r\n")))
        if has_ended:
            return now
        time.sleep(pause)


class _Log:
    """A build's log; each line is returned once."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._token = ask, ""

    def news(self, log: dict[str, str]) -> Iterator[str]:
        """What was added since the last call. log: where it is, by the build's record."""
        if not log.get("streamName"):
            return  # the build still waits for a machine
        query = ["logs", "get-log-events", "--log-group-name", log["groupName"]]
        query += ["--log-stream-name", log["streamName"], "--start-from-head"]
        at_end = False
        while not at_end:
            try:
                page = self._ask(*query, *(["--next-token", self._token] if self._token else []))
            except AskError as error:
                if "ResourceNotFoundException" in str(error):
                    return  # nothing was written yet
                raise
            at_end = page["nextForwardToken"] == self._token
            self._token = page["nextForwardToken"]
            yield from (event["message"] for event in page["events"])


def _reason(ended: dict[str, Any]) -> str:
    """Why a build failed, in the words of its first failed phase."""
    log = ended.get("logs", {})
    where = f"the log is above, and in CloudWatch: {log.get('groupName')}, {log.get('streamName')}"
    failed = (one for one in ended.get("phases", []) if one.get("phaseStatus") not in (None, "SUCCEEDED"))
    messages = [
        f"phase {phase['phaseType']}: {context['message']}"
        for phase in failed
        for context in phase.get("contexts", [])
        if context.get("message")
    ]
    words = printable(messages[0]) if messages else f"it ended as {ended['buildStatus']}"
    return f"the image was not built in {ended['id']}: {words}; {where}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name in ("region", "project", "bucket", "image", "architecture", "variant"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--packages", default="", help="extra packages of the image, separated by spaces")
    order = Order(**vars(parser.parse_args()))
    for number in (signal.SIGTERM, signal.SIGHUP):  # a CI system that cancels, a terminal that is closed
        signal.signal(number, lambda which, _: sys.exit(128 + which))
    try:
        build(order, Path(__file__).resolve().parents[2], by_command_line(order.region, os.environ), _say)
    except (AskError, BuildError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted")


def _say(line: str) -> None:
    with contextlib.suppress(
        OSError
    ):  # nobody reads, or the terminal is closed: build, or stop the build, all the same
        print(line, flush=True)


if __name__ == "__main__":
    main()
