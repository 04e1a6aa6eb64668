"""The models that the oracle tests run on are what those tests take them for."""

from __future__ import annotations

import pytest
import torch

from tests.support.families import CASES, FAMILIES, Family, case_id, output_at_read, random_examples

each_case = pytest.mark.parametrize(("family", "tied"), CASES, ids=case_id)
each_family = pytest.mark.parametrize("family", FAMILIES, ids=case_id)

# Zero by mathematics: shifting all scores of a query alike leaves softmax as it is.
KEY_BIASES = ("key.bias", "k_lin.bias", "k_proj.bias", "pos_key_proj.bias")
POOLERS = ("pooler.dense.weight", "pooler.dense.bias", "pooler.weight", "pooler.bias")
# Untied, the decoder has a bias of its own and these are left over.
SPARE_BIASES = ("predictions.bias", "lm_head.bias")


def test_families_cover_what_the_issue_asks() -> None:
    asked = {"bert", "roberta", "distilbert", "albert", "electra", "deberta-v2", "modernbert"}
    asked |= {"gpt2", "gpt-neox", "opt", "llama", "qwen2", "qwen3", "gemma2", "gemma3"}
    both_ways = {family.name for family in FAMILIES if family.ties == (True, False)}
    assert asked <= both_ways
    assert len({(family.name, family.kind) for family in FAMILIES}) == len(FAMILIES)


@each_case
def test_build_is_deterministic_and_depends_on_seed(family: Family, tied: bool) -> None:
    first, second = (family.build(tied, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = family.build(tied, seed=4)
    assert all(not torch.equal(p, first[name]) for name, p in other.named_parameters())


@each_case
def test_every_parameter_is_double_and_off_its_usual_start(family: Family, tied: bool) -> None:
    for name, parameter in family.build(tied).named_parameters():
        assert parameter.dtype == torch.float64, name
        assert (parameter != 0).all(), name
        assert parameter.std() > 1e-3 or parameter.numel() == 1, name


@each_case
def test_output_ignores_batch_and_padding(family: Family, tied: bool) -> None:
    model = family.build(tied)
    examples = random_examples(5, read=family.read)
    with torch.no_grad():
        together = output_at_read(model, examples)
        alone = torch.cat([output_at_read(model, [example]) for example in examples])
    assert together.dtype == torch.float64
    assert together.std() > 0.1
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@each_family
def test_dropout_is_configured_but_off(family: Family) -> None:
    model = family.build()
    examples = random_examples(3, read=family.read)
    with torch.no_grad():
        assert torch.equal(output_at_read(model, examples), output_at_read(model, examples))
        if family.name != "mamba":  # has no dropout
            model.train()
            first, second = (output_at_read(model, examples) for _ in range(2))
            assert not torch.allclose(first, second)


@each_case
def test_every_other_parameter_has_a_gradient(family: Family, tied: bool) -> None:
    model = family.build(tied)
    output_at_read(model, random_examples(5, read=family.read))[:, 1].sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert name.endswith(POOLERS) or (not tied and name.endswith(SPARE_BIASES)), name
        elif parameter.grad.abs().max() < 1e-12:
            assert name.endswith(KEY_BIASES), name


@each_case
def test_gradient_equals_finite_differences(family: Family, tied: bool) -> None:
    model = family.build(tied)
    examples = random_examples(3, read=family.read)
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    def output(step: float) -> torch.Tensor:
        for parameter, d in zip(parameters, direction, strict=True):
            parameter.data.add_(d, alpha=step)
        value = output_at_read(model, examples)[:, 1].sum()
        for parameter, d in zip(parameters, direction, strict=True):
            parameter.data.sub_(d, alpha=step)
        return value

    gradient = torch.autograd.grad(output(0.0), parameters, allow_unused=True)
    pairs = zip(gradient, direction, strict=True)
    derivative = sum(float((g * d).sum()) for g, d in pairs if g is not None)
    h = 1e-5
    with torch.no_grad():
        near, far = (float(output(s * h) - output(-s * h)) for s in (1, 2))
    assert (8 * near - far) / (12 * h) == pytest.approx(derivative, rel=1e-8)


def test_asking_for_impossible_tying_is_an_error() -> None:
    encoder = next(family for family in FAMILIES if family.kind == "encoder")
    with pytest.raises(ValueError, match="cannot be built with tied=False"):
        encoder.build(tied=False)
