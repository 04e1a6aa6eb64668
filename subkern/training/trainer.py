"""`transformers.Trainer` on a `MovableModel`: the updates, and nothing that is kept of them."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from subkern.errors import UserError
from subkern.prompts.prompt import label_array
from subkern.subspaces.movable import MovableModel
from subkern.training.batch_order import batch_order
from subkern.training.losses import get_loss
from subkern.training.optimizers import make_optimizer, rate_factor
from subkern.training.settings import Diverged, Training

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

__all__ = ["OnStep", "optimizer_of", "train"]

OnStep = Callable[[int, float], None]
"""Called after each update with its number, from 1, and the loss before it."""


def optimizer_of(tunable: MovableModel, training: Training) -> torch.optim.Optimizer:
    """The optimizer of `training` on the coordinates, in their order."""
    params = list(tunable.coordinates.values())
    return make_optimizer(
        training.optimizer, params, training.learning_rate, epsilon=training.epsilon
    )


def train(
    tunable: MovableModel,
    examples: Sequence[EncodedExample],
    training: Training,
    optimizer: torch.optim.Optimizer,
    *,
    begin: int = 0,
    on_step: OnStep,
) -> None:
    """Make the updates from number `begin` to the last of `training`.

    An update depends on the coordinates, the optimizer's state and its number alone, so a run that
    goes on from both is the run that was never stopped. Global random states are left as they were.

    Raises:
        Diverged: a loss that is not finite.
    """
    if begin >= training.steps:
        return
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda k: rate_factor(training.schedule, begin + k, training.steps, training.warmup),
    )
    after = _AfterStep(begin, on_step)
    with _random_states_kept(), tempfile.TemporaryDirectory() as folder:
        trainer = _Trainer(
            model=tunable,
            args=_arguments(folder, tunable, training, begin),
            train_dataset=examples,
            optimizers=(optimizer, schedule),
            callbacks=[after],
        )
        trainer.training, trainer.after = training, after
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _arguments(
    folder: str, tunable: MovableModel, training: Training, begin: int
) -> TrainingArguments:
    device = tunable.model.device
    if device.type == "cuda" and device.index not in (None, 0):
        raise UserError(
            f"device '{device}' cannot train, as transformers.Trainer takes the first GPU: set"
            f" CUDA_VISIBLE_DEVICES={device.index} and use cuda"
        )
    return _OneDevice(
        output_dir=folder,
        max_steps=training.steps - begin,
        per_device_train_batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        max_grad_norm=0.0,  # no clipping
        use_cpu=device.type == "cpu",
        seed=training.seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
    )


class _OneDevice(TrainingArguments):
    """One GPU, if any: nn.DataParallel would split a step's batch, and copy P to every GPU."""

    @property
    def n_gpu(self) -> int:
        return min(1, super().n_gpu)


class _Trainer(Trainer):
    """Trains on batches in `batch_order`, by the losses of `subkern.training.losses`."""

    training: Training
    after: _AfterStep

    def get_train_dataloader(self) -> DataLoader[Any]:
        """All batches from update `begin` on, as one epoch."""
        examples: Any = self.train_dataset
        asked = self.training
        orders = batch_order(len(examples), asked.batch_size, asked.steps, asked.seed)
        batches = [order.tolist() for order in orders][self.after.begin :]
        return DataLoader(examples, batch_sampler=batches, collate_fn=self._collate)

    def _collate(self, examples: Sequence[EncodedExample]) -> dict[str, Any]:
        assert isinstance(self.model, MovableModel)
        model = self.model.model
        labels = torch.as_tensor(label_array(examples), device=model.device)
        return {"batch": model.collate(examples), "labels": labels}

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *_: Any, **__: Any) -> Tensor:
        """Mean loss of a batch."""
        step = self.after.begin + self.state.global_step
        with self._dropout(step):
            logits = model(inputs["batch"])
        loss = get_loss(self.training.loss)(logits, inputs["labels"])
        self.after.loss = float(loss.detach())
        if not np.isfinite(self.after.loss):
            raise Diverged(step, self.training.learning_rate)
        return loss

    @contextlib.contextmanager
    def _dropout(self, step: int) -> Iterator[None]:
        """Masks drawn from (seed, step), whatever came before."""
        if self.training.dropout:
            (seed,) = np.random.SeedSequence((self.training.seed, step)).generate_state(1)
            torch.manual_seed(int(seed))
        yield

    def _wrap_model(self, model: nn.Module, *_: Any, **__: Any) -> nn.Module:
        """The model as it is: batches are small, and several devices would add in another order."""
        return model


class _AfterStep(TrainerCallback):
    def __init__(self, begin: int, on_step: OnStep) -> None:
        self.begin, self.on_step = begin, on_step
        self.loss = 0.0  # of the update that was made last

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the update."""
        self.on_step(self.begin + state.global_step, self.loss)


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    """The Trainer seeds every global generator."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
