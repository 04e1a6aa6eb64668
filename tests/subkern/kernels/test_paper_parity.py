"""``tie="untied"`` is the paper's model: its kernels, on real weights and real examples.

The opponent is written as LM-Kernel-FT has it (encoder, masked-LM head on the mask position alone,
a decoder weight of its own, label-word logits, `f_1 - f_0`), on plain autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM

from subkern.kernels.compute import compute_kernel
from subkern.models.load import load_model
from subkern.prompts.prompt import EncodedExample
from subkern.tasks.catalogue import get_task
from subkern.tasks.examples import load_examples

# Label words in logit order and their ids in the BERT vocabulary.
WORDS = {
    "SST-2": [6659, 2307],  # terrible, great
    "mr": [6659, 2307],
    "trec": [6412, 9178, 3670, 2529, 3295, 2193],  # Description ... Number
    "QNLI": [2748, 2053],  # entailment: Yes, not_entailment: No
    "MNLI": [2053, 2748, 2672],  # contradiction: No, entailment: Yes, neutral: Maybe
}
BINARY = ("SST-2", "mr", "QNLI")

Gradients = tuple[Tensor | None, ...]
Rows = list[Gradients]


def paper_model(path: Path, dtype: torch.dtype) -> Callable[[EncodedExample], Tensor]:
    """Vocabulary logits at the mask as that code computes them, and their parameters."""
    model = AutoModelForMaskedLM.from_pretrained(path, dtype=dtype).eval()
    decoder = torch.nn.Parameter(model.cls.predictions.decoder.weight.detach().clone())

    def logits(example: EncodedExample) -> Tensor:
        ids = torch.tensor([example.input_ids])
        hidden = model.bert(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        transformed = model.cls.predictions.transform(hidden[:, example.read])
        return (transformed @ decoder.T + model.cls.predictions.bias)[0]

    logits.parameters = [*model.parameters(), decoder]  # type: ignore[attr-defined]
    logits.names = [*dict(model.named_parameters()), "decoder"]  # type: ignore[attr-defined]
    return logits


def rows(f: Callable[[EncodedExample], Tensor], example: EncodedExample, task: str) -> Rows:
    """Gradients of every logit, one tensor a parameter."""
    logits = f(example)[WORDS[task]]
    if task in BINARY:
        logits = (logits[1] - logits[0])[None]
    parameters = f.parameters  # type: ignore[attr-defined]
    return [
        torch.autograd.grad(logit, parameters, retain_graph=True, allow_unused=True)
        for logit in logits
    ]


def inner(left: Rows, right: Rows) -> Tensor:
    """Products of two examples' Jacobian rows, ``[c, c]``, summed over parameters in float64."""
    return torch.stack([torch.stack([sum_of_products(a, b) for b in right]) for a in left])


def sum_of_products(a: Gradients, b: Gradients) -> Tensor:
    terms = [(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True) if x is not None]
    return torch.stack(terms).sum()


@pytest.mark.parametrize(
    ("task", "dtype", "bound"),
    [
        pytest.param(
            task, "float64", 1e-12, marks=[pytest.mark.slow] if task in ("trec", "MNLI") else []
        )
        for task in WORDS
    ]
    + [(task, "float32", 1e-5) for task in ("SST-2", "MNLI")],
)
def test_kernels_of_the_papers_code(
    task: str, dtype: str, bound: float, minilm_mlm: Path, shared_data: Path
) -> None:
    spec = get_task(task)
    logits = "binary" if task in BINARY else "all"
    model = load_model(minilm_mlm, task=spec, tie="untied", logits=logits, dtype=dtype)
    assert model.prompt is not None
    assert list(model.prompt.label_ids) == WORDS[task]
    train = load_examples(spec, shared_data, split="train")
    left = model.prompt.encode_all(train[-1:])
    right = model.prompt.encode_all(load_examples(spec, shared_data, split="dev")[:1])
    ours = compute_kernel(model, left, left + right).values
    paper = paper_model(minilm_mlm, getattr(torch, dtype))
    jacobians = [rows(paper, e, task) for e in left + right]
    theirs = torch.stack(
        [torch.stack([inner(a, b) for b in jacobians]) for a in jacobians[: len(left)]]
    )
    expected = theirs.permute(0, 2, 1, 3).numpy()
    assert np.abs(ours - expected).max() <= bound * np.abs(expected).max()


def test_tying_matters(minilm_mlm: Path, shared_data: Path) -> None:
    """Where a text holds a label word, decoder and embedding have cross terms: not rounding."""
    spec = get_task("SST-2")
    test = [e for e in load_examples(spec, shared_data, split="test") if " great " in e.texts[0]]
    kernels = []
    for tie in ("model", "untied"):
        model = load_model(minilm_mlm, task=spec, tie=tie, logits="binary")
        assert model.prompt is not None
        examples = model.prompt.encode_all(test[:2])
        kernels.append(compute_kernel(model, examples).values)
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4 * np.abs(kernels[0]).max()


def sign_product(a: Gradients, b: Gradients, skipped: Sequence[bool]) -> float:
    """⟨sign a, sign b⟩ over all parameters that are not skipped."""
    terms = (
        (x.sign() * y.sign()).sum(dtype=torch.float64)
        for x, y, skip in zip(a, b, skipped, strict=True)
        if x is not None and y is not None and not skip
    )
    return float(sum(terms))


def test_sign_kernels_of_the_papers_code(minilm_mlm: Path, shared_data: Path) -> None:
    """With ``zero_tolerance=0`` every entry counts, to the last of ten million.

    But for the biases of keys: they are noise in both, and no two ways to a gradient agree on it.
    """
    spec = get_task("SST-2")
    model = load_model(minilm_mlm, task=spec, tie="untied", logits="binary", dtype="float64")
    assert model.prompt is not None
    batch = model.prompt.encode_all(load_examples(spec, shared_data, split="train")[-2:])
    paper = paper_model(minilm_mlm, torch.float64)
    keys = [name.endswith("key.bias") for name in paper.names]  # type: ignore[attr-defined]
    assert sum(keys) == 6
    (a,), (b,) = (rows(paper, e, "SST-2") for e in batch)
    theirs = [[sign_product(x, y, keys) for y in (a, b)] for x in (a, b)]
    ours = compute_kernel(
        model, batch, rule="signgd:zero_tolerance=0", subspace=r"params:^(?!.*key\.bias$)"
    )
    np.testing.assert_array_equal(ours.matrix(), theirs)
    assert ours.provenance["recorded"]["zeroed_entries"] == 0


def test_signs_from_float32_and_float64_weights(minilm_mlm: Path, shared_data: Path) -> None:
    """With the default tolerance at most 10 of some 10.8 million non-zero entries change sign."""
    spec, kernels = get_task("SST-2"), []
    for dtype in ("float32", "float64"):
        model = load_model(minilm_mlm, task=spec, logits="binary", dtype=dtype)
        assert model.prompt is not None
        batch = model.prompt.encode_all(load_examples(spec, shared_data, split="train")[-2:])
        kernels.append(compute_kernel(model, batch, rule="signgd").matrix())
    assert np.abs(kernels[0] - kernels[1]).max() <= 10
    assert kernels[1].min() > 1e6
