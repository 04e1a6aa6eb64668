"""Both engines equal plain autograd in float64, on every architecture."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from subkern import UserError
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.models.logit_model import untie
from subkern.prompts.prompt import EncodedExample
from tests.support import oracles
from tests.support.families import CASES, FAMILIES, Family, case_id, random_examples

each_case = pytest.mark.parametrize(("family", "tied"), CASES, ids=case_id)

TOLERANCE = 1e-10
LENGTHS = {"padded": (7, 4, 9, 5, 6, 8, 3, 10), "unpadded": (6,)}
CUSTOM_AUTOGRAD = ("bloom",)  # torch.func refuses them, so there is no reference kernel

# Logits, batch size, lengths: every value of each comes up here, every combination in the slow run.
FEW = [(1, 8, "padded"), (2, 3, "unpadded"), (6, 1, "padded")]
ALL = list(product((1, 2, 6), (1, 3, 8), LENGTHS))
REST = [pytest.param(*setting, marks=pytest.mark.slow) for setting in ALL if setting not in FEW]


def examples(family: Family, lengths: str = "padded") -> list[EncodedExample]:
    """Return eight examples, each with a label word inside: tied uses meet in its row."""
    plain = random_examples(8, read=family.read, lengths=LENGTHS[lengths])
    return [
        replace(e, input_ids=(oracles.WORDS[i % 3], *e.input_ids[1:])) for i, e in enumerate(plain)
    ]


@cache
def jacobian(name: str, kind: str, tied: bool, lengths: str) -> torch.Tensor:
    """Return the gradients of six logits of eight examples, ``[8, 6, P]``."""
    family = next(f for f in FAMILIES if (f.name, f.kind) == (name, kind))
    return oracles.jacobian(oracles.logit_model(family, 6, tied=tied), examples(family, lengths))


def expected(family: Family, tied: bool, c: int, lengths: str = "padded") -> np.ndarray:
    rows = jacobian(family.name, family.kind, tied, lengths)
    return oracles.first_logits(oracles.kernel(rows), c)


@each_case
@pytest.mark.parametrize(("c", "batch_size", "lengths"), [*FEW, *REST])
def test_factors_engine_equals_autograd(
    family: Family, tied: bool, c: int, batch_size: int, lengths: str
) -> None:
    model, batch = oracles.logit_model(family, c, tied=tied), examples(family, lengths)
    kernel = compute_kernel(model, batch, options=RunOptions(batch_size=batch_size))
    assert oracles.error(kernel.values, expected(family, tied, c, lengths)) <= TOLERANCE
    with torch.no_grad():
        logits = torch.stack([oracles.logits_alone(model, e) for e in batch]).numpy()
    np.testing.assert_allclose(kernel.left_logits, logits, rtol=0, atol=1e-11)
    np.testing.assert_allclose(kernel.right_logits, logits, rtol=0, atol=1e-11)


for_reference = [(f, tied) for f, tied in CASES if f.name not in CUSTOM_AUTOGRAD]


@pytest.mark.parametrize(("family", "tied"), for_reference, ids=case_id)
@pytest.mark.parametrize("c", [2, *(pytest.param(c, marks=pytest.mark.slow) for c in (1, 6))])
def test_reference_engine_equals_autograd(family: Family, tied: bool, c: int) -> None:
    model, batch = oracles.logit_model(family, c, tied=tied), examples(family)
    kernel = compute_kernel(model, batch[:2], batch[1:4], engine="reference")
    assert oracles.error(kernel.values, expected(family, tied, c)[:2, :, 1:4]) <= TOLERANCE


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.name in CUSTOM_AUTOGRAD], ids=case_id)
def test_reference_engine_refuses_custom_autograd_functions(family: Family) -> None:
    model, message = (
        oracles.logit_model(family),
        r"^torch\.func .* custom autograd .*--engine factors$",
    )
    with pytest.raises(UserError, match=message):
        compute_kernel(model, examples(family)[:2], engine="reference")


can_tie = [family for family in FAMILIES if family.ties == (True, False)]


@pytest.mark.parametrize("family", can_tie, ids=case_id)
def test_untying_removes_the_cross_terms_and_nothing_else(family: Family) -> None:
    batch = examples(family)[:4]
    model = oracles.logit_model(family, 2)
    untie(model.module)
    decoder, words = model.module.get_output_embeddings(), model.module.get_input_embeddings()
    assert decoder.weight is not words.weight
    assert torch.equal(decoder.weight, words.weight)

    from_words = oracles.jacobian(model, batch, [words.weight])
    from_decoder = oracles.jacobian(model, batch, [decoder.weight])
    cross = oracles.kernel(from_words, from_decoder) + oracles.kernel(from_decoder, from_words)
    difference = expected(family, True, 2)[:4, :, :4] - compute_kernel(model, batch).values
    assert oracles.error(difference, cross) <= TOLERANCE
