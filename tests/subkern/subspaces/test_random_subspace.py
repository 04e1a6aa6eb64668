"""Random subspaces of models: both engines, sweeps, ways of running, one-line forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import Request, RunOptions
from subkern.kernels.sides import Sides
from subkern.kernels.sweeps.dimensions import sweep_dimensions
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.projections.dense import dense_matrix
from subkern.projections.spec import KINDS
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.base import ParameterSubset
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import parse_subspace
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
GPT2, BERT = BY_NAME["gpt2", "causal"], BY_NAME["bert", "masked"]
kinds = pytest.mark.parametrize("kind", KINDS)


def examples(n: int = 5, seed: int = 0, family: Family = GPT2) -> list[EncodedExample]:
    return random_examples(n, read=family.read, seed=seed)


def oracle(model: LogitModel, subspace: RandomSubspace, batch: list[EncodedExample]) -> np.ndarray:
    """Kernel from autograd's Jacobian and P as a matrix."""
    coordinates = subspace.attach(model)
    assert coordinates.projection is not None
    parameters = [*coordinates.parameters.values()]
    matrix = dense_matrix(coordinates.projection.projections, coordinates.projection.cell)
    return oracles.kernel(oracles.jacobian(coordinates.model, batch, parameters) @ matrix)


@kinds
@pytest.mark.parametrize("allocation", ["global", "per-parameter"])
def test_both_engines_equal_the_oracle(kind: str, allocation: str) -> None:
    model, batch = oracles.logit_model(GPT2), examples()
    subspace = RandomSubspace(120, kind, 3, allocation)
    expected = oracle(model, subspace, batch)
    engines = ("factors", "reference") if allocation == "global" else ("factors",)
    for engine in engines:
        kernel = compute_kernel(model, batch, subspace=subspace, engine=engine)
        assert oracles.error(kernel.values, expected) <= 1e-10
        assert kernel.provenance["recorded"]["coordinates"] == 120


@pytest.mark.parametrize("rule", ["signgd", "asymmetric_signgd", "adam:eps=1e-3"])
def test_rules_act_on_the_projected_coordinates(rule: str) -> None:
    model, left, right = oracles.logit_model(GPT2), examples(3), examples(2, 1)
    for kind in ("rademacher", "srht")[: 1 + (rule == "signgd")]:
        subspace = RandomSubspace(40, kind)
        fast, slow = (
            compute_kernel(model, left, right, rule=rule, subspace=subspace, engine=engine)
            for engine in ("factors", "reference")
        )
        assert oracles.error(fast.values, slow.values) <= 1e-10
        assert (fast.reverse is not None) == rule.startswith("asymmetric")
        if fast.reverse is not None and slow.reverse is not None:
            assert oracles.error(fast.reverse, slow.reverse) <= 1e-10
        if rule == "signgd":
            np.testing.assert_array_equal(fast.values, np.round(fast.values))
            assert np.abs(fast.values).max() <= 40
        sweep = sweep_dimensions(model, left, right, dims=(40,), kinds=(kind,), rule=rule)
        swept = sweep.kernels[kind, 0, 40]
        assert swept.allclose(fast, 1e-11)
        assert swept.fingerprint == fast.fingerprint
        assert sweep.full.allclose(compute_kernel(model, left, right, rule=rule), 1e-11)


@pytest.mark.parametrize(
    "family", [BERT, BY_NAME["deberta-v3", "masked"], BY_NAME["llama", "encoder"]], ids=case_id
)
def test_other_models_equal_the_oracle(family: Family) -> None:
    model, batch = oracles.logit_model(family, 3), examples(family=family)
    subspace = RandomSubspace(50, "srht", 1)
    kernel = compute_kernel(model, batch, subspace=subspace)
    assert oracles.error(kernel.values, oracle(model, subspace, batch)) <= 1e-10


def test_projected_to_as_many_dimensions_as_there_are_the_kernel_is_near() -> None:
    model, batch = oracles.logit_model(GPT2), examples()
    size = sum(p.numel() for p in model.parameters())
    full = compute_kernel(model, batch).values
    diagonal = np.einsum("icic->ic", full).reshape(-1)
    bound = 5 * np.sqrt(2 * np.outer(diagonal, diagonal) / size).reshape(full.shape)
    for kind in ("count_sketch", "srht"):
        kernel = compute_kernel(model, batch, subspace=RandomSubspace(size, kind)).values
        assert (np.abs(kernel - full) <= bound).all()


@pytest.mark.parametrize("kind", ["very_sparse", "srht"])
def test_rank_is_at_most_the_dimension(kind: str) -> None:
    model = oracles.logit_model(GPT2, 6)
    kernel = compute_kernel(model, examples(6), subspace=RandomSubspace(11, kind)).matrix()
    values = np.linalg.eigvalsh(kernel)[::-1]
    assert np.abs(values[11:]).max() <= 1e-12 * values[0]
    assert values[10] > 1e-12 * values[0]


def test_per_parameter_kernels_of_disjoint_subsets_add_up() -> None:
    """With one dimension a coordinate of P's blocks, each parameter's part is its own."""
    model, batch = oracles.logit_model(GPT2), examples()
    patterns = [r"bias$", r"(?<!bias)$"]
    sizes = {n: p.numel() for n, p in named_parameters(model).items()}
    from subkern.projections.project import allocate

    shares = allocate(300, sizes)
    parts = []
    for pattern in patterns:
        inner = ParameterSubset(pattern)
        names = inner.attach(model).parameters
        dim = sum(shares[n] for n in names)
        if allocate(dim, {n: sizes[n] for n in names}) != {n: shares[n] for n in names}:
            pytest.fail("the subsets' shares differ: choose another dimension")
        subspace = RandomSubspace(dim, "rademacher", 2, "per-parameter", inner)
        parts.append(compute_kernel(model, batch, subspace=subspace).values)
    whole = compute_kernel(
        model, batch, subspace=RandomSubspace(300, "rademacher", 2, "per-parameter")
    )
    assert oracles.error(sum(parts), whole.values) <= 1e-12


def test_inside_other_subspaces() -> None:
    model, batch = oracles.logit_model(GPT2), examples()
    for inner in ("bias", "lora:r=2,targets=c_attn"):
        subspace = RandomSubspace(20, "gaussian", 0, inner=parse_subspace(inner))
        kernel = compute_kernel(model, batch, subspace=subspace)
        assert oracles.error(kernel.values, oracle(model, subspace, batch)) <= 1e-10


# --- ways of running ---


@pytest.mark.parametrize("kind", ["gaussian", "very_sparse", "srht"])
def test_unchanged_by_batches_and_order(kind: str) -> None:
    model, left, extra = oracles.logit_model(GPT2), examples(), examples(3, 1)
    right = [extra[0], *left[::-1], *extra[1:]]
    subspace = RandomSubspace(64, kind)
    whole = compute_kernel(model, left, right, subspace=subspace)
    steps: list[tuple[int, int]] = []
    tight = RunOptions(1, "1MiB", lambda done, total: steps.append((done, total)))
    tiled = compute_kernel(model, left, right, subspace=subspace, options=tight)
    assert oracles.error(tiled.values, whole.values) <= 1e-12
    assert len(steps) >= 8
    assert steps[-1] == (5 * 8, 5 * 8)
    np.testing.assert_allclose(tiled.right_logits, whole.right_logits, atol=1e-12)  # type: ignore[arg-type]
    assert tiled.right_ids == tuple(e.id for e in right)


def test_float32_is_near() -> None:
    batch = examples()
    subspaces = [RandomSubspace(100, kind) for kind in ("gaussian", "srht")]
    models = [oracles.logit_model(GPT2, dtype=d) for d in (torch.float32, torch.float64)]
    for subspace in subspaces:
        single, double = (compute_kernel(m, batch, subspace=subspace).values for m in models)
        assert 0 < np.abs(single - double).max() <= 1e-5 * np.abs(double).max()


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    model, batch, folder = oracles.logit_model(GPT2), examples(), tmp_path / "rows"
    subspace = RandomSubspace(64, "srht")
    whole = compute_kernel(model, batch, subspace=subspace, options=RunOptions(memory="1MiB"))

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute_kernel(model, batch, subspace=subspace, options=RunOptions(1, "1MiB", stop, folder))
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("rows-*.npz")}
    assert 0 < len(kept) < 5
    again = compute_kernel(
        model, batch, subspace=subspace, options=RunOptions(1, "1MiB", None, folder)
    )
    assert {n: (folder / n).stat().st_mtime_ns for n in kept} == kept
    assert oracles.error(again.values, whole.values) <= 1e-12
    with pytest.raises(UserError, match="unfinished tiles of other settings"):
        compute_kernel(
            model, batch, subspace=RandomSubspace(63, "srht"), options=RunOptions(checkpoint=folder)
        )


# --- sweeps ---


@pytest.mark.parametrize(("allocation", "memory"), [("global", "4MiB"), ("per-parameter", None)])
def test_a_sweep_equals_each_kernel(allocation: str, memory: str | None) -> None:
    model, left, right = oracles.logit_model(GPT2), examples(), [*examples(3, 1), examples()[2]]
    sweep = sweep_dimensions(
        model,
        left,
        right,
        dims=(60, 90),
        kinds=("rademacher", "very_sparse", "count_sketch", "srht"),
        seeds=(0, 4),
        allocation=allocation,
        options=RunOptions(memory=memory),
    )
    assert sweep.full.allclose(compute_kernel(model, left, right), 1e-12)
    assert sweep.full.provenance["subspace"] == {"kind": "full"}
    assert len(sweep.kernels) == 4 * 2 * 2
    for kind, seed, dim in [("rademacher", 4, 60), ("very_sparse", 0, 60), ("srht", 4, 90)]:
        kernel = sweep.kernels[kind, seed, dim]
        subspace = RandomSubspace(dim, kind, seed, allocation)
        alone = compute_kernel(model, left, right, subspace=subspace)
        assert kernel.allclose(alone, 1e-11)
        assert kernel.fingerprint == alone.fingerprint
    assert sweep.cost["projection_seconds"] > 0


@pytest.mark.parametrize(("few", "tiles"), [(False, 2), (True, 3)])
def test_an_interrupted_sweep_goes_on_to_the_last_bit(
    few: bool, tiles: int, tmp_path: Path
) -> None:
    """In float32, where sums tell which examples were captured together."""
    model = oracles.logit_model(BERT, dtype=torch.float32)
    left = examples(4, family=BERT)
    right = [*examples(19, 1, BERT), *left]
    asked = {"dims": (2, 8), "kinds": ("srht", "gaussian")}
    need = 2.5 * max(Request(model, Sides.of(left, right)).job.sizes(left))
    memory = f"{need / 0.6 / 2**10:.0f}KiB" if few else None
    told = 0

    def stop(done: int, total: int) -> None:
        nonlocal told
        told += 1
        if told == tiles:
            raise KeyboardInterrupt

    whole = sweep_dimensions(model, left, right, options=RunOptions(memory=memory), **asked)  # type: ignore[arg-type]
    options = RunOptions(memory=memory, progress=stop, checkpoint=tmp_path / "tiles")
    with pytest.raises(KeyboardInterrupt):
        sweep_dimensions(model, left, right, options=options, **asked)  # type: ignore[arg-type]
    options = RunOptions(memory=memory, checkpoint=tmp_path / "tiles")
    again = sweep_dimensions(model, left, right, options=options, **asked)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.full.values, whole.full.values)
    for key, kernel in whole.kernels.items():
        np.testing.assert_array_equal(again.kernels[key].values, kernel.values)


# --- one-line forms ---


@pytest.mark.parametrize(
    ("text", "subspace"),
    [
        ("random:dim=7", RandomSubspace(7)),
        (
            "random:dim=1000,kind=srht,seed=2,allocation=per-parameter",
            RandomSubspace(1000, "srht", 2, "per-parameter"),
        ),
        (
            "random:dim=9,inner=params:a,b=c",
            RandomSubspace(9, inner=ParameterSubset("a,b=c")),
        ),
    ],
)
def test_one_line_forms(text: str, subspace: RandomSubspace) -> None:
    assert parse_subspace(text) == subspace


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random:", "^random needs a dimension: random:dim=1000"),
        ("random:dim=many", "^option dim='many' of random is not a whole number"),
        ("random:d=3", "^unknown option 'd=3' of random: write key=value with dim, kind, seed"),
        ("random:dim=3,kind=x", "^unknown projection 'x'"),
        ("random:dim=3,allocation=x", "^unknown allocation 'x'"),
        ("random:dim=0", "^option dim='0' of random is not a whole number from 1"),
        (
            "random:dim=3,seed=-1",
            "^option seed='-1' of random is not a whole number from 0 to 4294967295$",
        ),
        ("random:dim=3,inner=random:dim=4", "^a random subspace of a random subspace"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_subspace(text)


def test_more_dimensions_than_coordinates_are_refused() -> None:
    with pytest.raises(UserError, match=r"^dimension 999999 exceeds the \d+ coordinates"):
        compute_kernel(oracles.logit_model(GPT2), examples(2), subspace="random:dim=999999")
