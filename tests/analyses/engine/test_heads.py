"""Where a linear head starts in the studies: each data seed's own probe, or at random."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from analyses.behavior import runs as behavior_runs
from analyses.behavior.study import BehaviorStudy
from analyses.engine import heads, parts
from analyses.engine.inputs import load_inputs
from analyses.engine.run_folder import Results
from analyses.lora.study import LoraStudy
from analyses.prompting.study import PromptingStudy
from analyses.subspace.study import SubspaceStudy
from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.training.finetune import finetune
from subkern.training.linear_probe import linear_probe
from tests.support import tiny_folder

lora = LoraStudy()
subspace = SubspaceStudy()
behavior = BehaviorStudy()
prompting = PromptingStudy()

SEEDS = (13, 21)
SMALL: dict[ModuleType, dict[str, Any]] = {
    lora: {"ranks": (1,), "adapter_seeds": 1, "kernel_resamples": 0, "solvers": ("ridge",)},
    subspace: {
        "dims": (2, 4), "kinds": ("srht",), "projection_seeds": 1, "ranks": (), "methods": (),
        "solvers": ("ridge",),
    },
    behavior: {"learning_rates": (1e-3,), "steps": 2, "looks": 1, "kernel_steps": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model and a tiny `mr` in it."""
    root = tmp_path_factory.mktemp("tiny")
    tiny_folder.masked_model(root / "model")
    for seed in SEEDS:
        tiny_folder.reviews(root / "data", seed=seed)
    return root


def config(tiny: Path, kind: ModuleType, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "model": str(tiny / "model"), "task": "mr", "data": str(tiny / "data"), "shots": 4,
        "head": "linear", "head_init": "probe", "resamples": 5, "data_seeds": SEEDS,
        "test_limit": 6,
    }  # fmt: skip
    return kind.settings.from_dict(settings | SMALL.get(kind, {}) | changes)


def full(results: Results, seed: int) -> Any:
    """Return the kernel of all parameters on a data seed."""
    kernels = results.kernels
    return kernels.get(f"{seed}/full") or kernels[f"{seed}/start"]


@pytest.mark.parametrize("kind", [lora, subspace, behavior])
def test_each_data_seed_starts_at_its_own_probe(tiny: Path, kind: ModuleType) -> None:
    settings = config(tiny, kind)
    found = kind.run(settings)
    inputs = load_inputs(settings)
    model = parts.load(settings, inputs)
    starts = []
    for seed, splits in inputs.splits.items():
        encoded = parts.encode(model, splits)
        kernel = full(found, seed)
        starts.append(kernel.provenance["model"]["head_init"])
        assert starts[-1]["kind"] == "probe"
        wanted = linear_probe(model, encoded).logits["test"]
        given = kernel.select(right=[e.id for e in encoded["test"]]).right_logits
        assert np.allclose(given, wanted[:, 1:] - wanted[:, :1], atol=1e-5)
        begun = heads.at_start(model, encoded["train"], "probe")
        every = [example for split in encoded.values() for example in split]
        assert kernel.allclose(compute_kernel(begun, encoded["train"], every), rtol=1e-4)
    assert starts[0]["examples"] != starts[1]["examples"]


@pytest.mark.parametrize("kind", [lora, subspace])
def test_zero_shot_that_is_a_probe_is_told(tiny: Path, kind: ModuleType) -> None:
    probe, random = (
        kind.run(config(tiny, kind, head_init=start, data_seeds=SEEDS[:1]))
        for start in ("probe", None)
    )
    assert any("starts at the linear probe" in note for note in kind.caveats(kind.findings(probe)))
    assert not any("linear probe" in note for note in kind.caveats(kind.findings(random)))
    assert random.config["head_init"] == "random"
    assert "head_init" not in full(random, 13).provenance["model"]


def test_real_runs_start_where_their_kernel_is(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def train(model: Any, *args: Any, **options: Any) -> Any:
        found = finetune(model, *args, **options)
        started.append(found.start_logits["test"])
        return found

    monkeypatch.setattr(behavior_runs, "finetune", train)
    found = behavior.run(config(tiny, behavior, data_seeds=SEEDS[:1]))
    kernel = full(found, 13)
    for logits in started:
        assert np.allclose(logits, kernel.right_logits[-len(logits) :], atol=1e-6)


@pytest.mark.parametrize("kind", [lora, subspace, behavior])
def test_a_probe_needs_a_linear_head(tiny: Path, kind: ModuleType) -> None:
    with pytest.raises(UserError, match=r"^--head-init probe starts a linear head: add --head"):
        config(tiny, kind, head="prompt")


@pytest.mark.parametrize("name", ["lora", "subspace", "behavior", "prompting"])
def test_the_commands_take_it(name: str, tmp_path: Path) -> None:
    asked = ["analyze", name, "--model", "m", "--task", "mr", "--out", str(tmp_path / "run")]
    more = ["--no-linear"] if name == "prompting" else []
    found = CliRunner().invoke(cli.cli, [*asked, *more, "--head-init", "probe"])
    assert "--head-init probe starts a linear head" in str(found.exception) + found.output


def test_where_a_head_starts_decides_the_numbers(tiny: Path, tmp_path: Path) -> None:
    assert config(tiny, lora).decisive()["head_init"] == "probe"
    assert lora.settings(model="m", task="mr").decisive()["head_init"] == "random"
    lora.analyze(config(tiny, lora, data_seeds=SEEDS[:1]), tmp_path / "run")
    other = config(tiny, lora, data_seeds=SEEDS[:1], head_init="random")
    with pytest.raises(UserError, match=r"head_init: \S*random\S* asked for, \S*probe"):
        lora.analyze(other, tmp_path / "run")


def test_too_few_examples_for_a_probe_are_refused_at_once(tiny: Path, tmp_path: Path) -> None:
    settings = config(tiny, prompting, head="prompt", train_limit=2)
    message = "probe needs two training examples of each label and seed 13 has 0 of '1'"
    with pytest.raises(UserError, match=message):
        prompting.analyze(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_start_is_refused(tiny: Path) -> None:
    with pytest.raises(UserError, match="head_init 'zero' is unknown: use random, probe"):
        config(tiny, lora, head_init="zero")
