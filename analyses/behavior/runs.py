"""What ``analyze behavior`` computes for one data seed: kernels, real runs, predicted runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from subkern import dynamics
from subkern.agreement.predictions import Score
from subkern.dynamics.linearize import linearized_logits
from subkern.kernel_behavior import kernels_over_training
from subkern.kernels.compute import compute_kernel
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import RunOptions
from subkern.learning_rate.grid import suggested_grid
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.storage.progress import Progress
from subkern.subspaces.movable import MovableModel
from subkern.training.batch_order import batch_order
from subkern.training.finetune import FineTuned, finetune
from subkern.training.optimizers import make_optimizer
from subkern.training.settings import Diverged

from .config import SHARES, Config

__all__ = ["Chosen", "Lab", "Run"]

Floats = npt.NDArray[np.float64]
Encoded = Mapping[str, Sequence[EncodedExample]]


@dataclass(frozen=True)
class Run:
    """One learning rate in one subspace, without what it moved.

    Attributes:
        name: the subspace's one-line form.
        parameters: how many coordinates it has.
        learning_rate: of the run.
        steps: at which `real` and `predicted` were taken ``[s]``.
        real: split → logits ``[s, n, c]``; empty if training diverged.
        predicted: the same from the kernel; empty if the prediction diverged.
        scores: split → score at the best step on dev.
        dev_loss: loss on dev at that step.
        seconds: of training.
        diverged: at which step training did, or None.
    """

    name: str
    parameters: int
    learning_rate: float
    steps: npt.NDArray[np.int64]
    real: Mapping[str, Floats]
    predicted: Mapping[str, Floats]
    scores: Mapping[str, float]
    dev_loss: float = float("inf")
    seconds: float = 0.0
    diverged: int | None = None


@dataclass(frozen=True)
class Chosen:
    """The run that is looked into: the best on dev of what is trained.

    Attributes:
        run: its numbers.
        best_step: the best on dev, where linearization is measured.
        start, linearized, trained: split → logits ``[n, c]`` of f(z₀), f_lin and f there.
        labels: split → labels ``[n]``.
        linear: split → logits ``[s, n, c]`` of training the linearized model; empty if the
            kernel's prediction is that (SGD), it was not asked for or it diverged.
        kernels: step → kernel, train × train, the best step's among them.
    """

    run: Run
    best_step: int
    start: Mapping[str, Floats]
    linearized: Mapping[str, Floats]
    trained: Mapping[str, Floats]
    labels: Mapping[str, npt.NDArray[np.int64]]
    linear: Mapping[str, Floats]
    kernels: Mapping[int, Kernel]


class Lab:
    """Computes, and keeps what it computed, for one data seed.

    Args:
        config: the settings.
        model: f at its start.
        encoded: examples by split.
        metric: the task's.
        kernels: takes kernels by name; those there already are not computed again.
        seed: the data seed, first part of their names.
        folder: where runs are kept, so that an interrupted study goes on; None for nowhere.
        progress: called with kernel entries or steps done and in all.
    """

    def __init__(
        self,
        config: Config,
        model: LogitModel,
        encoded: Encoded,
        metric: Score,
        *,
        kernels: MutableMapping[str, Kernel],
        seed: int,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.config, self.model, self.encoded, self.metric = config, model, encoded, metric
        self.kernels, self.seed, self.folder, self.progress = kernels, seed, folder, progress

    @property
    def everyone(self) -> list[EncodedExample]:
        """The examples of all splits."""
        return [example for split in self.encoded.values() for example in split]

    def kernel(self, dim: int | None) -> Kernel:
        """The kernel at the start, train × (train, dev, test), of what is trained or of `dim`."""
        name = f"{self.seed}/{'start' if dim is None else f'random-{dim}'}"
        if name not in self.kernels:
            self.kernels[name] = compute_kernel(
                self.model,
                self.encoded["train"],
                self.everyone,
                rule=self.config.rule,
                subspace=self.config.subspace_of(dim),
                options=self._running(name),
            )
        return self.kernels[name]

    def learning_rates(self, critical: float) -> tuple[float, ...]:
        """The learning rates to try, where SGD's critical one is `critical`.

        Raises:
            NoSuggestion: they are to be suggested, and nothing moves f.
        """
        config = self.config
        if config.learning_rates is not None:
            return config.learning_rates
        if not config.is_asymmetric:
            return tuple(float(f"{share * critical:.3g}") for share in SHARES)
        size = min(config.train_batch_size, len(self.encoded["train"]))
        found = suggested_grid(
            self.model,
            self.encoded["train"],
            subspace=config.subspace_of(None),
            training=config.training(1.0, keep=False),
            batch_sizes=(size,),
            folder=self.folder,
        )
        return tuple(found.rates(size))

    def run(self, dim: int | None, learning_rate: float) -> Run:
        """One real run and its prediction from the kernel."""
        config, kernel = self.config, self.kernel(dim)
        name = config.subspace if dim is None else f"random:dim={dim}"
        about = (name, int(kernel.provenance["recorded"]["coordinates"]), learning_rate)
        steps = np.asarray(config.training(learning_rate, keep=False).logged_steps)
        predicted = self._predict(kernel, learning_rate, steps)
        try:
            found = self._train(dim, learning_rate, keep=False)
        except Diverged as error:
            return Run(*about, steps, {}, predicted, {}, diverged=error.step)
        loss = found.dev_loss
        return Run(
            *about,
            steps,
            found.logits,
            predicted,
            found.scores,
            float("inf") if loss is None else loss,
            found.seconds,
        )

    def look_into(self, run: Run) -> Chosen:
        """Linearization, kernels over training and, if asked for, training of f_lin."""
        config = self.config
        found = self._train(None, run.learning_rate, keep=True)
        tunable = MovableModel(self.model, config.subspace_of(None))
        linearized = {
            split: linearized_logits(tunable, found.shift, examples, self._batch_size)
            for split, examples in self.encoded.items()
        }
        return Chosen(
            run,
            found.best_step,
            found.start_logits,
            linearized,
            found.best_logits,
            found.labels,
            self._linear_training(tunable, run),
            dict(self._over_training(found)),
        )

    @property
    def _batch_size(self) -> int:
        return self.config.batch_size or 16

    def _running(self, name: str) -> RunOptions:
        folder = None if self.folder is None else self.folder / "tiles" / name.replace("/", "-")
        return RunOptions(self.config.batch_size, self.config.memory, self.progress, folder)

    def _train(self, dim: int | None, learning_rate: float, *, keep: bool) -> FineTuned:
        words = [
            "kept" if keep else "run",
            "all" if dim is None else str(dim),
            repr(learning_rate),
        ]
        return finetune(
            self.model,
            self.encoded,
            subspace=self.config.subspace_of(dim),
            training=self.config.training(learning_rate, keep=keep),
            metric=self.metric,
            out=None if self.folder is None else self.folder / "-".join(words),
            overwrite=True,  # what is damaged
            progress=self.progress,
        )

    def _order(self) -> Iterator[npt.NDArray[np.int64]]:
        """The batches of every run."""
        config = self.config
        count = len(self.encoded["train"])
        return batch_order(count, config.train_batch_size, config.steps, config.training_seed)

    def _split(self, values: Floats) -> dict[str, Floats]:
        """Logits ``[s, everyone, c]`` by split."""
        ends = np.cumsum([len(examples) for examples in self.encoded.values()])[:-1]
        return dict(zip(self.encoded, np.split(values, ends, axis=1), strict=True))

    def _predict(
        self, kernel: Kernel, learning_rate: float, steps: npt.NDArray[np.int64]
    ) -> dict[str, Floats]:
        """Logits by split ``[s, n, c]`` from the kernel alone; empty if they diverge."""
        train = kernel.select(right=[example.id for example in self.encoded["train"]])
        step = dynamics.signgd if self.config.is_asymmetric else dynamics.sgd
        try:
            found = step(
                train,
                kernel,
                learning_rate=learning_rate,
                batches=self._order(),
                loss=self.config.loss,
            )
        except Diverged:
            return {}
        return self._split(found.sel(step=steps).values)

    def _linear_training(self, tunable: MovableModel, run: Run) -> dict[str, Floats]:
        """Logits by split ``[s, n, c]`` of the linearized model under the same optimizer."""
        config = self.config
        if not (config.linear_training and config.is_asymmetric):
            return {}
        try:
            found = dynamics.train_linearized(
                tunable,
                self.encoded["train"],
                self.everyone,
                optimizer=lambda z: make_optimizer(
                    config.optimizer, z, run.learning_rate, config.epsilon
                ),
                batches=self._order(),
                loss=config.loss,
                record=set(run.steps.tolist()),
                batch_size=self._batch_size,
            )
        except Diverged:
            return {}
        return self._split(found.values)

    def _over_training(self, found: FineTuned) -> Iterator[tuple[int, Kernel]]:
        """The kernel, train × train, at the steps that were kept and at the best one."""
        shifts: dict[int, Any] = {**found.shifts, found.best_step: found.shift}
        for step in sorted(shifts):
            name = f"{self.seed}/step-{step}"
            if name not in self.kernels:
                ((_, self.kernels[name]),) = kernels_over_training(
                    self.model,
                    self.encoded["train"],
                    subspace=self.config.subspace_of(None),
                    shifts={step: shifts[step]},
                    rule=self.config.rule,
                    options=self._running(name),
                )
            yield step, self.kernels[name]
