"""Benchmarks: every contender computes the same kernel, and a run writes what it promises.

Nothing here is timed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy import errors
from benchmarks.batching import AS_SHIPPED, Batching, BatchSearch
from benchmarks.cases import FULL, OURS
from benchmarks.explicit_rows import ExplicitRows
from benchmarks.flops import kernel_flops
from benchmarks.measure import counted
from benchmarks.models import tiny_causal, tiny_masked
from benchmarks.ours import Subkern
from benchmarks.paper import PaperAlgorithm
from benchmarks.problem import Problem, batches, by_length, padded, spread, strata
from benchmarks.projectors import CONTENDERS as PROJECTIONS
from benchmarks.report import SCHEMA, report
from benchmarks.roofline import PHASES, Stopwatch
from subkern.cores import MUCH
from subkern.kernels.compute import compute_kernel

ROOT = Path(__file__).resolve().parents[2]
CASES = {"masked": tiny_masked, "causal": tiny_causal}
CONTENDERS = {
    "paper-1x1": lambda p: PaperAlgorithm(p, AS_SHIPPED),
    "paper-2x3": lambda p: PaperAlgorithm(p, Batching(2, 3)),
    "rows": ExplicitRows,
    "subkern": Subkern,
}


def problem(case: str, binary: bool = True) -> Problem:
    made = CASES[case](5, 7)
    made.model.double()
    made.model.binary = binary
    return made


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_computes_the_kernel(case: str, binary: bool, name: str) -> None:
    whole = problem(case, binary)
    exact = compute_kernel(whole.model, whole.left, whole.right, engine="reference").values
    values = CONTENDERS[name](whole).values(whole)
    assert values.shape == exact.shape
    assert np.linalg.norm(exact) > 0
    assert errors(values, exact)["raw"] < 1e-10
    assert errors(values, exact)["centred"] < 1e-10


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_turn_counts_its_entries_and_flops(name: str) -> None:
    whole = problem("masked")
    contender = CONTENDERS[name](whole)
    sample = contender.sample(turn=1)
    assert sample.seconds_per_entry > 0
    assert sample.entries > 0
    assert sample.wall_seconds > 0
    # Whatever the way, an entry takes at least an inner product of two linear layers' gradients
    # or a pass through them.
    linear = sum(p.numel() for n, p in whole.model.named_parameters() if "layer" in n)
    flops = contender.flops_per_entry()
    assert flops is not None
    assert flops > linear


def test_the_paper_costs_what_the_issue_says() -> None:
    """A row's tangent costs 4PT FLOPs, and the model's own forward 2PT, shared by the rows."""
    whole = problem("causal")
    block = whole.model.module.model.layers
    size = sum(p.numel() for p in block.parameters() if p.dim() == 2)
    tokens = sum(padded(b) for b in batches(whole.right, 7)) / len(whole.right)
    alone = PaperAlgorithm(whole, Batching(1, 7)).flops_per_entry()
    shared = PaperAlgorithm(whole, Batching(5, 7)).flops_per_entry()
    assert 6 * size * tokens < alone
    assert 4.4 * size * tokens < shared < alone


def test_tuning_settles_on_sizes_that_were_tried() -> None:
    whole = problem("masked")
    said: list[str] = []
    paper = PaperAlgorithm(whole, left_sizes=(1, 2), right_sizes=(1, 4))
    paper.tune(said.append, seconds=60.0)
    assert str(paper.batching) in paper.search
    assert {"1 x 1", "1 x 4"} <= paper.search.keys()
    assert len(said) == len(paper.search)


def test_the_search_climbs_while_it_gets_faster() -> None:
    seconds = {"1 x 8": 4.0, "1 x 16": 2.0, "1 x 32": 3.0, "2 x 16": 1.0, "4 x 16": 0.5}
    search = BatchSearch(lambda b: seconds[str(b)], lambda line: None, seconds=60.0)
    assert search.run((1, 2, 4, 8), (8, 16, 32), most=64) == Batching(4, 16)
    assert search.ms_per_entry == {name: 1e3 * s for name, s in seconds.items()}
    hurried = BatchSearch(lambda b: seconds[str(b)], lambda line: None, seconds=-1.0)
    assert hurried.run((1, 2), (8, 16), most=64) == Batching(1, 8)


def test_flops_counted_on_all_examples_are_those_of_the_kernel() -> None:
    """Beside the kernel's own, compute_kernel counts its checks: a few examples' captures."""
    whole = tiny_causal(11, 16)
    whole = replace(whole, left=whole.left[::5], right=whole.right[::5])  # no padding: 5 tokens
    fewer = replace(whole, right=whole.right[:3])
    compute_kernel(whole.model, whole.left)  # what a model takes is looked at once
    real, less = (
        counted(partial(compute_kernel, p.model, p.left, p.right))[0] for p in (whole, fewer)
    )
    whole_flops = sum(kernel_flops(whole, 3, 4).values())
    assert whole_flops < real
    mine = whole_flops - sum(kernel_flops(fewer, 3, 3).values())
    assert mine == pytest.approx(real - less, rel=0.01)  # embedding rows met are counted by kind
    assert sum(kernel_flops(whole, 1, 2).values()) == pytest.approx(whole_flops, rel=0.02)


def test_batches_hold_neighbours_in_length_and_lose_nobody() -> None:
    examples = problem("masked").right
    found = batches(examples, 3)
    assert [e for b in found for e in b] == by_length(examples)
    assert padded([examples[0], examples[4]]) == 2 * 9


@pytest.mark.parametrize("turn", range(6))
def test_strata_spread_over_the_whole_range(turn: int) -> None:
    picks = strata(100, 4, turn)
    assert [p // 25 for p in picks] == [0, 1, 2, 3]
    assert strata(3, 8, turn) == sorted(set(strata(3, 8, turn)))
    assert len(spread(problem("masked").right, 3, turn)) == 3


def test_errors_see_what_centring_uncovers() -> None:
    exact = 100.0 + np.arange(12.0).reshape(3, 1, 4, 1) ** 2
    shifted = exact + 1.0
    bent = exact.copy()
    bent[0, 0, 0, 0] += 1.0
    assert errors(shifted, exact)["centred"] < 1e-12 < errors(shifted, exact)["raw"]
    assert errors(bent, exact)["centred"] > errors(bent, exact)["raw"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run as a real process writes."""
    out = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)]
    command += ["--model", "smollm2"]
    for case in ("kernel", "sweep", "sign", "projection"):
        command += ["--case", case]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SUBKERN_BENCH_DEPS": str(out)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    text = (out / "benchmark.txt").read_text()
    assert text in done.stdout
    assert max(map(len, text.splitlines())) <= 80
    loaded: dict[str, Any] = json.loads((out / "benchmark.json").read_text())
    return loaded


def test_json_names_environment_and_settings(results: dict[str, Any]) -> None:
    assert results["schema"] == SCHEMA
    assert results["quick"] is True
    assert results["environment"]["versions"]["torch"]
    assert results["environment"]["machine"]["threads"] == 1
    assert results["settings"]["rounds"] == 1
    assert results["settings"]["grid"]["ranks"] == [1, 2, 4]
    assert {c["problem"] for c in results["cases"]} == {"tiny-llama"}
    assert [c["case"] for c in results["cases"]] == [
        "kernel",
        "sweep",
        "sign (signgd)",
        "projection",
    ]


def test_json_holds_every_sample_of_every_contender(results: dict[str, Any]) -> None:
    # An entry that counts as zero makes a difference of one in a few hundred signs.
    most = {"kernel": 1e-3, "sweep": 1e-3, "sign": 0.02, "projection": 1.0}
    for case in results["cases"]:
        contenders = {c["label"]: c for c in case["contenders"]}
        for c in contenders.values():
            assert len(c["samples"]) == results["settings"]["rounds"]
            assert c["seconds_per_entry"] == c["samples"][0]["seconds_per_entry"] > 0
            assert c["error_raw"] < most[case["case"].partition(" ")[0]]
        assert contenders[case["base"]]["ratio"] == 1.0
        if case["case"] == "kernel":
            assert len(contenders) == 4
            assert all(c["flops_per_entry"] > 0 for c in contenders.values())
        if case["case"] != "projection":
            assert contenders[case["base"]]["samples"][0]["entries"] == case["entries"] == 72
            close = 0.02 if case["case"].startswith("sign") else 1e-8
            assert case["oracle"]["reference_error"] < close


def test_json_holds_aims_and_whether_they_are_met(results: dict[str, Any]) -> None:
    aims = {c["case"]: {a["what"]: a for a in c["aims"]} for c in results["cases"]}
    error = aims["kernel"]["error, raw"]
    assert error["met"] == (error["measured"] <= 1e-5)
    assert error["measured"] < 5e-5  # float32 rounding of a tiny model, some more on some machines
    assert aims["kernel"]["GiB over the model"]["sense"] == "at most"
    assert any("times ours" in what for what in aims["sign (signgd)"])
    [swept] = aims["sweep"].values()
    assert swept["aim"] == 1.3
    assert swept["met"] == (swept["measured"] <= 1.3)


def test_the_sweep_is_held_against_the_kernel_of_the_same_run(results: dict[str, Any]) -> None:
    by_case = {c["case"]: c for c in results["cases"]}
    alone, both = by_case["kernel"], by_case["sweep"]
    ours = next(c for c in alone["contenders"] if c["label"] == OURS)
    assert both["contenders"][0]["label"] == both["base"] == FULL
    assert both["contenders"][0]["samples"] == ours["samples"]


def test_what_is_missing_is_said(results: dict[str, Any]) -> None:
    [case] = [c for c in results["cases"] if c["case"] == "projection"]
    known = {c["label"] for c in case["contenders"]} | case["missing"].keys()
    assert known == set(PROJECTIONS)
    assert case["base"].startswith("subkern")
    for label, reason in case["missing"].items():
        assert "make bench-deps" in reason
        assert label in report(case)


def test_the_roofline_has_every_phase_and_the_rate_of_the_same_run(results: dict[str, Any]) -> None:
    for case in results["cases"]:
        found = case.get("roofline")
        if case["case"] in ("projection", "sweep"):  # the sweep's kernel is told already
            assert found is None
            continue
        seconds, packing = found["seconds"], case["case"].startswith("sign")
        assert seconds.keys() == {*PHASES, "other"}
        known = {"checks", "capture", "packing" if packing else "contraction"}
        assert found["flops"].keys() == known
        for phase in known:
            assert seconds[phase] > 0
            assert found["flops"][phase] > 0
        assert found["gemm_flops_per_second"] > 0
        text = report(case)
        assert all(phase in text for phase in PHASES)
        assert ("NOT IDLE" in text) == (found["cores_of_others"] >= MUCH)


def test_a_phase_counts_without_those_that_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("benchmarks.roofline.time.perf_counter", lambda: clock[0])
    watch = Stopwatch()

    def inner() -> None:
        clock[0] += 2.0

    inside = watch.wrapped("capture", inner)

    def pieces() -> Iterator[int]:
        for i in range(2):
            clock[0] += 1.0
            yield i

    packed = watch.wrapped("packing", pieces)

    def outer() -> None:
        clock[0] += 5.0
        for _ in packed():
            inside()

    watch.wrapped("contraction", outer)()
    assert watch.seconds == {"other": 0.0, "contraction": 5.0, "packing": 2.0, "capture": 4.0}


def test_report_shows_every_contender_and_every_aim(results: dict[str, Any]) -> None:
    for case in results["cases"]:
        text = report(case)
        for c in case["contenders"]:
            assert c["label"] in text
        for a in case["aims"]:
            assert a["what"] in text
            assert ("not met" if not a["met"] else "met") in text
        assert case["title"] in text
