"""What must hold of a kernel whatever the model: mathematics first, then ways of running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from subkern import UserError
from subkern.gradients.plan import validate
from subkern.kernels.compute import compute_kernel
from subkern.kernels.engines import tiled
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.dimensions import sweep_dimensions
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora
from subkern.models.logit_model import LogitModel, WordReadout
from subkern.prompts.prompt import EncodedExample
from subkern.storage.files import replacing
from subkern.subspaces.base import Full, ParameterSubset
from tests.support import oracles
from tests.support.families import FAMILIES, VOCAB, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
BERT, GPT2 = BY_NAME["bert", "masked"], BY_NAME["gpt2", "causal"]
SOME = [
    BERT,
    GPT2,
    BY_NAME["deberta-v3", "masked"],
    BY_NAME["mamba", "causal"],
    BY_NAME["llama", "encoder"],
]
some = pytest.mark.parametrize("family", SOME, ids=case_id)


def examples(family: Family, n: int = 7, seed: int = 0) -> list[EncodedExample]:
    return random_examples(n, read=family.read, seed=seed)


def least_memory(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    factor: float = 1.0,
) -> float:
    """Return `factor` times the smallest budget in which two of the longest examples fit."""
    both = [*left, *right]
    plan = validate(Full().attach(model), both)
    longest = max(len(e.input_ids) for e in both)
    return factor * 2 * plan.bytes_per_token * longest / tiled.FACTOR_SHARE * (1 + 1e-9)


# --- mathematics ---


@some
def test_symmetric_and_positive_semidefinite(family: Family) -> None:
    model = oracles.logit_model(family, 3)
    kernel = compute_kernel(model, examples(family))
    assert kernel.is_symmetric
    matrix = kernel.matrix()
    np.testing.assert_array_equal(matrix, matrix.T)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]
    assert eigenvalues[0] < 0.5 * eigenvalues[-1]


@pytest.mark.parametrize(
    ("family", "subspace", "size"),
    [
        (BERT, r"params:cls.*LayerNorm\.bias$", 16),
        (BERT, r"params:layer\.1.*query\.bias$", 16),
        (GPT2, r"params:h\.0\.mlp\.c_fc\.bias$", 64),
        (BY_NAME["llama", "encoder"], r"params:readout\.", 102),
        (BY_NAME["electra", "masked"], r"params:token_type_embeddings|generator_lm_head\.bias", 85),
    ],
    ids=["norm", "query", "mlp", "readout", "mixed"],
)
def test_rank_is_at_most_the_number_of_coordinates(
    family: Family, subspace: str, size: int
) -> None:
    model = oracles.logit_model(family, 6)
    assert ParameterSubset(subspace.removeprefix("params:")).attach(model).size == size
    kernel = compute_kernel(model, examples(family, 18), subspace=subspace).matrix()
    values = np.linalg.eigvalsh(kernel)[::-1]
    assert len(values) > size
    assert values[0] > 1e-8
    assert np.abs(values[size:]).max() <= 1e-12 * values[0]


@some
@pytest.mark.parametrize(
    "parts",
    [[r"bias$", r"(?<!bias)$"], [r"\.0\.", r"\.1\.", r"^(?!.*\.[01]\.)"]],
    ids=["biases", "layers"],
)
def test_kernels_of_disjoint_parameters_add_up(family: Family, parts: list[str]) -> None:
    model, left, right = oracles.logit_model(family), examples(family, 3), examples(family, 4, 1)
    whole = compute_kernel(model, left, right).values
    pieces = [compute_kernel(model, left, right, subspace=f"params:{p}").values for p in parts]
    assert all(np.abs(piece).max() > 1e-6 * np.abs(whole).max() for piece in pieces)
    assert oracles.error(sum(pieces), whole) <= 1e-12


@pytest.mark.parametrize("family", [BERT, GPT2], ids=case_id)
@pytest.mark.parametrize("c", [1, 6])
def test_fewer_logits_are_part_of_more(family: Family, c: int) -> None:
    wide = compute_kernel(oracles.logit_model(family, 6), examples(family)).values
    kernel = compute_kernel(oracles.logit_model(family, c), examples(family)).values
    assert oracles.error(kernel, oracles.first_logits(wide, c)) <= 1e-12


@pytest.mark.parametrize("family", [BERT, GPT2, BY_NAME["gemma3", "causal"]], ids=case_id)
def test_float32_is_close_to_float64(family: Family) -> None:
    single, double = (
        compute_kernel(oracles.logit_model(family, dtype=dtype), examples(family)).values
        for dtype in (torch.float32, torch.float64)
    )
    assert single.dtype == np.float64
    assert not np.array_equal(single, double)
    assert np.abs(single - double).max() <= 1e-5 * np.abs(double).max()
    assert oracles.error(single, double) <= 1e-4  # centred


@pytest.mark.parametrize("family", [BERT, GPT2], ids=case_id)
def test_bfloat16_runs_and_is_near(family: Family) -> None:
    half, double = (
        compute_kernel(oracles.logit_model(family, dtype=dtype), examples(family)).values
        for dtype in (torch.bfloat16, torch.float64)
    )
    assert np.abs(half - double).max() <= 0.1 * np.abs(double).max()


# --- which examples stand where ---


def test_swapping_the_sides_transposes() -> None:
    model, left, right = oracles.logit_model(GPT2), examples(GPT2, 3), examples(GPT2, 5, 1)
    kernel, swapped = (
        compute_kernel(model, a, b).matrix() for a, b in ((left, right), (right, left))
    )
    np.testing.assert_allclose(kernel, swapped.T, rtol=1e-12, atol=1e-12)


X, Y = examples(GPT2, 4), examples(GPT2, 3, 1)
SIDES: dict[str, list[EncodedExample]] = {
    "none": Y,
    "some": [Y[0], X[2], Y[1], X[0], Y[2]],
    "all": X,
    "all reversed": X[::-1],
    "all and more": [Y[0], X[2], X[0], Y[1], X[3], X[1], Y[2]],
    "one": [X[1]],
}


@pytest.mark.parametrize("tight", [False, True], ids=["roomy", "tight"])
@pytest.mark.parametrize("right", SIDES.values(), ids=SIDES.keys())
def test_right_may_hold_any_examples_in_any_order(right: list[EncodedExample], tight: bool) -> None:
    model = oracles.logit_model(GPT2)
    memory = least_memory(model, X, right) if tight else None
    kernel = compute_kernel(model, X, right, options=RunOptions(memory=memory))
    expected = oracles.kernel(*(oracles.jacobian(model, side) for side in (X, right)))
    assert oracles.error(kernel.values, expected) <= 1e-10
    assert list(kernel.right_ids) == [e.id for e in right]
    with torch.no_grad():
        logits = torch.stack([oracles.logits_alone(model, e) for e in right]).numpy()
    np.testing.assert_allclose(kernel.right_logits, logits, atol=1e-12)


# --- ways of running ---


def recorded_progress() -> tuple[list[tuple[int, int]], Callable[[int, int], None]]:
    """Return a list, and the progress callback that fills it."""
    steps: list[tuple[int, int]] = []
    return steps, lambda done, total: steps.append((done, total))


@some
def test_unchanged_by_batch_size_and_padding(family: Family) -> None:
    model, batch = oracles.logit_model(family), examples(family)
    alone = compute_kernel(model, batch, options=RunOptions(batch_size=1)).values
    for size in (2, 5, 7):
        kernel = compute_kernel(model, batch, options=RunOptions(batch_size=size)).values
        assert oracles.error(kernel, alone) <= 1e-12
    few = compute_kernel(model, batch[:1], batch[1:2]).values  # less padding: fewer neighbors
    np.testing.assert_allclose(few, alone[:1, :, 1:2], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("family", [BERT, BY_NAME["mamba", "causal"]], ids=case_id)
def test_unchanged_by_tiles(family: Family) -> None:
    model, left, extra = oracles.logit_model(family), examples(family, 5), examples(family, 3, 1)
    right = [*extra[:2], *left[::-1], *extra[2:]]
    whole = compute_kernel(model, left, right, options=RunOptions(memory="1GiB")).values
    tiles = []
    for factor in (1.0, 3.0):
        memory, (steps, progress) = least_memory(model, left, right, factor), recorded_progress()
        kernel = compute_kernel(
            model, left, right, options=RunOptions(memory=memory, progress=progress)
        )
        assert oracles.error(kernel.values, whole) <= 1e-12
        shared = kernel.values[:, :, 2:7][:, :, ::-1]
        np.testing.assert_array_equal(shared, np.moveaxis(shared, (2, 3), (0, 1)))
        assert steps == sorted(set(steps))
        assert steps[-1] == (5 * 8, 5 * 8)
        tiles.append(len(steps))
    assert tiles[0] > tiles[1] > 2


def test_sweep_is_unchanged_by_tiles() -> None:
    model, left, right = oracles.logit_model(GPT2), X, SIDES["all and more"]
    grid = LoraGrid((1, 3), (0, 1))
    roomy, tight = (
        sweep_lora(model, left, right, grid=grid, options=RunOptions(memory=memory))
        for memory in (None, least_memory(model, left, right))
    )
    for key, kernel in roomy.kernels.items():
        assert oracles.error(tight.kernels[key].values, kernel.values) <= 1e-12


def test_too_little_memory_is_one_line() -> None:
    model = oracles.logit_model(GPT2)
    with pytest.raises(UserError, match=r"^--memory of .* less than .* raise --memory"):
        compute_kernel(model, X, options=RunOptions(memory=least_memory(model, X, X, 0.4)))


# --- resuming ---


class Interrupted(Exception):  # noqa: N818
    """Stands for Ctrl-C."""


def stop_after(tiles: int) -> Callable[[int, int], None]:
    """Return a progress callback that raises after `tiles` tiles."""
    seen = 0

    def progress(done: int, total: int) -> None:
        nonlocal seen
        seen += 1
        if seen == tiles:
            raise Interrupted

    return progress


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Return the tiles that are computed, as they are."""
    tiles: list[tuple[str, int, int]] = []
    original = tiled._Source.tile

    def tile(source: tiled._Source, side: str, i: int, k: int) -> dict[str, np.ndarray]:
        tiles.append((side, i, k))
        return original(source, side, i, k)

    monkeypatch.setattr(tiled._Source, "tile", tile)
    return tiles


def kernel_values(model: LogitModel, options: RunOptions) -> list[np.ndarray]:
    return [compute_kernel(model, X, SIDES["all and more"], options=options).values]


def sweep_values(model: LogitModel, options: RunOptions) -> list[np.ndarray]:
    grid = LoraGrid((2, 1), (0, 3))
    sweep = sweep_lora(model, X, SIDES["all and more"], grid=grid, options=options)
    kernels = [sweep.full, sweep.targets_full, *sweep.kernels.values()]
    return [kernel.values for kernel in kernels]


@pytest.mark.parametrize(
    ("values", "tiles"), [(kernel_values, 1), (kernel_values, 9), (sweep_values, 4)]
)
def test_an_interrupted_run_goes_on_to_the_same_bits(
    values: Callable[[LogitModel, RunOptions], list[np.ndarray]],
    tiles: int,
    tmp_path: Path,
    computed: list[tuple[str, int, int]],
) -> None:
    model, folder = oracles.logit_model(GPT2), tmp_path / "tiles"
    memory = least_memory(model, X, SIDES["all and more"])
    whole = values(model, RunOptions(memory=memory))
    every = computed.copy()
    assert len(every) > tiles + 1

    stopping = RunOptions(memory=memory, checkpoint=folder, progress=stop_after(tiles))
    with pytest.raises(Interrupted):
        values(model, stopping)
    (folder / ".left-0-0.npz.1").write_bytes(b"what a killed run was writing")

    for missing in (every[tiles:], []):
        computed.clear()  # the budget may be another: the tiling is that of the first run
        resumed = values(model, RunOptions(memory=3 * memory, checkpoint=folder))
        assert computed == missing
        assert all(np.array_equal(a, b) for a, b in zip(resumed, whole, strict=True))


def other_weights(model: LogitModel, options: RunOptions) -> None:
    """Change one entry of the word embeddings."""
    with torch.no_grad():
        next(model.parameters())[VOCAB // 2, 0] += 0.5
    compute_kernel(model, X, Y, options=options)


OTHER: dict[str, Callable[[LogitModel, RunOptions], object]] = {
    "examples": lambda model, options: compute_kernel(model, X, Y[:2], options=options),
    "order": lambda model, options: compute_kernel(model, X, Y[::-1], options=options),
    "subspace": lambda model, options: compute_kernel(
        model, X, Y, subspace="bias", options=options
    ),
    "logits": lambda _, options: compute_kernel(
        oracles.logit_model(GPT2, 1), X, Y, options=options
    ),
    "words": lambda model, options: compute_kernel(
        LogitModel(model.module, WordReadout((7, 23))).eval(), X, Y, options=options
    ),
    "dtype": lambda _, options: compute_kernel(
        oracles.logit_model(GPT2, dtype=torch.float32), X, Y, options=options
    ),
    "name": lambda model, options: compute_kernel(
        model.with_module(model.module, spec="another"), X, Y, options=options
    ),
    "sweep": lambda model, options: sweep_lora(
        model, X, Y, grid=LoraGrid((1,), (0,)), options=options
    ),
    "weights": other_weights,
}


@pytest.mark.parametrize("change", OTHER)
def test_tiles_of_other_settings_are_refused(change: str, tmp_path: Path) -> None:
    model, options = oracles.logit_model(GPT2), RunOptions(checkpoint=tmp_path / "tiles")
    compute_kernel(model, X, Y, options=options)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tiles").iterdir()}
    with pytest.raises(UserError, match=r"tiles' holds unfinished .*\(.*\): remove the folder"):
        OTHER[change](model, options)
    assert {p.name: p.read_bytes() for p in (tmp_path / "tiles").iterdir()} == before


TIMED: dict[str, Callable[[LogitModel, RunOptions], float]] = {
    "kernel": lambda model, options: compute_kernel(model, X, options=options).provenance[
        "recorded"
    ]["seconds"],
    "lora": lambda model, options: sweep_lora(
        model, X, grid=LoraGrid((1,), (0,)), options=options
    ).cost["seconds"],
    "dimensions": lambda model, options: sweep_dimensions(
        model, X, dims=(4,), kinds=("srht",), seeds=(0,), options=options
    ).cost["seconds"],
}


@pytest.mark.parametrize("what", TIMED)
def test_the_seconds_of_a_kernel_are_those_of_all_runs(what: str, tmp_path: Path) -> None:
    model, options = oracles.logit_model(GPT2), RunOptions(checkpoint=tmp_path / "tiles")
    TIMED[what](model, options)
    for path in (tmp_path / "tiles").glob("*.npz"):
        with np.load(path) as saved:
            arrays = dict(saved)
        with replacing(path) as new, new.open("wb") as file:
            np.savez(file, **(arrays | {"seconds": np.array(1000.0)}))
    assert TIMED[what](model, options) >= 1000
