"""Training on completions and preferences minimizes what TRL minimizes, on the same rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from subkern.prompts.prompt import EncodedExample
from subkern.tasks.examples import load_examples
from subkern.tasks.own_file import file_task
from subkern.training.batch_order import batch_order
from subkern.training.finetune import finetune
from subkern.training.losses import get_loss
from subkern.training.settings import Training
from tests.support.byte_tokenizer import byte_model

BATCH = 4


def trl_batch(examples: list[EncodedExample], k: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded ids and labels ``[b, t]``, -100 where no loss is taken, as TRL's collators make."""
    rows = [e.marked[k] for e in examples]
    width = max(len(m.input_ids) for m in rows)
    ids = torch.tensor([[*m.input_ids, *[0] * (width - len(m.input_ids))] for m in rows])
    labels = torch.full_like(ids, -100)
    for i, m in enumerate(rows):
        for at in m.reads:
            labels[i, at + 1] = ids[i, at + 1]
    return ids, labels


@pytest.mark.parametrize("normalize", ["sum", "mean"])
def test_completions_have_the_loss_of_sft(normalize: str) -> None:
    """The mean over the batch's tokens that TRL's SFTTrainer takes; of means, over examples."""
    task = file_task("demo:completion", normalize=normalize)
    model = byte_model(task)
    train = model.encode_all(load_examples(task, "", split="train"))
    run = finetune(model, {"train": train}, training=Training(
        steps=3, batch_size=BATCH, learning_rate=1e-3, loss=task.loss, eval_every=3,
        optimizer="sgd",
    ), metric="log_likelihood")  # fmt: skip
    moved = model.module
    optimizer = torch.optim.SGD(moved.parameters(), 1e-3)
    for step, order in enumerate(batch_order(len(train), BATCH, 3, 0)):
        rows = [train[i] for i in order]
        ids, labels = trl_batch(rows)
        logits = moved(input_ids=ids, attention_mask=(ids != 0).long()).logits[:, :-1]
        each = F.cross_entropy(logits.mT, labels[:, 1:], ignore_index=-100, reduction="none")
        if normalize == "sum":
            loss = moved(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
            torch.testing.assert_close(loss, each.sum() / (labels[:, 1:] >= 0).sum())
        else:
            loss = (each.sum(1) / (labels[:, 1:] >= 0).sum(1)).mean()
        assert run.losses[step] == pytest.approx(float(loss.detach()), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert run.scores["train"] == pytest.approx(
        -float(
            get_loss("likelihood")(
                *map(torch.as_tensor, (run.best_logits["train"], run.labels["train"]))
            )
        )
    )


def test_preferences_have_the_loss_of_dpo() -> None:
    """-log sigmoid(beta ((chosen - rejected) - the same of the model at the start))."""
    beta = 0.5
    task = file_task("demo:preference", beta=beta)
    model = byte_model(task)
    train = model.encode_all(load_examples(task, "", split="train"))
    run = finetune(model, {"train": train}, training=Training(
        steps=3, batch_size=BATCH, learning_rate=1e-2, loss=task.loss, eval_every=3,
        optimizer="sgd",
    ))  # fmt: skip

    def differences(rows: list[EncodedExample]) -> torch.Tensor:
        told = []
        for k in (0, 1):
            ids, labels = trl_batch(rows, k)
            logs = model.module(input_ids=ids, attention_mask=(ids != 0).long()).logits.log_softmax(
                -1
            )
            at = logs[:, :-1].gather(2, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
            told.append((at * (labels[:, 1:] >= 0)).sum(1))
        return told[0] - told[1]

    with torch.no_grad():
        reference = differences(train)
    optimizer = torch.optim.SGD(model.module.parameters(), 1e-2)
    for step, order in enumerate(batch_order(len(train), BATCH, 3, 0)):
        moved = differences([train[i] for i in order]) - reference[torch.as_tensor(order)]
        loss = -F.logsigmoid(beta * moved).mean()
        assert run.losses[step] == pytest.approx(float(loss.detach()), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert run.losses[0] == pytest.approx(0.6931472, abs=1e-6)
    assert run.losses[2] != pytest.approx(0.6931472, abs=1e-3)


@pytest.mark.parametrize("data", ["demo:choices", "demo:labels"])
def test_options_have_the_cross_entropy_of_their_log_likelihoods(data: str) -> None:
    task = file_task(data)
    model = byte_model(task)
    train = model.encode_all(load_examples(task, "", split="train"))
    run = finetune(model, {"train": train}, training=Training(
        steps=1, batch_size=BATCH, learning_rate=1e-3, loss=task.loss, eval_every=1,
    ))  # fmt: skip
    (order,) = batch_order(len(train), BATCH, 1, 0)
    losses = []
    for e in (train[i] for i in order):
        told = []
        for m in e.marked:
            logs = model.module(input_ids=torch.tensor([m.input_ids])).logits[0].log_softmax(-1)
            told.append(sum(logs[at, y] for at, y in zip(m.reads, m.targets, strict=True)))
        losses.append(-torch.stack(told).log_softmax(0)[e.label])
    assert run.losses[0] == pytest.approx(float(torch.stack(losses).mean().detach()), rel=1e-5)
