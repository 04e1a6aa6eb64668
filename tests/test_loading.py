"""Loading: where the weights lie."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

import tiny_folder
from subkern.loading import align, load_model
from subkern.tasks import get_task


def test_no_weight_starts_off_a_cache_line(tmp_path: Path) -> None:
    """Products with weights that do, as those of a mapped file, take twice as long."""
    model = load_model(tiny_folder.masked_model(tmp_path), task=get_task("SST-2"))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in model.parameters())
    with safe_open(tmp_path / "model.safetensors", framework="pt") as stored:
        weights = dict(model.module.named_parameters())
        for name in stored.keys():  # noqa: SIM118  (a file, no mapping)
            torch.testing.assert_close(weights[name].detach(), stored.get_tensor(name))


def test_weights_keep_their_values_and_stay_tied() -> None:
    memory = torch.arange(200, dtype=torch.float32)
    first = torch.nn.Linear(8, 3, bias=False)
    first.weight = torch.nn.Parameter(memory[1:25].view(3, 8))
    second = torch.nn.Linear(8, 3, bias=False)
    second.weight = first.weight
    model = torch.nn.Sequential(first, second)
    assert first.weight.data_ptr() % 64
    align(model)
    assert first.weight.data_ptr() % 64 == 0
    assert second.weight is first.weight
    torch.testing.assert_close(first.weight.detach(), torch.arange(1.0, 25.0).view(3, 8))
