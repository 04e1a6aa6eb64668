"""``subkern start``: tiny, and once real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.cli import test_finetune_command as tiny
from tests.cli.test_learning_rate_command import _tiny, invoke, on_tiny, refusal

__all__ = ["_tiny"]

LINE = "lora:r=2,targets=attention"


def command(out: Path, *more: object) -> list[object]:
    words = ("start", "--model", "tiny", "--task", "SST-2", "--subspace", LINE, "--batch-size", 3)
    return [*words, "--method", "eva", "--out", out, *more]


@on_tiny
@pytest.mark.parametrize("method", ["eva", "lora-ga"])
def test_what_it_writes_is_a_subspace_of_other_commands(method: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "start.safetensors"
    result = invoke(*command(out, "--method", method))
    assert result.exit_code == 0, result.exception
    assert result.stdout.replace("\n", "") == f"wrote {out}: give it as --subspace {LINE}@{out}"
    assert any(".base_layer." in name for name in load_file(out)) is (method == "lora-ga")
    words = ("learning-rate", "--model", "tiny", "--task", "SST-2", "--batch-size", 3, "--json")
    found = invoke(*words, "--subspace", f"{LINE}@{out}", "--subspace", LINE)
    there, plain = json.loads(found.stdout)
    assert there["coordinates"] == plain["coordinates"]
    assert there["suggested"] != plain["suggested"]


@on_tiny
def test_bad_input_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    said = refusal(invoke(*command(out, "--method", "corda")))
    assert said == "unknown method 'corda': use eva or lora-ga"
    assert "is not plain LoRA" in refusal(invoke(*command(out, "--subspace", "bias")))
    assert "is not plain LoRA" in refusal(invoke(*command(out, "--subspace", "lora:r=2,dora=true")))
    assert "no .safetensors file" in refusal(invoke(*command(tmp_path / "start")))
    assert "loss 'x' is unknown" in refusal(invoke(*command(out, "--loss", "x")))
    out.write_bytes(b"mine")
    assert "is there already: give --overwrite" in refusal(invoke(*command(out)))
    assert out.read_bytes() == b"mine"
    assert tiny.LOADED == []
    assert invoke(*command(out, "--overwrite")).exit_code == 0


def test_a_real_model(minilm_mlm: Path, shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "start.safetensors"
    result = invoke(
        "start", "--model", minilm_mlm, "--task", "SST-2", "--data", shared_data,
        "--method", "eva", "--subspace", "lora:r=4,targets=qv", "--out", out, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    assert (
        json.loads(result.stdout)["tensors"] == len(load_file(out)) == 2 * 12
    )  # A and B of q and v in six layers
