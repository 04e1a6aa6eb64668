"""What one step does to held-out examples, from a kernel, is what a small step does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analyses.engine.one_step import Step, decrease, likeness
from subkern.kernels.compute import compute_kernel
from subkern.tasks.examples import load_examples
from subkern.tasks.own_file import file_task
from subkern.training.finetune import finetune
from subkern.training.losses import get_loss
from subkern.training.settings import Training
from tests.support.byte_tokenizer import byte_model


@pytest.mark.parametrize("subspace", ["full", "lora:r=2,seed=0"])
@pytest.mark.parametrize("data", ["demo:completion", "demo:preference"])
def test_a_small_step_does_what_the_kernel_says(data: str, subspace: str) -> None:
    task = file_task(data)
    model = byte_model(task, dtype=torch.float64)
    train, test = (
        model.encode_all(load_examples(task, "", split=name)) for name in ("train", "test")
    )
    tokens = {e.id: e.label for e in (*train, *test)}
    kernel = compute_kernel(model, train, [*train, *test], subspace=subspace)
    assert kernel.left_labels is None
    sides = [e.id for e in train], [e.id for e in test]
    step = Step.of(kernel, *sides, tokens)
    run = finetune(model, {"train": train, "test": test}, subspace=subspace, training=Training(
        steps=1, batch_size=len(train), learning_rate=1e-6, optimizer="sgd", loss=task.loss,
        eval_every=1,
    ), metric="log_likelihood")  # fmt: skip
    moved = run.best_logits["test"][:, 0] - run.start_logits["test"][:, 0]
    assert likeness(moved, step.changes) == pytest.approx(1, abs=1e-5)
    on_train = (run.best_logits["train"] - run.start_logits["train"])[:, 0] / run.labels["train"]
    np.testing.assert_allclose(moved / np.sqrt(np.mean(on_train**2)), step.changes, rtol=1e-2)
    loss, labels = get_loss(task.loss), torch.as_tensor(run.labels["test"])
    fell = [
        float(loss(torch.as_tensor(each["test"]), labels))
        for each in (run.start_logits, run.best_logits)
    ]
    first_order = moved.sum() / labels.sum() * (1.0 if task.kind == "completion" else 0.5)
    assert fell[0] - fell[1] == pytest.approx(float(first_order), rel=1e-2)


def test_decrease_is_a_share_and_likeness_a_cosine() -> None:
    reference, changes, tokens = np.array([2.0, 2.0]), np.array([1.0, 2.0]), np.array([3.0, 1.0])
    assert decrease(changes, reference, tokens) == 0.75
    assert decrease(reference, reference, tokens) == 1
    assert np.isnan(decrease(changes, reference - reference, tokens))
    assert likeness(reference, 5 * reference) == pytest.approx(1)
    assert likeness(reference, np.array([1.0, -1.0])) == 0
