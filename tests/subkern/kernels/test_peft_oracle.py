"""LoRA's one-pass sweep, PEFT-wrapped models, the reference engine and autograd agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer

from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora
from subkern.models.logit_model import LogitModel
from subkern.subspaces.base import Peft
from subkern.subspaces.lora import Lora, Targets, draw_rows
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
LLAMA, GPT2, BERT = BY_NAME["llama", "causal"], BY_NAME["gpt2", "causal"], BY_NAME["bert", "masked"]

TARGETS: list[tuple[Family, Targets]] = [
    (LLAMA, "all-linear"),
    (LLAMA, ("q_proj", "v_proj")),
    (LLAMA, ("model.layers.1.mlp.down_proj", "model.layers.0.self_attn.o_proj")),
    (LLAMA, r".*layers\.1\..*\.(gate|up)_proj"),
    (GPT2, "all-linear"),
    (GPT2, ("c_attn", "mlp.c_proj")),
    (BERT, "all-linear"),
    (BERT, r".*layer\.[01]\.output\.dense"),
    (BY_NAME["albert", "masked"], "all-linear"),
    (BY_NAME["albert", "masked"], ("query", "ffn")),
    (BY_NAME["opt", "causal"], "all-linear"),
    (BY_NAME["mamba", "causal"], ("in_proj", "x_proj")),
    (BY_NAME["bert", "encoder"], "all-linear"),
    (BY_NAME["gpt2", "encoder"], ("c_attn",)),
]
RANKS, SEEDS, ALPHA = (4, 1, 2), (0, 7), 6.0


def pair(family: Family) -> tuple[list, list]:
    """Return left and right examples; one stands on both sides."""
    batch = random_examples(6, read=family.read)
    return batch[:3], batch[2:]


def lora_oracle(family: Family, lora: Lora, *sides: list) -> np.ndarray:
    """As `oracles.trained_kernel`, for PEFT's LoRA with the rows of A that `lora` draws."""
    model = oracles.peft_model(family, lora.config)
    with torch.no_grad():
        for name, module in model.module.named_modules():
            if isinstance(module, LoraLayer):
                weight = module.lora_A["default"].weight
                weight.copy_(torch.from_numpy(draw_rows(lora.seed, name, *weight.shape)))
    return oracles.trained_kernel(model, *sides)


def target_id(value: object) -> str | None:
    """Name a family, or targets as they are written."""
    if isinstance(value, tuple):
        return "+".join(value)
    return value if isinstance(value, str) else case_id(value)


each_target = pytest.mark.parametrize(("family", "targets"), TARGETS, ids=target_id)


def check_sweep(family: Family, grid: LoraGrid) -> None:
    """Compare every kernel of a sweep to autograd, and some to both engines."""
    model, (left, right) = oracles.logit_model(family), pair(family)
    sweep = sweep_lora(model, left, right, grid=grid)
    assert sweep.kernels.keys() == {(s, r) for s in grid.seeds for r in grid.ranks}
    for (seed, rank), kernel in sweep.kernels.items():
        expected = lora_oracle(family, grid.lora(seed, rank), left, right)
        assert oracles.error(kernel.values, expected) <= 1e-10, (seed, rank)
    for seed, rank, engine in [(0, 1, "reference"), (7, 4, "reference"), (7, 4, "factors")]:
        subspace, kernel = grid.lora(seed, rank), sweep.kernels[seed, rank]
        alone = compute_kernel(model, left, right, subspace=subspace, engine=engine)
        assert oracles.error(alone.values, kernel.values) <= 1e-10, (seed, rank, engine)
        assert alone.provenance["subspace"] == kernel.provenance["subspace"]


@each_target
def test_sweep_equals_wrapped_models(family: Family, targets: Targets) -> None:
    check_sweep(family, LoraGrid(RANKS, SEEDS, targets, ALPHA))


@pytest.mark.parametrize("family", [LLAMA, GPT2], ids=case_id)
def test_rank_stabilised_sweep_equals_wrapped_models(family: Family) -> None:
    check_sweep(family, LoraGrid(RANKS, SEEDS, "all-linear", ALPHA, rslora=True))


@pytest.mark.parametrize("family", [LLAMA, BY_NAME["bert", "encoder"]], ids=case_id)
def test_sweep_gives_the_full_kernels_too(family: Family) -> None:
    model, (left, right) = oracles.logit_model(family), pair(family)
    sweep = sweep_lora(model, left, right, grid=LoraGrid((1,), (0,)))
    full = oracles.kernel(*(oracles.jacobian(model, side) for side in (left, right)))
    assert oracles.error(sweep.full.values, full) <= 1e-10
    assert sweep.trainable_full == sum(p.numel() for p in model.parameters())

    adapted = {n: p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n}
    assert len(adapted) > 10
    trained = [*adapted.values(), *model.readout.parameters()]
    trained = list({id(p): p for p in trained}.values())
    part = oracles.kernel(*(oracles.jacobian(model, side, trained) for side in (left, right)))
    assert oracles.error(sweep.targets_full.values, part) <= 1e-10


@each_target
def test_lora_trains_what_peft_counts(family: Family, targets: Targets) -> None:
    model = oracles.logit_model(family)
    beside = sum(p.numel() for p in model.readout.parameters())
    lora = Lora(r=3, targets=targets)
    counted, _ = peft.get_peft_model(family.build(), lora.config).get_nb_trainable_parameters()
    assert lora.attach(model).size == counted + beside
    sweep = sweep_lora(model, pair(family)[0], grid=LoraGrid((3,), (0,), targets))
    assert sweep.trainable == {3: counted + beside}


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_rows_of_a_smaller_rank_are_the_first_of_a_larger(rank: int) -> None:
    first, rows = draw_rows(3, "h.0.mlp", rank, 16), draw_rows(3, "h.0.mlp", 8, 16)
    np.testing.assert_array_equal(rows[:rank], first)


def test_rows_are_independent_and_uniform_as_those_of_peft() -> None:
    rows = draw_rows(0, "a", 500, 40)
    assert np.abs(rows).max() <= 1 / np.sqrt(40)
    assert rows.var() == pytest.approx(1 / (3 * 40), rel=0.02)
    for other in (draw_rows(1, "a", 500, 40), draw_rows(0, "b", 500, 40), rows[::-1]):
        assert abs(np.corrcoef(rows.ravel(), other.ravel())[0, 1]) < 0.03
    theirs = torch.empty(500, 40)
    torch.nn.init.kaiming_uniform_(theirs, a=np.sqrt(5), generator=torch.Generator().manual_seed(0))
    assert float(theirs.abs().max()) == pytest.approx(np.abs(rows).max(), rel=0.01)


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
@pytest.mark.parametrize(
    "layers",
    [{"mlp.up_proj": 16}, {"mlp.down_proj": 24}, {"mlp.down_proj": 24, "self_attn.q_proj": 16}],
    ids="+".join,
)
def test_lora_estimates_the_kernel_of_the_adapted_weights(
    layers: dict[str, int], rslora: bool
) -> None:
    """E[K_LoRA] = Σ over layers of s²·r / (3·d_in) · K: entries of A have variance 1 / (3·d_in).

    Each entry of the mean over N seeds of rank r is off by less than 4 standard deviations, which
    are at most √(2 / (N·r)) of ‖∇f_k(x_i)‖·‖∇f_l(x_j)‖ a layer, because Var(aᵀMa) ≤ 2·var(a)²·‖M‖²
    for a vector a of independent uniform entries.
    """
    rank, seeds, (batch, _) = 8, range(200), pair(LLAMA)
    names = [f"model.layers.1.{layer}" for layer in layers]
    model = oracles.logit_model(LLAMA)
    grid = LoraGrid((rank,), tuple(seeds), tuple(names), ALPHA, rslora)
    mean = np.mean([k.values for k in sweep_lora(model, batch, grid=grid).kernels.values()], axis=0)
    scale = ALPHA**2 / rank if rslora else (ALPHA / rank) ** 2
    expected, bound = np.zeros_like(mean), np.zeros_like(mean)
    for name, d_in in zip(names, layers.values(), strict=True):
        kernel = compute_kernel(model, batch, subspace=f"params:^{name}").values
        norms = np.sqrt(np.einsum("icic->ic", kernel))
        factor = scale * rank / (3 * d_in)
        expected += factor * kernel
        bound += factor * 4 * np.sqrt(2 / (len(seeds) * rank)) * np.multiply.outer(norms, norms)
    assert (np.abs(mean - expected) <= bound).all()
    assert np.einsum("icic", mean) == pytest.approx(np.einsum("icic", expected), rel=0.05)


# --- any other method of PEFT ---

Q_V = ["q_proj", "v_proj"]
NOT_ZERO = {"target_modules": Q_V, "init_lora_weights": False}  # B is not zero: A has a gradient

METHODS: dict[str, tuple[Family, Callable[[], peft.PeftConfig]]] = {
    "lora": (LLAMA, lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=Q_V)),
    "rslora": (GPT2, lambda: peft.LoraConfig(target_modules=["c_attn"], use_rslora=True)),
    "lora-moved": (LLAMA, lambda: peft.LoraConfig(r=2, **NOT_ZERO)),
    "lora-biases": (BERT, lambda: peft.LoraConfig(target_modules=["value"], bias="all")),
    "lora-dropout": (LLAMA, lambda: peft.LoraConfig(target_modules=Q_V, lora_dropout=0.5)),
    "lora-embedding": (LLAMA, lambda: peft.LoraConfig(target_modules=["embed_tokens", "q_proj"])),
    "lora-saved": (LLAMA, lambda: peft.LoraConfig(target_modules=Q_V, modules_to_save=["norm"])),
    "dora": (LLAMA, lambda: peft.LoraConfig(r=3, target_modules=Q_V, use_dora=True)),
    "dora-moved": (LLAMA, lambda: peft.LoraConfig(r=2, use_dora=True, **NOT_ZERO)),
    "ia3": (
        LLAMA,
        lambda: peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]
        ),
    ),
    "vera": (LLAMA, lambda: peft.VeraConfig(r=4, target_modules=Q_V)),
    "loha": (LLAMA, lambda: peft.LoHaConfig(r=2, target_modules=Q_V)),
    "lokr": (LLAMA, lambda: peft.LoKrConfig(r=2, target_modules=Q_V)),
    "oft": (LLAMA, lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=Q_V)),
    "ln-tuning": (BERT, lambda: peft.LNTuningConfig(target_modules=["LayerNorm"])),
}


@pytest.mark.parametrize("method", METHODS)
def test_any_peft_method_equals_autograd_on_the_wrapped_model(method: str) -> None:
    family, config = METHODS[method]
    (left, right), model = pair(family), oracles.logit_model(family)
    reference = oracles.peft_model(family, config(), seed=5)
    subspace, options = Peft(config(), seed=5), RunOptions(batch_size=3)
    kernel = compute_kernel(model, left, right, subspace=subspace, options=options)
    assert oracles.error(kernel.values, oracles.trained_kernel(reference, left, right)) <= 1e-8


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_methods_that_rewrite_base_weights_rewrite_a_copy(init: str) -> None:
    config = peft.LoraConfig(r=2, target_modules=Q_V, init_lora_weights=init)
    (left, right), model = pair(LLAMA), oracles.logit_model(LLAMA, dtype=torch.float32)
    before = fingerprint(model)
    kernel = compute_kernel(model, left, right, subspace=Peft(config))
    assert fingerprint(model)["values"] == before["values"]
    reference = oracles.logit_model(LLAMA, dtype=torch.float32)
    peft.get_peft_model(reference.module, config)
    assert oracles.error(kernel.values, oracles.trained_kernel(reference, left, right)) <= 1e-4


def fingerprint(model: LogitModel) -> dict[str, Any]:
    """Return all that an adapter could leave behind in `model`, as copies."""
    named = list(model.named_parameters())
    with torch.no_grad():
        logits = model(model.collate(random_examples(3, read="last")))
    return {
        "identities": [(n, id(p), p.data_ptr()) for n, p in named],
        "requires_grad": [(n, p.requires_grad) for n, p in named],
        "values": [(n, p.tolist()) for n, p in named],
        "modules": [(n, type(m), m.training) for n, m in model.named_modules()],
        "config": model.module.config.to_dict(),
        "logits": logits.tolist(),
    }


@pytest.mark.parametrize("family", [LLAMA, GPT2, BY_NAME["bert", "encoder"]], ids=case_id)
def test_the_base_model_is_left_as_it_was(family: Family) -> None:
    model = oracles.logit_model(family)
    for p in list(model.parameters())[::2]:
        p.requires_grad_(False)
    before, (batch, _) = fingerprint(model), pair(family)
    compute_kernel(model, batch, subspace=Lora(2))
    compute_kernel(model, batch, subspace=Peft(Lora(2).config))
    sweep_lora(model, batch, grid=LoraGrid((1, 2), (0,)))
    after = fingerprint(model)
    assert [key for key in before if before[key] != after[key]] == []
