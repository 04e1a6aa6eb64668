"""A GPU gives the numbers of the CPU: the same P, the same counts of signs, the same kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from subkern.kernels.compute import compute_kernel
from subkern.kernels.engines.signs.products import product
from subkern.projections.project import Projections
from subkern.projections.spec import KINDS, ProjectionSpec
from subkern.training.finetune import Training, finetune
from tests.subkern.kernels.signs import test_sign_rows as packed
from tests.subkern.projections import test_projections as maps
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPT2 = next(f for f in FAMILIES if f.name == "gpt2")


@pytest.mark.parametrize("kind", KINDS)
def test_projections_are_those_of_the_cpu(kind: str) -> None:
    cell, rows = ProjectionSpec(kind, 3, 70), maps.vectors()
    here = Projections([cell], maps.SIZES).project(rows)[cell]
    there = Projections([cell], maps.SIZES).project({n: v.cuda() for n, v in rows.items()})[cell]
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, rtol=1e-12, atol=1e-12)


def test_products_of_signs_are_exact() -> None:
    left, right = packed.rows_of(3, 0), packed.rows_of(2, 7)
    found = product(left, right, torch.device("cuda"))
    np.testing.assert_array_equal(found, product(left, right))


@pytest.mark.parametrize("subspace", ["full", "lora:r=2,targets=c_attn", "random:dim=40,kind=srht"])
@pytest.mark.parametrize("rule", ["sgd", "signgd:zero_tolerance=1e-12", "asymmetric_signgd"])
def test_kernels_are_those_of_the_cpu(rule: str, subspace: str) -> None:
    batch = random_examples(5, read=GPT2.read)
    model = oracles.logit_model(GPT2)
    here = compute_kernel(model, batch, batch[2:], rule=rule, subspace=subspace)
    there = compute_kernel(model.cuda(), batch, batch[2:], rule=rule, subspace=subspace)
    assert there.allclose(here, 1e-10)


@pytest.mark.parametrize("subspace", ["full", "lora:r=2,targets=c_attn", "random:dim=40,kind=srht"])
def test_training_is_that_of_the_cpu(subspace: str) -> None:
    data = {"train": random_examples(7, read=GPT2.read), "dev": random_examples(5, seed=1)}
    asked = Training("sgd", 0.05, 3, 6, eval_every=2)
    model = oracles.logit_model(GPT2)
    here = finetune(model, data, subspace=subspace, training=asked)
    there = finetune(model.cuda(), data, subspace=subspace, training=asked)
    assert there.best_step == here.best_step
    for name, value in here.shift.items():
        assert there.shift[name].device.type == "cpu"
        torch.testing.assert_close(there.shift[name], value, rtol=1e-8, atol=1e-10)


def test_training_in_bfloat16_moves_in_float32() -> None:
    data = {"train": random_examples(7, read=GPT2.read)}
    model = oracles.logit_model(GPT2, dtype=torch.bfloat16).cuda()
    found = finetune(model, data, training=Training("sgd", 1e-6, 3, 3))
    assert {value.dtype for value in found.shift.values()} == {torch.float32}
    assert 0 < max(float(value.abs().max()) for value in found.shift.values()) < 1e-3
