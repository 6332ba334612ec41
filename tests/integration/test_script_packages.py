"""A user's own script with packages of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from cosmicai.deploy.target import local_target

from .test_cli import COSMICAI
from .test_scripts import FOLDER, SCRIPT, Partitions

_TIMM = """
import json, os
import boto3, timm, torch
from timm.models.vision_transformer import Block, PatchEmbed

torch.manual_seed(int(os.environ["RANK"]))
embed, block = PatchEmbed(32, 8, 5, 16).eval(), Block(16, 2, qkv_bias=True).eval()
with torch.no_grad():
    tokens = embed(torch.randn(3, 5, 32, 32))
    result = block(tokens)
state = {name: tensor.tolist() for name, tensor in block.state_dict().items()}
boto3.client("s3").put_object(
    Bucket=os.environ["S3_BUCKET"], Key=f"{os.environ['RESULT_PATH']}/{os.environ['RANK']}.json",
    Body=json.dumps({"num_samples": 3, "tokens": tokens.tolist(), "result": result.tolist(), "state": state,
                     "timm": timm.__version__}))
"""


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="PyPI has this torchvision for Python up to 3.11")
def test_a_script_with_packages_of_its_own_on_an_embedded_aws_of_its_own(
    partitions: Partitions, tmp_path: Path
) -> None:
    """timm, as historic scripts have it. PyPI's later torchvision is built for CUDA and does not load beside
    the CPU's torch; 0.16 does, though it asks for an older torch."""
    environment = {**os.environ, "COSMICAI_LOCAL": str(tmp_path / "local")}

    def cosmicai(*arguments: str) -> str:
        process = subprocess.run([COSMICAI, *arguments], env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    folder = tmp_path / "partitions"
    folder.mkdir()
    for name, body in partitions(2).items():
        (folder / name).write_bytes(body)
    alone = ["timm==0.4.12 --no-deps", "torchvision==0.16.2 --no-deps"]
    packages = [*alone, "pillow==13.0.0", "requests==2.32.5"]
    chosen = [part for package in packages for part in ("--extra-package", package)]
    try:
        state = json.loads(cosmicai("local", "up", "--image-variant", "torch", *chosen, "--json"))
        assert (state["image_variant"], state["extra_packages"]) == ("torch", packages)
        cosmicai("data", "upload", str(folder), "25MB", "--local")
        s3 = local_target(state).client("s3")
        s3.put_object(Bucket=state["bucket"], Key=f"{FOLDER}/Inference/inference.py", Body=_TIMM.encode())
        payload = {
            "data_prefix": "25MB",
            "result_path": "results/1",
            "S3_object_name": FOLDER,
            "script": SCRIPT,
        }
        (tmp_path / "payload.json").write_text(json.dumps(payload))
        cosmicai("run", str(tmp_path / "payload.json"), "--local", "--name", "timm")
        cosmicai("results", "timm", "--out", str(tmp_path / "out"), "--local")
    finally:
        cosmicai("local", "down")
    for info in json.loads((tmp_path / "out" / "combined_data.json").read_text()):
        weights = {name: torch.tensor(values) for name, values in info["state"].items()}
        expected = _block(torch.tensor(info["tokens"]), weights)
        assert torch.allclose(torch.tensor(info["result"]), expected, atol=1e-5)
        assert (info["timm"], info["num_samples"]) == ("0.4.12", 3)


def _block(tokens: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """A pre-norm transformer block (Dosovitskiy et al. 2021, eqs. 2 and 3) with two heads of eight."""

    def normed(values: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(values, (16,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(values: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    mixed = linear(normed(tokens, "norm1"), "attn.qkv").unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    attended = functional.scaled_dot_product_attention(*mixed.unbind()).transpose(1, 2).flatten(2)
    tokens = tokens + linear(attended, "attn.proj")
    return tokens + linear(functional.gelu(linear(normed(tokens, "norm2"), "mlp.fc1")), "mlp.fc2")
