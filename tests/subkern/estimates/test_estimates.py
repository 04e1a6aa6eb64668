"""Estimates count what runs do, FLOP by FLOP and byte by byte; no seconds are promised here."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import cli
from benchmarks.measure import counted
from benchmarks.models import tiny_causal, tiny_masked
from benchmarks.problem import Problem
from subkern.errors import UserError
from subkern.estimates.captures import CaptureProbe, Polynomial
from subkern.estimates.estimate import Costs, Estimate, Phase
from subkern.estimates.features import estimate_features
from subkern.estimates.kernel import estimate_kernel
from subkern.estimates.sweep import estimate_sweep
from subkern.features.features import compute_features
from subkern.kernels.compute import compute_kernel, engine_for
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import Request, RunOptions
from subkern.kernels.sides import Sides
from subkern.kernels.sweeps.lora import LoraGrid, must_move, resolve_sets, sweep_lora
from subkern.subspaces.random import RandomSubspace
from tests.support.tiny_folder import masked_model, reviews

LITTLE = "120KiB"  # several chunks on both sides
GRID = LoraGrid(ranks=(1, 4), seeds=(0, 1))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subkern.estimates.contractions._ENOUGH", 0.0)


def problem(make: Callable[[int, int], Problem] = tiny_masked, binary: bool = True) -> Problem:
    made = make(11, 23)
    made.model.binary = binary
    return made


def run_flops(whole: Problem, right: Any, subspace: str = "full", memory: str = "1GiB") -> float:
    """FLOPs of capture and contraction of a real run, as torch counts them."""
    sides = Sides.of(whole.left, right)
    request = Request(whole.model, sides, subspace=subspace, options=RunOptions(memory=memory))
    request.validate()
    return counted(partial(request.run, engine_for(request), request.store({})))[0]


@pytest.mark.parametrize("memory", ["1GiB", LITTLE])
@pytest.mark.parametrize(
    ("binary", "subspace"), [(True, "full"), (False, "full"), (False, "lora:r=2")]
)
def test_flops_of_a_kernel_are_those_of_its_run(binary: bool, subspace: str, memory: str) -> None:
    whole = problem(binary=binary)
    found = estimate_kernel(
        whole.model,
        whole.left,
        whole.right,
        subspace=subspace,
        options=RunOptions(memory=memory),
    )
    assert found.costs.flops == run_flops(whole, whole.right, subspace, memory)
    assert found.costs.flops == sum(phase.flops or 0 for phase in found.costs.phases)


def test_flops_of_a_causal_kernel_miss_only_gradients_that_round_to_zero() -> None:
    whole = problem(tiny_causal)
    found = estimate_kernel(whole.model, whole.left, whole.right)
    assert found.costs.flops == pytest.approx(run_flops(whole, whole.right), rel=1e-3)


def test_mirrored_sides_are_counted_once() -> None:
    whole = problem()
    every = [*whole.left, *whole.right]
    for memory in ("1GiB", LITTLE):
        found = estimate_kernel(whole.model, whole.left, every, options=RunOptions(memory=memory))
        assert found.costs.flops == run_flops(whole, every, memory=memory)


def test_flops_of_a_sweep_are_those_of_its_run() -> None:
    whole = problem(binary=False)
    found = estimate_sweep(whole.model, whole.left, whole.right, grid=GRID)
    given = whole.model, whole.left, whole.right
    real, swept = counted(lambda: sweep_lora(*given, grid=GRID, options=RunOptions(memory="1GiB")))
    layers = resolve_sets(whole.model, {"": GRID.targets}, 4, GRID.seeds)
    sides = Sides.of(whole.left, whole.right)
    request = Request(whole.model, sides, must_move=must_move(layers, GRID))
    assert found.costs.flops == real - counted(request.validate)[0]
    kernels = [swept.full, swept.targets_full, *swept.kernels.values()]
    assert found.output_bytes == sum(k.values.nbytes for k in kernels) + _logits(swept.full)


def _logits(kernel: Kernel) -> int:
    sides = kernel.left_logits, kernel.right_logits
    return sum(logits.nbytes for logits in sides if logits is not None)


def test_bytes_are_those_of_the_results(tmp_path: Path) -> None:
    whole = problem(binary=False)
    found = estimate_kernel(whole.model, whole.left, whole.right)
    kernel = compute_kernel(whole.model, whole.left, whole.right)
    assert found.entries == kernel.values.size
    assert found.output_bytes == kernel.values.nbytes + _logits(kernel)
    subspace = RandomSubspace(32, "srht")
    about = estimate_features(whole.model, whole.right, subspace=subspace)
    features = compute_features(
        whole.model, whole.right, subspace=subspace, out=tmp_path / "f.zarr"
    )
    assert about.output_bytes == features.values.nbytes + features.logits.nbytes
    assert about.entries == features.values.size // 32


def test_flops_of_capture_are_exact_for_every_length() -> None:
    whole = problem()
    request = Request(whole.model, Sides.of(whole.left, whole.right))
    probe, every = CaptureProbe(request.job, request.sides.every), request.sides.every
    flops, captured = counted(partial(request.job.capture, every))
    assert probe.work(request.job, [every])[0] == flops
    alone = [request.job.capture([example]).nbytes() for example in every]
    assert probe.held(every) == pytest.approx(sum(alone), rel=0.01)  # tokens that come twice
    assert len(captured) == len(every)
    features = estimate_features(whole.model, every, subspace=RandomSubspace(8, "srht"))
    assert features.costs.phases[1] == Phase("capture", features.costs.phases[1].seconds, flops)


def test_factors_that_are_read_again_are_counted_as_files() -> None:
    whole = problem()
    ample, little = (
        estimate_kernel(whole.model, whole.left, whole.right, options=RunOptions(memory=memory))
        for memory in ("1GiB", LITTLE)
    )
    assert ample.costs.scratch_bytes == 8 * ample.entries
    assert little.costs.scratch_bytes > ample.costs.scratch_bytes
    assert [phase.name for phase in little.costs.phases][-1] == "disk"
    changes = [each.change for each in ample.alternatives]
    assert "--memory 2GiB" in changes
    assert "5 on the left" in changes
    smaller = next(each for each in ample.alternatives if each.change == "11 on the right")
    assert smaller.costs.flops < ample.costs.flops


def test_a_polynomial_goes_through_its_points_exactly() -> None:
    quadratic = Polynomial(tuple((t, 7 * t * t + 3 * t + 11) for t in (4, 9, 25)))
    assert [quadratic(t) for t in (1, 9, 2000)] == [21, 605, 28006011]
    assert Polynomial(((5, 100),))(70) == 100


def test_estimates_of_several_runs_add_up() -> None:
    costs = Costs((Phase("checks", 1.0), Phase("capture", 2.0, 10)), 5, 3)
    found = Estimate("kernel entries", 4, costs, 32).times(3).after("start", 2.0)
    assert found.costs.seconds == 11.0
    assert found.costs.flops == 30
    assert (found.entries, found.output_bytes, found.costs.memory_bytes) == (12, 96, 5)
    assert json.loads(json.dumps(found.as_dict()))["phases"][0]["name"] == "start"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"rule": "signgd"}, ["'signgd'", "use sgd"]),
        ({"engine": "reference"}, ["'reference'", "use factors"]),
        ({"options": RunOptions(memory="1KiB")}, ["--memory", "two examples"]),
    ],
)
def test_what_is_not_estimated_is_refused(asked: dict[str, Any], words: list[str]) -> None:
    whole = problem()
    with pytest.raises(UserError) as refused:
        estimate_kernel(whole.model, whole.left, whole.right, **asked)
    assert all(word in str(refused.value) for word in words)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Model, task and data of a command that takes a second."""
    folder = tmp_path_factory.mktemp("estimates")
    model, data = masked_model(folder / "model"), reviews(folder)
    return ["--model", str(model), "--task", "mr", "--data", str(data), "--shots", "4"]


@pytest.mark.parametrize(
    ("command", "own"),
    [
        ("kernel", ["--right", "test"]),
        ("kernel", ["--subspace", "random:dim=8,kind=srht"]),
        ("features", ["--dim", "8"]),
        ("analyze lora", ["--ranks", "1,2", "--adapter-seeds", "1", "--no-rates"]),
    ],
)
def test_commands_are_estimated_with_their_options(
    asked: list[str], command: str, own: list[str], tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "out")]
    words = ["estimate", *command.split(), *asked, *own, *out]
    table = CliRunner().invoke(cli.cli, words, catch_exceptions=False)
    assert max(map(len, table.stdout.splitlines())) <= 80
    assert "capture" in table.stdout
    told = CliRunner().invoke(cli.cli, [*words, "--json"], catch_exceptions=False)
    found = json.loads(told.stdout)
    assert found["seconds"] == pytest.approx(sum(p["seconds"] for p in found["phases"]))
    assert found["alternatives"]
    assert found["phases"][0]["name"] == "start"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("text,label\nit was good,1.5\nit was bad,0.5\n", "a regression"),
        ("prompt,completion\nit was,good\nthis is,bad\n", "single words"),
    ],
)
def test_what_no_classifier_judges_is_refused(
    asked: list[str], rows: str, said: str, tmp_path: Path
) -> None:
    header, *lines = rows.splitlines()
    cells = [line.partition(",") for line in lines]
    many = [f"{text} {i},{label}" for i in range(10) for text, _, label in cells]
    (tmp_path / "rows.csv").write_text("\n".join([header, *many]) + "\n")
    words = [*asked[:2], "--data", str(tmp_path / "rows.csv")]
    head = ["--head", "linear"] if "regression" in said else []
    result = CliRunner().invoke(cli.cli, ["estimate", "analyze", "lora", *words, *head])
    assert isinstance(result.exception, UserError), result.output
    assert said in str(result.exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finetune"], ["'finetune'", "kernel, features or analyze lora"]),
        (["analyze", "width"], ["'analyze width'", "kernel, features or analyze lora"]),
        (["kernel", "--model", "x", "--rule", "adam"], ["'adam'", "use sgd"]),
        (["analyze", "lora", "--model", "x", "--task", "mr", "--verify"], ["--verify", "leave"]),
        (["analyze", "lora", "--model", "x", "--task", "mr,cr"], ["mr,cr", "one at a time"]),
    ],
)
def test_other_commands_are_refused_in_one_line(words: list[str], said: list[str]) -> None:
    result = CliRunner().invoke(cli.cli, ["estimate", *words])
    assert isinstance(result.exception, UserError), result.output
    assert all(word in str(result.exception) for word in said)
