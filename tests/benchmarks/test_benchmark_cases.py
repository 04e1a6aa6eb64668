"""Benchmarks of signs, sweeps and projections, and who gets a turn when.

Nothing here is timed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.accuracy import errors, sweep_oracle
from benchmarks.batching import Batching
from benchmarks.cases import QUICK, Cases
from benchmarks.measure import Sample
from benchmarks.models import tiny_causal
from benchmarks.ours import RankSweep, Subkern, both_directions
from benchmarks.paper_signs import PaperSigns
from benchmarks.problem import Problem
from benchmarks.projection_case import expected_errors, middle_gradients
from benchmarks.projectors import CONTENDERS, Missing
from benchmarks.race import take_turns
from benchmarks.schedule import schedule, seconds_for
from subkern.kernels.compute import compute_kernel


def problem(binary: bool = True) -> Problem:
    made = tiny_causal(4, 5)
    made.model.double()
    made.model.binary = binary
    return made


@pytest.mark.parametrize(
    ("rule", "binary"),
    [("signgd", True), pytest.param("asymmetric_signgd", False, marks=pytest.mark.slow)],
)
def test_sign_contenders_compute_the_kernels(rule: str, binary: bool) -> None:
    whole = problem(binary)
    exact = both_directions(
        compute_kernel(whole.model, whole.left, whole.right, rule=rule, engine="reference")
    )
    assert exact.ndim == (4 if rule == "signgd" else 5)
    field = (
        PaperSigns(whole, rule, Batching(1, 1), collect=True),
        PaperSigns(whole, rule, Batching(2, 3)),
        Subkern(whole, rule=f"{rule}:zero_tolerance=0"),  # every entry as it is, as the others
    )
    for contender in field:
        values = contender.values(whole)
        found = errors(values, exact)
        assert max(found.values()) < 1e-10
        assert contender.sample(0).seconds_per_entry > 0


def test_sign_batches_stay_within_the_memory() -> None:
    whole = problem()
    size = sum(p.numel() * p.element_size() for p in whole.model.parameters())
    paper = PaperSigns(whole, row_bytes=3.5 * size)
    assert paper.most == 3
    paper.tune(lambda line: None, seconds=60.0)
    assert paper.batching.left <= 2
    assert str(paper.batching) in paper.search


def test_the_sweep_computes_the_kernels_of_its_oracle() -> None:
    whole = problem()
    oracle = sweep_oracle(whole, QUICK.grid)
    assert oracle.reference_error < 1e-8
    sweep = RankSweep(whole, grid=QUICK.grid)
    assert max(errors(sweep.values(whole), oracle.values).values()) < 1e-10
    assert sweep.sample(0).entries == whole.entries * 7


def test_cases_share_the_kernel() -> None:
    cases = Cases(problem(), QUICK)
    kernel, sweep = cases.named("kernel"), cases.named("sweep")
    assert kernel.field[kernel.base] is sweep.field[sweep.base]


def test_gradients_are_those_of_the_middle_layers() -> None:
    whole = tiny_causal(4, 5)
    gradients = middle_gradients(whole, 3)
    assert all("layers." in name for name in gradients)
    assert {len(g) for g in gradients.values()} == {3}
    assert all(g.any() for g in gradients.values())


def test_the_schedule_filters_and_shares() -> None:
    whole = schedule()
    assert [(s.model, s.cases) for s in whole] == [
        ("minilm", ("kernel", "sweep")),
        ("minilm", ("projection",)),
        ("smollm2", ("kernel", "sign")),
    ]
    assert sum(s.minutes for s in whole) == 15.0
    assert seconds_for(whole, 900.0) == 60 * whole[0].minutes
    assert [s.model for s in schedule(cases=["sign"])] == ["smollm2"]
    assert schedule(["minilm"], ["sign"])[0].cases == ("sign",)
    assert schedule(cases=["asymmetric-sign"])[0].model == "smollm2"
    assert [s.model for s in schedule(["smollm2"])] == ["smollm2"]


class Steady:
    """A contender whose every turn takes as long."""

    def __init__(self, seconds: float, clock: list[float]) -> None:
        self.seconds, self.clock = seconds, clock

    def sample(self, turn: int) -> Sample:
        self.clock[0] += self.seconds
        return Sample(self.seconds, self.seconds, 1)


@dataclass
class Turn:
    """An entrant of which only turns matter."""

    label: str
    contender: Steady
    samples: list[Sample]


@pytest.mark.parametrize(("deadline", "turns"), [(0.0, [1, 1]), (16.0, [2, 1]), (60.0, [3, 3])])
def test_no_turn_begins_that_would_end_too_late(
    monkeypatch: pytest.MonkeyPatch, deadline: float, turns: list[int]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("benchmarks.race.time.monotonic", lambda: clock[0])
    field = [Turn("quick", Steady(2.0, clock), []), Turn("slow", Steady(10.0, clock), [])]
    take_turns(field, 3, 0.0, lambda line: None, deadline)
    assert [len(entrant.samples) for entrant in field] == turns


def test_projected_gradients_have_the_gram_matrix_in_the_mean() -> None:
    torch.manual_seed(0)
    gradients = {"a": torch.randn(4, 300), "b": torch.randn(4, 77)}
    gram = sum(g.double() @ g.double().T for g in gradients.values())
    known = {label: find for label, find in CONTENDERS.items() if label.startswith("subkern")}
    assert len(known) == 6
    for find in known.values():
        grams = []
        for seed in range(200):
            rows = find()(gradients, 64, seed)().double()
            assert rows.shape == (4, 64)
            grams.append(rows @ rows.T)
        mean = torch.stack(grams).mean(0)
        expected = expected_errors(gram.numpy(), 64)["raw"] / 200**0.5
        assert (mean - gram).norm() / gram.norm() < 3 * expected


def test_expected_error_is_that_of_gaussian_projections() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(5, 40)) + 1.0
    gram = rows @ rows.T
    found = []
    for _ in range(2000):
        projected = rows @ generator.normal(size=(40, 30)) / 30**0.5
        pair = (projected @ projected.T)[:, None, :, None], gram[:, None, :, None]
        found.append([errors(*pair)[k] ** 2 for k in ("raw", "centred")])
    expected = expected_errors(gram, 30)
    measured = np.sqrt(np.mean(found, axis=0))
    assert measured == pytest.approx([expected["raw"], expected["centred"]], rel=0.05)


def test_a_package_that_is_not_there_is_missing_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.projectors.DEPS", tmp_path)
    monkeypatch.setitem(sys.modules, "trak.projectors", None)
    with pytest.raises(Missing, match=r"trak is not here .*make bench-deps"):
        CONTENDERS["TRAK, normal"]()
