"""Modes of torch in which kernels would be missing or rounded otherwise are refused."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.subspaces.base import Full
from subkern.subspaces.movable import MovableModel
from subkern.training.finetune import finetune
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

MODES = {
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", MODES)
def test_a_mode_that_changes_gradients_is_refused(name: str) -> None:
    mode: Callable[[], AbstractContextManager[object]] = MODES[name]
    model, examples = oracles.logit_model(FAMILIES[0]), random_examples(2)
    for use in (
        lambda: compute_kernel(model, examples),
        lambda: compute_kernel(model, examples, engine="reference"),
        lambda: MovableModel(model, Full()),
        lambda: finetune(model, {"train": examples}),
    ):
        with mode(), pytest.raises(UserError, match=name):
            use()


def test_a_model_of_inference_tensors_is_refused() -> None:
    with torch.inference_mode():
        model = oracles.logit_model(FAMILIES[0])
    with pytest.raises(UserError, match="loaded inside"):
        compute_kernel(model, random_examples(2))
