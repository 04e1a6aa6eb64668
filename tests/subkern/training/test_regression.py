"""Real labels: one output of a linear head, squared loss, on every kind of model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score

from subkern.agreement.predictions import score_predictions
from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.learning_rate import suggest
from subkern.models.load import load_model
from subkern.prompts.prompt import label_array
from subkern.solvers import SOLVERS, RidgeSolver, evaluate, make_solver
from subkern.solvers.base import REAL_SOLVERS
from subkern.tasks.examples import load_examples
from subkern.tasks.own_file import described, file_task
from subkern.training.finetune import finetune
from subkern.training.linear_probe import hidden_states, initialize_from_probe
from subkern.training.losses import get_loss
from subkern.training.settings import Training
from tests.support.byte_tokenizer import byte_folder
from tests.support.tiny_folder import masked_model

TASK = file_task("demo:regression")


def written(folder: Path, rows: list[dict[str, object]], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def model_of(kind: str, folder: Path) -> str:
    return str(byte_folder(folder) if kind == "causal" else masked_model(folder))


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("subspace", ["full", "lora:r=2,seed=0"])
def test_the_kernel_is_the_oracles(kind: str, subspace: str, tmp_path: Path) -> None:
    model = load_model(model_of(kind, tmp_path), task=TASK, head="linear", dtype="float64")
    train = model.encode_all(load_examples(TASK, split="train"))[:5]
    found = compute_kernel(model, train, subspace=subspace)
    oracle = compute_kernel(model, train, subspace=subspace, engine="reference")
    assert found.shape == (5, 1, 5, 1)
    assert found.allclose(oracle, rtol=1e-9)
    assert found.left_labels is not None
    assert found.left_labels.dtype == np.float64
    np.testing.assert_array_equal(found.left_labels, label_array(train))
    found.save(tmp_path / "k.zarr")
    again = Kernel.load(tmp_path / "k.zarr")
    assert again == found
    assert again.left_labels is not None
    assert again.left_labels.dtype == np.float64


def test_labels_are_distances_from_the_mean_in_standard_deviations() -> None:
    rows = [json.loads(line) for line in _lines()]
    scores = np.array([row["score"] for row in rows])
    examples = [e for s in ("train", "dev", "test") for e in load_examples(TASK, split=s)]
    labels = np.array([e.label for e in examples])
    assert labels.mean() == pytest.approx(0, abs=1e-12)
    assert labels.std() == pytest.approx(1)
    np.testing.assert_allclose(sorted(labels * TASK.spread + TASK.center), sorted(scores))
    assert "from 0 to 5; f is their distance from the mean" in described(TASK)


def _lines() -> list[str]:
    from subkern.tasks.own_file import DEMO_FILES

    return DEMO_FILES["demo:regression"].read_text().splitlines()


def test_kernel_regression_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(30, 4)), rng.normal(size=4)
    y = x @ weights + 0.1 * rng.normal(size=30)
    values = x @ x.T
    ids = [f"e{i}" for i in range(30)]
    kernel = Kernel(values[:, None, :, None], ids, ids, y, y)
    train = kernel.select(ids[:20], ids[:20])
    test = kernel.select(ids[:20], ids[20:])
    solver = RidgeSolver(regularization=0.1).fit(train)
    penalty = 0.1 * np.trace(values[:20, :20]) / 20
    usual = KernelRidge(alpha=penalty, kernel="precomputed").fit(values[:20, :20], y[:20])
    predicted = usual.predict(values[20:, :20])
    np.testing.assert_allclose(solver.predict(test), predicted)
    told = evaluate("ridge", train, test)
    assert told["eval pearson"] > 0.95
    assert told["eval RMSE"] < 0.3
    for name in REAL_SOLVERS:
        assert make_solver(name).fit(train).score(test, metric="pearson") > 0.9
    for name in SOLVERS.keys() - set(REAL_SOLVERS):
        with pytest.raises(UserError, match="tells classes apart and the labels are real"):
            make_solver(name).fit(train)
    with pytest.raises(UserError, match="metric 'f1' is not of real labels here: use pearson"):
        evaluate("ridge", train, test, metric="f1")
    for metric, usual_score in (("pearson", pearsonr), ("spearman", spearmanr)):
        expected = usual_score(y[20:], predicted).statistic
        assert score_predictions(y[20:], predicted, metric) == pytest.approx(expected)
    assert score_predictions(y[20:], predicted, "r2") == pytest.approx(r2_score(y[20:], predicted))
    assert score_predictions(y[20:], np.ones(10), "pearson") == 0


def test_leave_one_out_is_refits() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(12, 20)), rng.normal(size=12)
    solver = RidgeSolver(regularization=0.3).fit((x @ x.T)[:, None, :, None], y)
    penalty = 0.3 * np.trace(x @ x.T) / 12
    for i in range(12):
        left = np.delete(np.arange(12), i)
        usual = KernelRidge(alpha=penalty).fit(x[left], y[left])
        assert solver.loo_scores_[i, 0] == pytest.approx(usual.predict(x[i : i + 1])[0])


def test_the_loss_is_half_transformers_mean_squared_error() -> None:
    logits, labels = torch.randn(6, 1).double(), torch.randn(6).double()
    usual = torch.nn.functional.mse_loss(logits[:, 0], labels)
    torch.testing.assert_close(get_loss("squared")(logits, labels), usual / 2)
    with pytest.raises(UserError, match="is of classes and the labels are real"):
        get_loss("cross_entropy")(logits, labels)


def test_training_learns_and_the_rate_moves_the_output_by_one(tmp_path: Path) -> None:
    model = load_model(model_of("masked", tmp_path), task=TASK, head="linear", dtype="float64")
    splits = {s: model.encode_all(load_examples(TASK, split=s)) for s in ("train", "dev", "test")}
    rate = suggest(model, splits["train"], optimizer="sgd", loss="squared", batch_size=16)
    assert 0 < rate.suggested < 10
    adam = suggest(model, splits["train"], loss="squared")
    training = Training(learning_rate=adam.suggested, steps=30, eval_every=10, loss="squared")
    found = finetune(model, splits, training=training, metric="pearson")
    assert found.losses[-5:].mean() < found.losses[:2].mean()
    labels, said = found.labels["dev"], found.best_logits["dev"][:, 0]
    assert found.scores["dev"] == pytest.approx(pearsonr(labels, said).statistic)


def test_a_probe_starts_the_head_at_ridge_regression(tmp_path: Path) -> None:
    model = load_model(model_of("causal", tmp_path), task=TASK, head="linear", dtype="float64")
    train = model.encode_all(load_examples(TASK, split="train"))
    started = initialize_from_probe(model, train, regularization=1.0)
    states, labels = hidden_states(model, train), label_array(train)
    centered = states - states.mean(0)
    gram = centered.T @ centered + np.eye(states.shape[1])
    weight = np.linalg.solve(gram, centered.T @ labels)
    with torch.no_grad():
        said = started(started.collate(train))[:, 0].numpy()
    np.testing.assert_allclose(said, centered @ weight + labels.mean(), atol=1e-8)


def test_what_labels_are_is_seen_in_all_rows_and_may_be_said(tmp_path: Path) -> None:
    pairs = [{"sentence1": f"a{i}", "sentence2": "b", "label": i % 4} for i in range(12)]
    assert file_task(written(tmp_path, pairs)).kind == "labels"
    half = [*pairs[:-1], {**pairs[-1], "label": 1.5}]
    assert file_task(written(tmp_path, half)).kind == "regression"
    assert file_task(written(tmp_path, half), format="labels").labels[:2] == ("0", "1")
    assert file_task(written(tmp_path, pairs), format="regression").kind == "regression"
    test = written(tmp_path, pairs, "test.jsonl")  # whole ones, of a file that tells
    assert file_task(written(tmp_path, half), test=test).kind == "regression"
    with pytest.raises(UserError, match=r"rows.jsonl:12: 'label' holds 'x': give a number"):
        file_task(written(tmp_path, [*pairs[:-1], {**pairs[-1], "label": "x"}]),
                  format="regression")  # fmt: skip
    with pytest.raises(UserError, match="has the label 3 alone, and there is nothing to learn"):
        file_task(written(tmp_path, [{**each, "label": 3} for each in pairs]), format="regression")


def test_a_number_of_a_csv_file_is_one_label_however_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,1\nb,1.0\nc,2\nd,2.\ne,1\nf,2\n")
    assert file_task(str(path)).labels == ("1", "2")
