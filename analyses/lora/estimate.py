"""What ``analyze lora`` will take: its sweep, judging its kernels, and learning rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from subkern.errors import UserError
from subkern.estimates.captures import check_single_words
from subkern.estimates.estimate import Estimate
from subkern.estimates.kernel import check_estimated
from subkern.estimates.sweep import estimate_sweep
from subkern.kernels.kernel import Kernel
from subkern.kernels.sweeps.lora import LoraGrid, LoraSweep
from subkern.learning_rate import suggest
from subkern.prompts.prompt import EncodedExample

from ..engine.inputs import Inputs
from ..engine.parts import Part, Workplace, metric_of, parts
from ..verify.trial import Trial
from .compute import measure
from .config import Config
from .study import LoraStudy

_LOOKS = 5  # batches that a suggestion looks at, where there are as many
_WIDTH = 64  # of the random features whose kernels are judged


def estimate_study(
    config: Config, *, rates: bool = True, started: Callable[[], float] | None = None
) -> Estimate:
    """What `LoraStudy.analyze` with these settings will take on this machine.

    The sweep of the first data seed stands for those of all; two made-up kernels of its size are
    judged, and the learning rates of two configurations suggested.

    Args:
        config: the settings.
        rates: whether learning rates are suggested.
        started: seconds until now of what comes before the study, asked once the model is loaded.

    Raises:
        UserError: as the study; or what it computes cannot be estimated.
    """
    check_estimated(config.rule)  # before anything is loaded
    study = LoraStudy()
    inputs = study.inputs(config)
    check_single_words(inputs.task.marked)
    if not inputs.task.classifies:
        raise UserError(
            f"judging {config.task or config.data}, a regression, is not estimated: estimate kernel"
        )
    prepared = study.prepare(config, inputs)
    before = started() if started is not None else 0.0
    part = next(parts(config, inputs, prepared.model, Workplace({}, None), None))
    grid = config.grid
    found = estimate_sweep(
        part.model,
        part.train,
        part.every,
        sets=config.sets,
        grid=grid,
        rule=config.rule,
        options=replace(part.options, progress=None),
    ).times(len(config.data_seeds))
    kernels = len(config.sets) * (1 + len(grid.cells))
    judging = _judging(config, inputs, part, kernels) * len(config.data_seeds)
    found = found.after("start", before).then("judging", judging)
    if rates:
        found = found.then("learning rates", _suggesting(config, grid, part))
    return found


def _judging(config: Config, inputs: Inputs, part: Part, kernels: int) -> float:
    """Seconds of judging so many kernels and that of full fine-tuning."""
    took = []
    for count in (1, 3):
        sweep = _made_up(part, count)
        began = time.perf_counter()
        measure({"qv": sweep}, part.split, metric_of(inputs), config, part.seed)
        took.append(time.perf_counter() - began)
    each = max(0.0, (took[1] - took[0]) / 2)
    return max(took[1], took[0] + (kernels - 2) * each)


def _made_up(part: Part, count: int) -> LoraSweep:
    """A sweep of random kernels in which labels can be told."""
    rng, c = np.random.default_rng(0), part.model.num_logits
    labels = np.array([e.label for e in part.every])
    towards = rng.normal(size=(int(labels.max()) + 1, _WIDTH))

    def kernel() -> Kernel:
        rows = rng.normal(size=(len(part.every), c, _WIDTH)) + towards[labels][:, None]
        left = rows[: len(part.train)]
        values = np.einsum("nad,mbd->namb", left, rows)
        logits = rng.normal(size=(len(part.every), c))
        return Kernel(
            values,
            _ids(part.train),
            _ids(part.every),
            labels[: len(part.train)],
            labels,
            {},
            logits[: len(part.train)],
            logits,
        )

    made = {(seed, 1): kernel() for seed in range(count)}
    return LoraSweep(kernel(), kernel(), made, {1: 1}, 2)


def _ids(examples: Sequence[EncodedExample]) -> list[str]:
    return [e.id for e in examples]


def _suggesting(config: Config, grid: LoraGrid, part: Part) -> float:
    """Seconds of suggesting the rate of full fine-tuning and of every rank and target set."""
    trial = Trial()
    (size, *_), targets = trial.batch_sizes, next(iter(config.sets.values()))
    training = trial.training(config.rule)
    ranks = sorted(grid.ranks)
    lora = replace(grid, targets=targets).lora(grid.seeds[0], ranks[len(ranks) // 2])
    looks = _LOOKS if len(part.train) > size else 2
    total = 0.0
    for subspace, count in (("full", 1), (lora, len(config.sets) * len(ranks))):
        began = time.perf_counter()
        suggest(
            part.model,
            part.train,
            subspace=subspace,
            optimizer=training.optimizer,
            batch_size=size,
            batches=1,
        )
        total += count * looks / 2 * (time.perf_counter() - began)
    return total
