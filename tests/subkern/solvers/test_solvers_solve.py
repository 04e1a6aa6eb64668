"""Grids, and solving on kernel objects as ``subkern solve`` does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from analyses.engine.classifiers import Split, predict, tune
from subkern.errors import UserError
from subkern.kernels.kernel import Kernel
from subkern.solvers import (
    GRIDS,
    SOLVERS,
    default_grid,
    evaluate,
    make_solver,
    parse_grid,
    parse_scales,
    select,
)

RULE = {"rule": "asymmetric_signgd"}


class TwoWay(Kernel):
    """A kernel that carries its second direction."""

    reverse: Any = None


def kernels(c: int = 2, rule: str = "asymmetric_signgd", f0: bool = True) -> dict[str, Kernel]:
    """Return train, dev and test kernels of random gradients, with their reverse if asymmetric."""
    rng = np.random.default_rng(0)
    ids = {name: [f"{name}-{i}" for i in range(k)] for name, k in (("train", 14), ("dev", 10))}
    ids["test"] = [f"test-{i}" for i in range(12)]
    weights = rng.normal(size=25)
    grads = {name: rng.normal(size=(len(each), c, 25)) for name, each in ids.items()}
    labels = {name: (g @ weights).argmax(axis=1) % c for name, g in grads.items()}
    labels["train"][:4] = [0, 1, 0, 1]
    logits = {name: 0.3 * (g @ weights) for name, g in grads.items()}
    asymmetric = rule.startswith("asymmetric")
    first = np.sign(grads["train"]) if asymmetric else grads["train"]
    found: dict[str, Kernel] = {}
    for name, g in grads.items():
        found[name] = TwoWay(
            np.einsum("iap,jbp->iajb", first, g),
            ids["train"],
            ids[name],
            labels["train"],
            labels[name],
            {"rule": rule},
            logits["train"] if f0 else None,
            logits[name] if f0 else None,
            asymmetric=asymmetric,
        )
        if asymmetric:
            reverse = np.einsum("iap,jbp->iajb", grads["train"], np.sign(g))
            found[name].reverse = reverse
    return found


def solve(name: str, k: dict[str, Kernel], **settings: Any) -> dict[str, Any]:
    dev = settings.pop("dev", k["dev"])
    return evaluate(name, k["train"], k["test"], dev, **settings)


def test_every_solver_has_a_grid_of_parameters_that_it_has():
    assert set(GRIDS) == set(SOLVERS)
    for name in SOLVERS:
        known = make_solver(name).get_params()
        assert set(default_grid(name, reverse=True)) <= set(known)
        assert default_grid(name, f0=False)["f0_scale"] == (None,)
    assert "lam" not in default_grid("asym")
    assert default_grid("asym", reverse=True)["lam"] == (1.0, 0.5, 0.0)


@pytest.mark.parametrize("name", ["asym", "asym-ridge"])
def test_solvers_of_asymmetric_kernels_solve_with_their_grids(name: str):
    k = kernels()
    found = solve(name, k, grid="default")
    chosen = select(
        make_solver(name),
        default_grid(name, reverse=True),
        k["train"],
        k["dev"],
        f0=k["train"].right_logits,
        dev_f0=k["dev"].right_logits,
    )
    assert (
        found["dev accuracy"]
        == chosen.dev_score
        == max(point["dev_score"] for point in chosen.candidates)
    )
    assert found["f0 scale"] == chosen.params["f0_scale"]
    f0 = k["test"].right_logits if found["f0 scale"] else None
    assert found["eval accuracy"] == chosen.solver.score(k["test"], f0=f0)
    if name == "asym":
        assert found["gamma"] in GRIDS["asym"]["gamma"]
        assert found["lam"] in (0.0, 0.5, 1.0)
        assert found["regularization"] == 1 / found["gamma"]


def test_the_chosen_point_is_the_best_on_dev_and_is_reported():
    k = kernels()
    grid = {"gamma": [0.1, 10.0], "lam": [0.0, 1.0]}
    found = solve("asym", k, grid=grid, f0_scales=(None, 2.0))
    fixed = [
        solve("asym", k, grid={"gamma": [g], "lam": [lam]}, f0_scales=(s,))
        for g in grid["gamma"]
        for lam in grid["lam"]
        for s in (None, 2.0)
    ]
    assert found["dev accuracy"] == max(each["dev accuracy"] for each in fixed)
    assert found in fixed


def test_single_values_need_no_dev():
    k = kernels()
    found = solve("asym", k, dev=None, grid={"gamma": [3.0], "lam": [0.5]})
    solver = make_solver("asym", gamma=3.0, lam=0.5).fit(k["train"], f0=k["train"].right_logits)
    expected = solver.score(
        k["test"].values,
        k["test"].right_labels,
        k["test"].right_logits,
        reverse=k["test"].reverse,
    )
    assert found["eval accuracy"] == expected
    assert (found["gamma"], found["lam"], found["dev accuracy"]) == (3.0, 0.5, None)


def test_symmetric_kernels_do_not_search_the_direction():
    found = solve("asym", kernels(rule="sgd", f0=False), grid="default")
    assert (found["lam"], found["f0 scale"], found["zero-shot accuracy"]) == (1.0, None, None)


def test_svr_reports_its_penalty_and_tube():
    found = solve("svr", kernels(rule="sgd"), grid={"C": [0.1, 1.0], "epsilon": [0.1, 0.3]})
    assert found["C"] in (0.1, 1.0)
    assert found["epsilon"] in (0.1, 0.3)


@pytest.mark.parametrize("c", [2, 3])
def test_symmetric_solvers_refuse_and_name_the_others(c: int):
    for name in ("ridge", "lstsq", "logistic", "svc", "svr"):
        with pytest.raises(UserError, match=r"\(asym, asym-ridge, row-logistic\)"):
            solve(name, kernels(c), dev=None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: solve("asym", k, dev=None, grid="default"), "give --dev"),
        (lambda k: solve("asym", k, dev=None, grid={"gamma": [1, 2]}), "2 values of gamma"),
        (lambda k: solve("asym", k, grid={"C": [1]}), "no parameter 'C': it has f0_scale, gamma"),
        (lambda k: solve("asym", k, dev=None, grid={"C": [1]}), "no parameter 'C'"),
        (lambda k: solve("ridge", k, grid={"regularization": []}), "no values"),
        (lambda k: solve("asym", k, grid={"gamma": [1, "x"]}), "gamma='x': give numbers"),
        (lambda k: solve("asym", k, dev=None, grid={"lam": [None]}), "lam=None: give numbers"),
        (lambda k: solve("svr", k, grid={"cv": [2.5]}), "cv=2.5: give whole numbers"),
        (lambda k: solve("asym", k, grid={"logits": ["all"]}), "logits='all' is not known"),
        (lambda k: parse_grid(["gamma"]), "'gamma' is not NAME=VALUE"),
        (lambda k: parse_grid(["gamma="]), "is not NAME=VALUE"),
        (lambda k: parse_grid(["default", "lam=0"]), "'default' alone"),
        (lambda k: parse_scales("1,two"), "'1,two' is not numbers"),
        (lambda k: parse_grid(["lam=0", "lam=1"]), "given twice"),
    ],
)
def test_bad_grids_are_one_line(call: Callable[..., object], message: str):
    with pytest.raises(UserError, match=message) as caught:
        call(kernels())
    assert "\n" not in str(caught.value)


def test_grids_are_read_from_text():
    read: Any = parse_grid(
        ["gamma=0.1, 1e3", "cv=5", "regularization=none", "logits=joint,separate"]
    )
    assert read == {
        "gamma": (0.1, 1000.0),
        "cv": (5,),
        "regularization": (None,),
        "logits": ("joint", "separate"),
    }
    assert isinstance(read["cv"][0], int)
    assert parse_grid(["default"]) == "default"
    assert parse_grid([]) == {}
    assert parse_scales("none,1,1e2") == (None, 1.0, 100.0)


def test_the_command_line_takes_grids(tmp_path: Path):
    k = kernels(rule="sgd")
    paths = {name: str(each.save(tmp_path / name)) for name, each in k.items()}

    def run(*args: str) -> Any:
        given = ["solve", paths["train"], paths["test"], *args, "--json"]
        return CliRunner().invoke(cli.cli, given, catch_exceptions=True)

    grids = ("--grid", "gamma=0.1,10", "--grid", "logits=joint")
    found = json.loads(run("--solver", "asym", "--dev", paths["dev"], *grids).output)[0]
    assert found["gamma"] in (0.1, 10)
    assert found["logits"] == "joint"
    default = json.loads(run("--solver", "svc", "--dev", paths["dev"], "--grid", "default").output)[
        0
    ]
    assert default["regularization"] in GRIDS["svc"]["regularization"]
    refused = run("--solver", "asym", "--grid", "gamma=1,2").exception
    assert isinstance(refused, UserError)
    assert "give --dev" in str(refused)


@pytest.mark.parametrize("solver", ["asym", "asym-ridge", "svr"])
def test_analyses_name_these_solvers_too(solver: str):
    k = kernels(rule="sgd")
    names = ("train", "dev", "test")
    values = np.concatenate([k[name].values for name in names], axis=2)
    ids, labels, logits = (
        [each for name in names for each in getattr(k[name], field)]
        for field in ("right_ids", "right_labels", "right_logits")
    )
    whole = Kernel(
        values,
        k["train"].left_ids,
        ids,
        k["train"].left_labels,
        labels,
        {"rule": "sgd"},
        k["train"].left_logits,
        logits,
    )
    split = Split(*(k[name].right_ids for name in names))
    settings = tune(whole, split, solver, "accuracy")
    assert set(settings) == set(default_grid(solver))
    found = solve(solver, k, grid="default")
    same = float(np.mean(predict(whole, split, solver, settings) == k["test"].right_labels))
    assert same == found["eval accuracy"]
