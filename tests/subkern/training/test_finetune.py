"""Fine-tuning: equal to loops written by hand, resumed bit for bit, refused or stopped in words."""

from __future__ import annotations

import json
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import TrainingArguments

from subkern.errors import DamagedError, UserError
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.projections.dense import dense_matrix
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.movable import MovableModel
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import parse_subspace
from subkern.training import trainer
from subkern.training.batch_order import batch_order
from subkern.training.finetune import Diverged, FineTuned, Training, finetune
from subkern.training.optimizers import SignGD, rate_factor
from tests.support import oracles
from tests.support.families import FAMILIES, random_examples
from tests.support.folders import names

ROOT = Path(__file__).resolve().parents[3]
BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
BERT = BY_NAME["bert", "masked"]
STEPS = 6
Splits = dict[str, list[EncodedExample]]


def splits(**counts: int) -> Splits:
    wanted = counts or {"train": 7, "dev": 5, "test": 4}
    return {
        s: random_examples(n, read=BERT.read, seed=i) for i, (s, n) in enumerate(wanted.items())
    }


def training(**changes: Any) -> Training:
    asked = {"learning_rate": 0.01, "batch_size": 3, "steps": STEPS, "eval_every": 2, "seed": 4}
    return Training(**{**asked, **changes})


# --- the loops, written by hand ---


def loss_of(model: LogitModel, batch: list[EncodedExample], kind: str) -> Tensor:
    """Mean loss from logits of unpadded single examples."""
    logits = torch.stack([oracles.logits_alone(model, e) for e in batch])
    labels = torch.tensor([e.label for e in batch])
    if kind == "cross_entropy" and logits.shape[1] > 1:
        return F.cross_entropy(logits, labels)
    if kind == "cross_entropy":
        return F.softplus(-(2 * labels - 1) * logits[:, 0]).mean()
    if logits.shape[1] == 1:
        return 0.5 * (logits[:, 0] - (2 * labels - 1)).pow(2).mean()
    return 0.5 * (logits - F.one_hot(labels, logits.shape[1])).pow(2).sum(1).mean()


def update(z: Tensor, g: Tensor, memory: dict[str, Any], asked: Training, step: int) -> Tensor:
    """One update of a flat vector: the textbook's formula."""
    if asked.optimizer == "sgd":
        return z - asked.learning_rate * g
    if asked.optimizer == "signgd":
        return z - asked.learning_rate * ((g > 0).double() - (g < 0).double())
    if asked.optimizer == "momentum":
        memory["m"] = 0.9 * memory.get("m", 0) + g
        return z - asked.learning_rate * memory["m"]
    if asked.optimizer == "adamw":
        z = z * (1 - asked.learning_rate * 0.01)
    m = memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
    v = memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * g * g
    hat_m, hat_v = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
    return z - asked.learning_rate * hat_m / (hat_v.sqrt() + asked.epsilon)


def by_hand(
    model: LogitModel, trained: Mapping[str, Tensor], data: Splits, asked: Training, p: Any = None
) -> Tensor:
    """Train `trained` of `model` in place; z − z₀ flat (of z where p is the matrix P)."""
    tensors = list(trained.values())
    for t in model.parameters():
        t.requires_grad_(False)
    for t in tensors:
        t.requires_grad_(True)
    start = torch.cat([t.detach().flatten() for t in tensors])
    z = torch.zeros(p.shape[1], dtype=torch.float64) if p is not None else start
    first, memory = z, dict[str, Any]()
    order = batch_order(len(data["train"]), asked.batch_size, asked.steps, asked.seed)
    for step, picks in enumerate(order):
        loss = loss_of(model, [data["train"][i] for i in picks], asked.loss)
        grads = torch.autograd.grad(loss, tensors, allow_unused=True)
        flat = torch.cat(
            [
                (torch.zeros_like(t) if g is None else g).flatten()
                for t, g in zip(tensors, grads, strict=True)
            ]
        )
        z = update(z, flat if p is None else p.T @ flat, memory, asked, step)
        theta = z if p is None else start + p @ z
        with torch.no_grad():
            for t, part in zip(tensors, theta.split([t.numel() for t in tensors]), strict=True):
                t.copy_(part.view_as(t))
    return z - first


def flat(shift: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in shift.values()])


def assert_same(found: FineTuned, expected: Tensor, tolerance: float = 1e-8) -> None:
    shift = flat(found.shift)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(shift, expected, rtol=tolerance, atol=tolerance)


# A hidden key bias has a gradient of pure rounding, and its sign would be a coin's.
NO_KEY_BIAS = r"params:^(?!.*key\.bias)(?!.*pooler)"
cases = pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        ("sgd", "cross_entropy"),
        ("sgd", "squared"),
        ("adam", "cross_entropy"),
        ("signgd", "squared"),
        ("adamw", "cross_entropy"),
        ("momentum", "squared"),
    ],
)


@cases
@pytest.mark.parametrize("c", [1, 2])
def test_training_parameters_equals_the_loop(optimizer: str, loss: str, c: int) -> None:
    data = splits(train=7)
    asked = training(optimizer=optimizer, loss=loss, epsilon=1e-4)
    found = finetune(oracles.logit_model(BERT, c), data, subspace=NO_KEY_BIAS, training=asked)
    model = oracles.logit_model(BERT, c)
    trained = {n: p for n, p in named_parameters(model).items() if n in found.shift}
    assert len(trained) > 20
    assert_same(found, by_hand(model, trained, data, asked))
    assert found.best_step == STEPS
    logits = torch.stack([oracles.logits_alone(model, e) for e in data["train"]]).detach().numpy()
    np.testing.assert_allclose(found.logits["train"][-1], logits, rtol=1e-7, atol=1e-8)


def test_training_everything_equals_the_loop() -> None:
    data, asked = splits(train=7), training(optimizer="sgd", learning_rate=0.1)
    found = finetune(oracles.logit_model(BERT), data, training=asked)
    model = oracles.logit_model(BERT)
    assert_same(found, by_hand(model, named_parameters(model), data, asked))


@cases
def test_training_lora_equals_the_loop(optimizer: str, loss: str) -> None:
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["query", "value"])
    data, asked = splits(train=7), training(optimizer=optimizer, loss=loss, epsilon=1e-4)
    subspace = parse_subspace("lora:r=2,alpha=4,targets=qv,seed=3")
    found = finetune(oracles.logit_model(BERT), data, subspace=subspace, training=asked)
    model = oracles.peft_model(BERT, config, 3)
    trained = {n: p for n, p in model.module.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, value in MovableModel(oracles.logit_model(BERT), subspace).start.items():
            trained[name].copy_(value)  # A; B = 0
    assert list(trained) == list(found.shift)
    assert_same(found, by_hand(model, trained, data, asked))


@cases
@pytest.mark.parametrize("kind", ["gaussian", "srht"])
def test_training_a_random_subspace_equals_the_loop(optimizer: str, loss: str, kind: str) -> None:
    data, asked = splits(train=7), training(optimizer=optimizer, loss=loss, epsilon=1e-4)
    subspace = RandomSubspace(25, kind, 2)
    found = finetune(oracles.logit_model(BERT), data, subspace=subspace, training=asked)
    model = oracles.logit_model(BERT)
    projection = subspace.attach(model).projection
    assert projection is not None
    expected = by_hand(
        model,
        named_parameters(model),
        data,
        asked,
        dense_matrix(projection.projections, projection.cell).double(),
    )
    assert_same(found, expected)


def test_signgd_leaves_what_has_no_gradient_and_shows_what_is_no_number() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    p.grad = torch.tensor([0.0, -3.0, 1e-30, float("nan")])
    SignGD([p], lr=0.5).step()
    torch.testing.assert_close(p.detach(), torch.tensor([1.0, 1.5, 0.5, torch.nan]), equal_nan=True)
    free = torch.nn.Parameter(torch.ones(2))
    optimizer = SignGD([free], lr=0.5)
    assert optimizer.step(lambda: 7.0) == 7.0
    assert free.tolist() == [1.0, 1.0]


def test_the_learning_rate_follows_its_schedule() -> None:
    factors = {s: [rate_factor(s, k, 10, 2) for k in range(10)] for s in ("constant", "linear")}
    assert factors["constant"] == [0.5] + [1.0] * 9
    assert factors["linear"] == [0.5, 1.0, *(1 - k / 8 for k in range(8))]
    assert rate_factor("cosine", 5, 10) == pytest.approx(0.5)
    data = splits(train=7)
    shifts = [
        flat(finetune(oracles.logit_model(BERT), data, subspace="bias", training=t).shift)
        for t in (
            training(optimizer="sgd", steps=1, warmup=1),
            training(optimizer="sgd", steps=1),
            training(optimizer="sgd", steps=2, eval_every=1, schedule="linear", keep_steps=[1]),
        )
    ]
    assert torch.equal(shifts[0], shifts[1])
    assert not torch.equal(shifts[1], shifts[2])


# --- what is kept ---


def test_the_best_step_on_dev_is_kept() -> None:
    data = splits()
    asked = training(learning_rate=0.05, steps=12, keep_steps=[4, 12], log_steps=[3])
    model = oracles.logit_model(BERT)
    found = finetune(model, data, training=asked)
    assert found.looks[:, 0].tolist() == [2, 4, 6, 8, 10, 12]
    ranks = [(s, -loss, -step) for step, loss, s in found.looks.tolist()]
    assert found.best_step == found.looks[ranks.index(max(ranks)), 0]
    assert found.scores["dev"] == found.looks[ranks.index(max(ranks)), 2]
    assert found.dev_loss == found.looks[ranks.index(max(ranks)), 1]
    assert found.steps.tolist() == [0, 3, 12]
    assert {n: v.shape for n, v in found.logits.items()} == {
        n: (3, len(e), 2) for n, e in data.items()
    }
    assert sorted(found.shifts) == [4, 12]
    assert found.losses.shape == (12,)
    tunable = MovableModel(model, parse_subspace("full"))
    for shift, expected in ((found.shift, found.best_logits), (found.shifts[12], found.logits)):
        tunable.move(shift)
        for name, examples in data.items():
            with torch.no_grad():
                logits = tunable(model.collate(examples)).numpy()
            wanted = expected[name] if expected is found.best_logits else expected[name][-1]
            np.testing.assert_allclose(logits, wanted, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        start = model(model.collate(data["test"])).numpy()
    np.testing.assert_allclose(found.start_logits["test"], start, rtol=1e-9, atol=1e-9)
    predicted = found.best_logits["test"].argmax(1)
    assert found.scores["test"] == np.mean(predicted == found.labels["test"])


def test_without_steps_nothing_moves() -> None:
    found = finetune(oracles.logit_model(BERT), splits(), training=training(steps=0))
    assert found.best_step == 0
    assert flat(found.shift).abs().max() == 0
    assert found.steps.tolist() == [0]
    for name, logits in found.start_logits.items():
        assert np.array_equal(logits, found.best_logits[name])


def test_test_is_not_logged_unless_asked_for() -> None:
    found = finetune(oracles.logit_model(BERT), splits(), subspace="bias", training=training())
    assert sorted(found.logits) == ["dev", "train"]
    assert found.steps.tolist() == [0, 2, 4, 6]
    assert found.best_logits["test"].shape == (4, 2)


def test_dropout_is_drawn_by_seed_and_step(tmp_path: Path) -> None:
    data = splits(train=7)
    runs = [
        flat(finetune(oracles.logit_model(BERT), data, subspace="bias", training=t).shift)
        for t in (training(), training(dropout=True), training(dropout=True))
    ]
    assert torch.equal(runs[1], runs[2])
    assert (runs[0] - runs[1]).abs().max() > 1e-4


def test_global_random_states_are_left_alone() -> None:
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    finetune(oracles.logit_model(BERT), splits(), subspace="bias", training=training())
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


@pytest.mark.parametrize("text", ["full", "lora:r=2,targets=query", "random:dim=9,kind=srht"])
def test_a_saved_run_is_read_back(text: str, tmp_path: Path) -> None:
    data, model = splits(), oracles.logit_model(BERT)
    asked = training(keep_steps=[3], learning_rate=0.05)
    found = finetune(model, data, subspace=text, training=asked, out=tmp_path / "run")
    adapter = {"adapter.safetensors"} if text.startswith("lora") else set()
    assert names(tmp_path / "run") == adapter | {
        "settings.json", "result.json", "shift.safetensors", "kept.safetensors", "trajectory.npz"
    }  # fmt: skip
    read = FineTuned.load(tmp_path / "run")
    assert (read.best_step, read.scores, read.settings) == (
        found.best_step,
        found.scores,
        found.settings,
    )
    assert all(torch.equal(read.shift[n], t) for n, t in found.shift.items())
    assert all(torch.equal(read.shifts[3][n], t) for n, t in found.shifts[3].items())
    for group in ("logits", "start_logits", "best_logits", "labels"):
        for name, values in getattr(found, group).items():
            assert np.array_equal(getattr(read, group)[name], values)
    assert np.array_equal(read.losses, found.losses)
    assert np.array_equal(read.looks, found.looks)
    if adapter:
        subspace: Any = parse_subspace(text)
        there = subspace.at(tmp_path / "run" / "adapter.safetensors").attach(model).model
        with torch.no_grad():
            logits = there(model.collate(data["test"])).numpy()
        np.testing.assert_allclose(logits, read.best_logits["test"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "text",
    [
        "lora:r=2,alpha=4,targets=query+value,dora=true",
        "lora:r=2,targets=qv,rslora=true",
        "ia3:targets=key+value",
        "prompt:n=3",
        "prefix:n=3",
        "lora:r=2,targets=query,init=pissa",
    ],
)
def test_every_adapter_is_read_back_from_its_file(text: str, tmp_path: Path) -> None:
    data, model = splits(), oracles.logit_model(BERT)
    asked = training(learning_rate=0.05)
    found = finetune(model, data, subspace=text, training=asked, out=tmp_path / "run")
    assert (found.best_logits["test"] != found.start_logits["test"]).any()
    there = parse_subspace(f"{text}@{tmp_path}/run/adapter.safetensors").attach(model).model
    with torch.no_grad():
        logits = there(model.collate(data["test"])).numpy()
    np.testing.assert_allclose(logits, found.best_logits["test"], rtol=1e-9, atol=1e-9)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, model = splits(), oracles.logit_model(BERT)
    run: dict[str, Any] = {"subspace": "bias", "training": training(), "checkpoint_seconds": 0}
    whole = finetune(model, data, **run)
    real, written = safetensors.torch.save_file, 0

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        nonlocal written
        written += 1
        real(tensors, path, metadata)
        if written in (3, 7):  # a checkpoint, and the shift at the end
            path.write_bytes(path.read_bytes()[:100])
            raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be written: I/O error: No space left"):
            finetune(model, data, out=tmp_path / "run", **run)
        assert step_of(tmp_path / "run") in (2, STEPS - 1)
    assert_equal_runs(finetune(model, data, out=tmp_path / "run", **run), whole)


def test_float32_files_hold_what_moved_in_float32(tmp_path: Path) -> None:
    model = oracles.logit_model(BERT, dtype=torch.float32)
    finetune(model, splits(), subspace="bias", training=training(), out=tmp_path / "run")
    assert {t.dtype for t in FineTuned.load(tmp_path / "run").shift.values()} == {torch.float32}
    size = sum(p.numel() for n, p in named_parameters(model).items() if n.endswith("bias"))
    assert (tmp_path / "run" / "shift.safetensors").stat().st_size < 4 * size + 8000


# --- going on ---


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "signgd", "adamw", "momentum"])
@pytest.mark.parametrize("text", ["full", "random:dim=9,kind=srht"])
def test_an_interrupted_run_ends_at_the_same_weights(
    optimizer: str, text: str, tmp_path: Path
) -> None:
    data, model = splits(), oracles.logit_model(BERT, dtype=torch.float32)
    asked = training(
        optimizer=optimizer, steps=11, keep_steps=[1, 5], log_steps=[2], dropout=True, warmup=3
    )

    def stop(step: int, total: int) -> None:
        if step in stops:
            stops.remove(step)
            raise KeyboardInterrupt

    stops: list[int] = []
    whole = finetune(model, data, subspace=text, training=asked)
    stops = [1, 4, 5, 10]
    run = {"subspace": text, "training": asked, "out": tmp_path / "run", "checkpoint_seconds": 0}
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            finetune(model, data, progress=stop, **run)  # type: ignore[arg-type]
    again = finetune(model, data, progress=stop, **run)  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert_equal_runs(again, whole)


def assert_equal_runs(one: FineTuned, other: FineTuned) -> None:
    """Bit for bit."""
    assert (one.best_step, one.scores) == (other.best_step, other.scores)
    assert all(torch.equal(one.shift[n], t) for n, t in other.shift.items())
    for step, shift in other.shifts.items():
        assert all(torch.equal(one.shifts[step][n], t) for n, t in shift.items())
    assert sorted(one.shifts) == sorted(other.shifts)
    for group in ("logits", "start_logits", "best_logits"):
        assert sorted(getattr(one, group)) == sorted(getattr(other, group))
        for name, values in getattr(other, group).items():
            assert np.array_equal(getattr(one, group)[name], values)
    assert np.array_equal(one.steps, other.steps)
    assert np.array_equal(one.losses, other.losses)
    assert np.array_equal(one.looks, other.looks)


WORKER = """
import sys, pathlib
sys.path[:0] = [{root!r}]
import torch
torch.set_num_threads(1)
import {me} as t
from tests.support import oracles
from subkern.training.finetune import finetune
model = oracles.logit_model(t.BERT, dtype=torch.float32)
finetune(model, t.splits(), training=t.training(steps=150, eval_every=7), out={out!r},
         checkpoint_seconds=0)
"""


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    """``kill -9`` at random moments, also while a checkpoint is written."""
    out = tmp_path / "run"
    code = WORKER.format(me=__name__, root=str(ROOT), out=str(out))
    draw = random.Random(3)
    steps = []
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
        wanted = step_of(out) + draw.randint(5, 40)
        while step_of(out) < wanted and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        steps.append(step_of(out))
    assert 0 < steps[0] < steps[1] < 150
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    torch.set_num_threads(1)
    whole = finetune(
        oracles.logit_model(BERT, dtype=torch.float32),
        splits(),
        training=training(steps=150, eval_every=7),
    )
    assert_equal_runs(FineTuned.load(out), whole)


def step_of(out: Path) -> int:
    """Step of the checkpoint in a folder, read without the library's own reader."""
    try:
        raw = (out / "checkpoint.safetensors").read_bytes()
    except OSError:
        return 0
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return int(json.loads(header["__metadata__"]["state"])["step"])


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    model, data, asked = oracles.logit_model(BERT), splits(), training()
    finetune(model, data, subspace="bias", training=asked, out=tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").glob("*.safetensors")}
    steps: list[int] = []
    again = finetune(
        model,
        data,
        subspace="bias",
        training=asked,
        out=tmp_path / "run",
        progress=lambda done, _: steps.append(done),
    )
    assert steps == []
    assert again.best_step in (2, 4, 6)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").glob("*.safetensors")} == before


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    model, data = oracles.logit_model(BERT), splits()
    run = {"subspace": "bias", "out": tmp_path / "run"}
    finetune(model, data, training=training(), **run)  # type: ignore[arg-type]
    other = training(learning_rate=0.02)
    expected = r"training\.learning_rate: 0\.02 asked for, 0\.01 stored\)"
    with pytest.raises(UserError, match=expected):
        finetune(model, data, training=other, **run)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="subspace"):
        finetune(model, data, subspace="full", training=training(), out=tmp_path / "run")
    found = finetune(model, data, training=other, overwrite=True, **run)  # type: ignore[arg-type]
    assert found.training["learning_rate"] == 0.02
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="and no run of fine-tuning"):
        finetune(model, data, training=other, out=tmp_path / "mine")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    model, data, run = oracles.logit_model(BERT), splits(), tmp_path / "run"
    finetune(model, data, subspace="bias", training=training(), out=run)
    (run / "trajectory.npz").write_bytes(b"nothing")
    with pytest.raises(DamagedError, match=r"^'.*trajectory.npz' is damaged .*--overwrite"):
        FineTuned.load(run)
    (run / "result.json").unlink()
    (run / "checkpoint.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"^'.*checkpoint.safetensors' was damaged .*same command"):
        finetune(model, data, subspace="bias", training=training(), out=run)
    with pytest.raises(UserError, match="should hold a fine-tuning run and is unfinished"):
        FineTuned.load(run)
    with pytest.raises(UserError, match="should hold a fine-tuning run and is none"):
        FineTuned.load(tmp_path)


# --- diverging, bad input ---


def test_a_diverging_run_says_when_and_stays_so(tmp_path: Path) -> None:
    model, data = oracles.logit_model(BERT, dtype=torch.float32), splits()
    asked = training(learning_rate=1e30, optimizer="sgd")
    for _ in range(2):
        with pytest.raises(Diverged, match=r"^training diverged at step \d with learning") as found:
            finetune(model, data, training=asked, out=tmp_path / "run")
        assert found.value.learning_rate == 1e30
        assert 1 <= found.value.step <= STEPS
    copied = pickle.loads(pickle.dumps(found.value))  # noqa: S301
    assert (copied.step, copied.learning_rate) == (found.value.step, 1e30)
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_a_run_whose_last_step_diverges_does_not_end_well() -> None:
    model = oracles.logit_model(BERT, dtype=torch.float32)
    asked = training(learning_rate=1e38, optimizer="sgd", steps=1, log_steps=[])
    for data in (splits(), splits(train=7)):
        with pytest.raises(Diverged, match="at step 1 "):
            finetune(model, data, training=asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer": "lion"},
            "^unknown optimizer 'lion': use sgd or adam or signgd",
        ),
        ({"loss": "hinge"}, "^loss 'hinge' is unknown"),
        ({"schedule": "step"}, "^unknown schedule 'step'"),
        ({"learning_rate": 0.0}, "^learning rate 0.0 is not a positive number$"),
        ({"learning_rate": float("nan")}, "^learning rate nan is not a positive number$"),
        ({"batch_size": 0}, "^batch_size is 0: it must be at least 1$"),
        ({"steps": -1}, "^steps is -1: it must be at least 0$"),
        ({"warmup": 9}, "^warmup of 9 steps does not fit in 6 steps$"),
        ({"log_steps": [7]}, "^log_steps holds 7: training has steps 0 to 6$"),
        ({"epsilon": -1.0}, "^epsilon -1.0 is negative"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        training(**changes)


def test_steps_are_described_in_one_way() -> None:
    """However they are given: a run is found again, and nothing that was given is changed."""
    given = [9, 2, 2]
    one = training(log_steps=given, keep_steps=(5,), steps=9).describe()
    other = training(log_steps=(2, 9), keep_steps=[5, 5], steps=9).describe()
    assert one == other
    assert (one["log_steps"], one["keep_steps"], given) == ([2, 9], [5], [9, 2, 2])
    assert training(steps=9).describe()["log_steps"] is None
    with pytest.raises(UserError, match=r"^keep_steps holds 10: training has steps 0 to 9$"):
        training(steps=9, keep_steps=[10])


def test_wrong_data_is_refused() -> None:
    model = oracles.logit_model(BERT)
    with pytest.raises(UserError, match=r"^there are no training examples"):
        finetune(model, {"train": []}, training=training())
    with pytest.raises(UserError, match=r"^split 'dev' is empty"):
        finetune(model, {**splits(), "dev": []}, training=training())
    with pytest.raises(UserError, match="dropout is on"):
        finetune(model.train(), splits(), training=training())


def test_one_gpu_trains_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`transformers.Trainer` would train on cuda:0, and split batches over all it sees."""
    training = Training(steps=1, batch_size=1)

    def arguments(device: str) -> Any:
        tunable: Any = SimpleNamespace(model=SimpleNamespace(device=torch.device(device)))
        return trainer._arguments(str(tmp_path), tunable, training, 0)

    with pytest.raises(UserError, match=r"^device 'cuda:1' .* CUDA_VISIBLE_DEVICES=1 and use cuda"):
        arguments("cuda:1")
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 4))
    found = arguments("cpu")
    assert isinstance(found, TrainingArguments)
    assert (found.n_gpu, found.train_batch_size) == (1, 1)


@pytest.mark.parametrize("name", ["shift.safetensors", "result.json", "settings.json"])
def test_a_damaged_run_is_replaced_if_asked_for(name: str, tmp_path: Path) -> None:
    def train(**more: bool) -> FineTuned:
        return finetune(model, data, subspace="bias", training=training(), out=run, **more)

    model, data, run = oracles.logit_model(BERT), splits(), tmp_path / "run"
    first = train()
    content = bytearray((run / name).read_bytes())
    content[-3] ^= 1
    (run / name).write_bytes(content)
    with pytest.raises(DamagedError, match=rf"{name}' is damaged .*--overwrite"):
        train()
    assert train(overwrite=True).scores == first.scores
    assert train().scores == first.scores


def test_a_damaged_checkpoint_is_not_gone_on_from(tmp_path: Path) -> None:
    model, data, run = oracles.logit_model(BERT), splits(), tmp_path / "run"
    asked = {"subspace": "bias", "training": training()}
    whole = finetune(model, data, **asked)

    def stop(step: int, _steps: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(model, data, **asked, out=run, checkpoint_seconds=0, progress=stop)
    content = bytearray((run / "checkpoint.safetensors").read_bytes())
    content[-1] ^= 64
    (run / "checkpoint.safetensors").write_bytes(content)
    found = finetune(model, data, **asked, out=run)
    np.testing.assert_array_equal(found.losses, whole.losses)
