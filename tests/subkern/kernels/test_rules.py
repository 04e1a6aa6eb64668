"""Update rules: their texts, and kernels of signs and smoothed signs against plain autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import peft
import pytest
import torch

from subkern import UserError
from subkern.gradients.plan import validate
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.rules import NAMES, UpdateRule, parse_rule
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora
from subkern.kernels.sweeps.rules import sweep_rules
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.storage.files import replacing
from subkern.storage.provenance import environment
from subkern.subspaces.base import Full, Peft
from tests.support import oracles
from tests.support.families import CASES, FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
BERT, GPT2 = BY_NAME["bert", "masked"], BY_NAME["gpt2", "causal"]
LLAMA, MAMBA = BY_NAME["llama", "causal"], BY_NAME["mamba", "causal"]
SIGN_RULES = tuple(name for name in NAMES if name != "sgd")
TOLERANCE = 1e-10
NOISE = "zero_tolerance=1e-12"  # that of float64; the default is that of float32


def examples(family: Family, n: int = 5, seed: int = 0) -> list[EncodedExample]:
    return random_examples(n, read=family.read, seed=seed)


# --- texts ---


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("sgd", UpdateRule("sgd")),
        ("signgd", UpdateRule("signgd")),
        ("signgd:zero_tolerance=0", UpdateRule("signgd", zero_tolerance=0.0)),
        ("adam:eps=1e-6,zero_tolerance=0", UpdateRule("adam", 1e-6, 0.0)),
        ("asymmetric_adam:epsilon=0.5", UpdateRule("asymmetric_adam", 0.5)),
    ],
)
def test_texts_of_rules(text: str, rule: UpdateRule) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adamw", r"^unknown rule 'adamw': use sgd or signgd or "),
        ("adam:beta=1", r"^unknown option 'beta=1' of rule 'adam': write key=value with eps"),
        ("signgd:eps=1", r"^unknown option 'eps=1' of rule 'signgd': write key=value with zero"),
        ("sgd:zero_tolerance=0", r"^unknown option .* of rule 'sgd': it has none$"),
        ("adam:eps=small", r"^option eps='small' of rule 'adam' is not a number"),
        ("adam:eps=0", r"^epsilon 0\.0 of rule adam is not positive"),
        ("signgd:zero_tolerance=1", r"^zero_tolerance 1\.0 of rule signgd is not from 0"),
    ],
)
def test_bad_rules_are_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_rule(text)


# --- plain autograd ---


@cache
def jacobian(name: str, kind: str, tied: bool) -> torch.Tensor:
    """Return the gradients of two logits of six examples, without noise, ``[6, 2, P]``."""
    family = BY_NAME[name, kind]
    model = oracles.logit_model(family, 2, tied=tied)
    rows = oracles.jacobian(model, examples(family, 6))
    bias = [torch.full((p.numel(),), n.endswith("bias")) for n, p in model.named_parameters()]
    rows[(rows.abs() < 1e-13) & torch.cat(bias)] = 0.0  # of keys: zero by mathematics
    return rows


def update(rows: torch.Tensor, rule: str, epsilon: float = 1e-8) -> torch.Tensor:
    """Write the update once more, as the definition has it."""
    return rows / (rows.abs() + epsilon) if "adam" in rule else torch.sign(rows)


def expected(rows: torch.Tensor, rule: str, c: int, epsilon: float = 1e-8) -> list[np.ndarray]:
    """Return both directions of a kernel from gradients of two logits, or of their difference."""
    if c == 1:
        rows = rows[:, 1:] - rows[:, :1]
    moved = update(rows, rule, epsilon)
    if rule.startswith("asymmetric"):
        return [oracles.kernel(moved, rows), oracles.kernel(rows, moved)]
    return [oracles.kernel(moved)]


def assert_equals(values: np.ndarray | None, wanted: np.ndarray, rule: str) -> None:
    """Signs are counted: they agree to the last bit, or not at all."""
    assert values is not None
    if rule == "signgd":
        np.testing.assert_array_equal(values, wanted)
    else:
        assert np.abs(values - wanted).max() <= TOLERANCE * np.abs(wanted).max()


def check(family: Family, tied: bool, rule: str, c: int, batch_size: int) -> None:
    model = oracles.logit_model(family, c, tied=tied)
    options = RunOptions(batch_size=batch_size)
    kernel = compute_kernel(model, examples(family, 6), rule=f"{rule}:{NOISE}", options=options)
    wanted = expected(jacobian(family.name, family.kind, tied), rule, c)
    assert_equals(kernel.values, wanted[0], rule)
    if len(wanted) == 2:
        assert_equals(kernel.reverse, wanted[1], rule)
    assert kernel.is_asymmetric == (len(wanted) == 2)


@pytest.mark.parametrize(("family", "tied"), CASES, ids=case_id)
def test_signs_equal_autograd(family: Family, tied: bool) -> None:
    check(family, tied, "signgd", 2, 3)


@pytest.mark.parametrize("family", FAMILIES, ids=case_id)
def test_signs_on_one_side_equal_autograd(family: Family) -> None:
    check(family, True, "asymmetric_signgd", 1, 1)


@pytest.mark.parametrize(
    ("family", "rule"),
    [*((f, "adam") for f in FAMILIES), *((f, "asymmetric_adam") for f in (BERT, GPT2, MAMBA))],
    ids=lambda value: value if isinstance(value, str) else case_id(value),
)
def test_smoothed_signs_equal_autograd(family: Family, rule: str) -> None:
    model, left, right = oracles.logit_model(family), examples(family, 3), examples(family, 6)[2:]
    kernel = compute_kernel(model, left, right, rule=f"{rule}:eps=1e-3,{NOISE}")
    rows = jacobian(family.name, family.kind, True)
    wanted = expected(rows, rule, 2, 1e-3)
    assert_equals(kernel.values, wanted[0][:3, :, 2:], rule)
    if len(wanted) == 2:
        assert_equals(kernel.reverse, wanted[1][:3, :, 2:], rule)


ADAPTERS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: peft.LoraConfig(r=3, target_modules="all-linear"),
    "moved": lambda: peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False),
    "dora": lambda: peft.LoraConfig(r=3, target_modules="all-linear", use_dora=True),
    "ia3": lambda: peft.IA3Config(),
    "vera": lambda: peft.VeraConfig(r=4, target_modules="all-linear"),
}


@pytest.mark.parametrize("rule", SIGN_RULES)
@pytest.mark.parametrize("method", ADAPTERS)
def test_signs_are_taken_in_the_coordinates_of_an_adapter(method: str, rule: str) -> None:
    """Of A and B, of scales: what PEFT trains, by autograd on a model that PEFT alone wrapped."""
    (left, right), c = (examples(LLAMA, 4)[:3], examples(LLAMA, 4)[2:]), 2
    wrapped = oracles.peft_model(LLAMA, ADAPTERS[method](), seed=5)
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    rows = oracles.jacobian(wrapped, examples(LLAMA, 4), trained)
    assert (rows == 0).any() == (method in ("lora", "dora", "vera"))  # A, or d, at first
    wanted = expected(rows, rule, c, 1e-3)
    text = f"{rule}:{NOISE}" + (",eps=1e-3" if "adam" in rule else "")
    subspace = Peft(ADAPTERS[method](), 5)
    kernel = compute_kernel(oracles.logit_model(LLAMA), left, right, rule=text, subspace=subspace)
    assert_equals(kernel.values, wanted[0][:3, :, 2:], rule)
    if len(wanted) == 2:
        assert_equals(kernel.reverse, wanted[1][:3, :, 2:], rule)


@pytest.mark.parametrize("rule", SIGN_RULES)
def test_reference_engine_takes_entries_as_they_are(rule: str) -> None:
    model, batch = oracles.logit_model(BERT), examples(BERT, 3)
    found = compute_kernel(model, batch, batch[1:], rule=rule, engine="reference")
    fast = compute_kernel(model, batch, batch[1:], rule=f"{rule}:{NOISE}")
    free = sum(p.numel() for n, p in model.named_parameters() if n.endswith("key.bias"))
    assert found.provenance["rule_parameters"]["zero_tolerance"] == 0
    for a, b in ((found.values, fast.values), (found.reverse, fast.reverse)):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert np.abs(a - b).max() <= (free if rule in ("signgd", "adam") else 1e-10)


# --- mathematics ---


@pytest.mark.parametrize("family", [BERT, GPT2], ids=case_id)
def test_signgd_counts_non_zero_entries_and_is_psd(family: Family) -> None:
    rule = f"signgd:{NOISE}"
    kernel = compute_kernel(oracles.logit_model(family), examples(family, 6), rule=rule)
    matrix, rows = kernel.matrix(), jacobian(family.name, family.kind, True)
    np.testing.assert_array_equal(np.diag(matrix), rows.count_nonzero(-1).flatten().numpy())
    np.testing.assert_array_equal(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix)[0] >= -1e-10 * matrix.max()


def test_smoothed_signs_lie_between_signs_and_gradients() -> None:
    model, batch = oracles.logit_model(GPT2), examples(GPT2)

    def values(rule: str) -> np.ndarray:
        return compute_kernel(model, batch, rule=rule).values

    assert_close(values("adam:eps=1e-30"), values("signgd"))
    assert_close(values("adam:eps=1e9") * 1e18, values("sgd"))
    assert_close(values("asymmetric_adam:eps=1e9") * 1e9, values("sgd"))


def assert_close(values: np.ndarray, wanted: np.ndarray, rtol: float = 1e-6) -> None:
    assert np.abs(values - wanted).max() <= rtol * np.abs(wanted).max()


@pytest.mark.parametrize("rule", ["signgd", "asymmetric_signgd"])
def test_kernels_of_disjoint_parameters_add_up(rule: str) -> None:
    model, batch = oracles.logit_model(GPT2), examples(GPT2)
    whole = compute_kernel(model, batch, rule=rule)
    parts = [
        compute_kernel(model, batch, rule=rule, subspace=f"params:{p}")
        for p in (r"bias$", r"(?<!bias)$")
    ]
    assert_close(parts[0].values + parts[1].values, whole.values, 1e-12)
    if whole.reverse is not None:
        assert_close(parts[0].reverse + parts[1].reverse, whole.reverse, 1e-12)


@pytest.mark.parametrize("rule", ["signgd", "asymmetric_signgd", "adam:eps=1e-3"])
@pytest.mark.parametrize("family", [BY_NAME["bert", "encoder"], GPT2], ids=case_id)
def test_lora_sweep_equals_a_wrapped_model(family: Family, rule: str) -> None:
    model, left, right = oracles.logit_model(family), examples(family, 3), examples(family, 4)[1:]
    grid = LoraGrid((3, 1), (0, 2))
    sweep = sweep_lora(model, left, right, grid=grid, rule=rule)
    for (seed, rank), kernel in list(sweep.kernels.items())[::3]:
        alone = compute_kernel(model, left, right, rule=rule, subspace=grid.lora(seed, rank))
        assert_close(kernel.values, alone.values, 1e-12)
        if alone.reverse is not None:
            assert_close(kernel.reverse, alone.reverse, 1e-12)
        assert kernel.provenance["rule"] == alone.provenance["rule"]
    full = compute_kernel(model, left, right, rule=rule)
    assert_close(sweep.full.values, full.values, 1e-12)


@pytest.mark.parametrize("rule", ["signgd", "asymmetric_signgd", "adam:eps=1e-3"])
def test_lora_sweep_counts_zeroed_entries_as_plain_kernels_do(rule: str, tmp_path: Path) -> None:
    """Also over several tiles, some of which an earlier run left behind."""
    model, batch = oracles.logit_model(GPT2), examples(GPT2, 4)
    plan = validate(Full().attach(model), batch)
    memory = 2.2 * plan.bytes_per_token * max(len(e.input_ids) for e in batch) / 0.6
    options = RunOptions(memory=memory, checkpoint=tmp_path / "tiles")
    grid, rule = LoraGrid((3, 1), (0,)), f"{rule}{',' if ':' in rule else ':'}zero_tolerance=0.01"
    wanted = [
        zeroed(compute_kernel(model, batch, rule=rule, subspace=grid.lora(*cell)))
        for cell in grid.cells
    ]
    full = zeroed(compute_kernel(model, batch, rule=rule))
    for _ in range(2):  # the second time from the tiles
        sweep = sweep_lora(model, batch, grid=grid, rule=rule, options=options)
        assert len(list((tmp_path / "tiles").glob("*.npz"))) > 1
        assert [zeroed(sweep.kernels[cell]) for cell in grid.cells] == wanted
        # Of keys' biases a few are exactly 0 in one batch and noise in another.
        assert abs(zeroed(sweep.full) - full) <= 0.02 * full
        assert full > zeroed(sweep.targets_full) > 0
    assert min(wanted) > 0
    plain = sweep_lora(model, batch, grid=grid)
    assert "zeroed_entries" not in plain.full.provenance["recorded"]


def zeroed(kernel: Kernel) -> int:
    return int(kernel.provenance["recorded"]["zeroed_entries"])


# --- rounding ---


def test_default_tolerance_makes_float32_and_float64_agree() -> None:
    """What differs with it are entries near the threshold; without it keys' biases are noise."""
    batch = examples(BERT, 5)

    def values(dtype: torch.dtype, rule: str) -> np.ndarray:
        return compute_kernel(oracles.logit_model(BERT, dtype=dtype), batch, rule=rule).values

    single, double = (values(d, "signgd") for d in (torch.float32, torch.float64))
    assert np.abs(single - double).max() <= 2
    free = [values(d, "signgd:zero_tolerance=0") for d in (torch.float32, torch.float64)]
    assert np.abs(free[0] - free[1]).max() > 2


def test_tolerance_of_zero_is_the_paper_s_definition() -> None:
    model, batch = oracles.logit_model(GPT2), examples(GPT2, 3)
    rows = oracles.jacobian(model, batch)
    for name, part in _parts(model, rows):  # entries of key biases are noise in either
        if name.endswith("c_attn.bias"):
            part[..., 16:32] = 0.0
    kernel = compute_kernel(
        model, batch, rule="signgd:zero_tolerance=0", subspace=r"params:^(?!.*c_attn\.bias)"
    )
    kept = [part for name, part in _parts(model, rows) if not name.endswith("c_attn.bias")]
    signs = torch.sign(torch.cat(kept, -1))
    np.testing.assert_array_equal(kernel.values, oracles.kernel(signs))
    assert kernel.provenance["recorded"]["zeroed_entries"] == 0


def _parts(model: LogitModel, rows: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    named = [(n, p.numel()) for n, p in model.named_parameters()]
    pieces = rows.split([size for _, size in named], -1)
    return [(n, piece) for (n, _), piece in zip(named, pieces, strict=True)]


# --- all rules in one pass ---


def test_a_killed_sweep_goes_on_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other threads, on another machine, after a commit of what computes nothing."""
    model, of, rules = oracles.logit_model(BERT), examples(BERT), ["sgd", "signgd"]
    whole = sweep_rules(model, of, rules=rules)

    def kill(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    tiles = tmp_path / "tiles"
    with pytest.raises(KeyboardInterrupt):
        sweep_rules(model, of, rules=rules, options=RunOptions(progress=kill, checkpoint=tiles))
    first = tiles / "parameters-0.npz"
    with np.load(first) as saved:
        arrays = dict(saved)
    with replacing(first) as new, new.open("wb") as file:
        np.savez(file, **(arrays | {"seconds": np.array(1000.0)}))
    finished = {p.name: p.read_bytes() for p in tiles.glob("parameters-*.npz")}
    assert finished
    here = environment()
    there = {
        **here,
        "machine": {**here["machine"], "threads": 64},
        "code": {**here["code"], "commit": "another", "dirty": True},
    }
    monkeypatch.setattr("subkern.kernels.request.environment", lambda: there)
    found = sweep_rules(model, of, rules=rules, options=RunOptions(checkpoint=tiles))
    for name, content in finished.items():
        assert (tiles / name).read_bytes() == content
    for kernel, uninterrupted in zip(found, whole, strict=True):
        np.testing.assert_array_equal(kernel.values, uninterrupted.values)
        assert kernel.provenance["environment"]["machine"]["threads"] == 64
        assert 1000 < kernel.provenance["recorded"]["seconds"] < 1100  # of both runs


@pytest.mark.parametrize(
    ("family", "shared"), [(BERT, True), (LLAMA, False), (MAMBA, True)], ids=case_id
)
def test_a_sweep_of_rules_equals_each_kernel(family: Family, shared: bool) -> None:
    """Values, both directions, logits and the count of noise."""
    model = oracles.logit_model(family)
    left = examples(family)
    right = [*left[::-1], *examples(family, 3, seed=1)] if shared else examples(family, 4, seed=1)
    rules = ["adam:eps=1e-3", "sgd", "asymmetric_signgd", "signgd", "asymmetric_adam:eps=1e-6"]
    found = sweep_rules(model, left, right, rules=rules)
    for rule, kernel in zip(rules, found, strict=True):
        alone = compute_kernel(model, left, right, rule=rule)
        np.testing.assert_allclose(kernel.values, alone.values, rtol=1e-9, atol=1e-11)
        assert (kernel.reverse is None) == (alone.reverse is None)
        if kernel.reverse is not None:
            np.testing.assert_allclose(kernel.reverse, alone.reverse, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(kernel.left_logits, alone.left_logits, rtol=1e-12)
        np.testing.assert_allclose(kernel.right_logits, alone.right_logits, rtol=1e-12)
        if rule != "sgd":  # some are exactly 0 in a batch of others
            noise = [k.provenance["recorded"]["zeroed_entries"] for k in (kernel, alone)]
            assert noise[0] == pytest.approx(noise[1], rel=0.05)
        assert {**kernel.provenance, "recorded": 0} == {**alone.provenance, "recorded": 0}


@pytest.mark.parametrize(
    ("rules", "subspace", "message"),
    [
        ([], "full", "no rule to compute a kernel of"),
        (["sgd", "sgd"], "full", "rule sgd is given twice"),
        (["signgd", "adam:zero_tolerance=0"], "full", "zero tolerances 0 and 2e-05 cannot share"),
        (["sgd", "signgd"], "random:dim=4", "share nothing in a random subspace"),
    ],
)
def test_rules_that_cannot_share_a_pass(rules: list[str], subspace: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep_rules(oracles.logit_model(BERT), examples(BERT), rules=rules, subspace=subspace)


@pytest.mark.parametrize(
    "text",
    ["adam:eps=nan", "adam:eps=inf", "adam:eps=1e999", "adam:eps=0", "adam:eps=1e-8,eps=1e-6",
     "adam:eps=1e-8,epsilon=1e-8", "signgd:zero_tolerance=nan", "adam:", "sgd:eps=1"],
)  # fmt: skip
def test_what_is_no_rule_is_one_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_rule(text)
    assert "\n" not in str(caught.value)
