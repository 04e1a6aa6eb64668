"""A GPU gives the numbers of the CPU: the same P, the same counts of signs, the same kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import oracles
import test_projections as maps
import test_sign_rows as packed
from families import FAMILIES, random_examples
from subkern.compute import compute_kernel
from subkern.projections import KINDS, Cell
from subkern.sign_products import product
from subkern.sketching import Projections

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPT2 = next(f for f in FAMILIES if f.name == "gpt2")


@pytest.mark.parametrize("kind", KINDS)
def test_projections_are_those_of_the_cpu(kind: str) -> None:
    cell, rows = Cell(kind, 3, 70), maps.vectors()
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
