"""What all ways of computing kernels share: how to run, what a kernel is, what it cost."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.gradients.batches import Block, CaptureJob
from subkern.gradients.capture import Captured
from subkern.gradients.contract import contract
from subkern.gradients.plan import CapturePlan
from subkern.kernels.engines.tiled import Outcome
from subkern.kernels.kernel import Kernel
from subkern.kernels.rules import UpdateRule
from subkern.kernels.tiles import TileStore
from subkern.models.digest import weights_digest
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import fingerprint_examples
from subkern.storage.memory import parse_memory
from subkern.storage.progress import Progress
from subkern.storage.provenance import environment
from subkern.subspaces.base import Coordinates

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


@dataclass(frozen=True)
class RunOptions:
    """How to run, none of which changes the numbers beyond rounding.

    Attributes:
        batch_size: most examples in one forward; None lets the plan choose.
        memory: budget beyond the model's own, bytes or text like ``"3GiB"``; None takes half of
            what is free, at most 4 GiB.
        progress: called with kernel entries done and in all.
        checkpoint: folder for finished tiles; a run that was killed goes on from them.
    """

    batch_size: int | None = None
    memory: str | float | None = None
    progress: Progress | None = None
    checkpoint: Path | str | None = None

    def __post_init__(self) -> None:
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"batch size {self.batch_size} is not positive: use 1 or more")

    def clear(self) -> None:
        """Remove the checkpoint: its kernel is saved."""
        if self.checkpoint is not None:
            TileStore(Path(self.checkpoint), {}).clear()


def full_block(coordinates: Coordinates) -> Block:
    """The sgd kernel over all coordinates, ``[1, n, c, m, c]``."""
    shapes = {n: p.shape for n, p in coordinates.parameters.items()}
    c = coordinates.model.num_logits
    return lambda left, right: contract(left, right, shapes, c)[None]


class Timed:
    """A block function that adds up its seconds and entries."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.seconds = 0.0
        self.entries = 0

    def __call__(self, left: Captured, right: Captured) -> Tensor:
        """The block, timed."""
        started = time.perf_counter()
        out = self.block(left, right)
        if out.is_cuda:
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - started
        self.entries += len(left) * len(right)
        return out

    def cost(self) -> dict[str, float]:
        """What provenance records of it."""
        return {"contraction_seconds": self.seconds, "pairs": float(self.entries)}


def make_job(
    coordinates: Coordinates,
    plan: CapturePlan,
    block: Block,
    options: RunOptions,
    rule: UpdateRule,
) -> CaptureJob:
    """The job of a rule over `coordinates`."""
    memory = parse_memory(options.memory)
    bounded = not rule.is_sgd and rule.zero_tolerance > 0
    model, parameters = coordinates.model, coordinates.parameters
    return CaptureJob(model, parameters, plan, block, memory, bounded, rule.directions)


def make_store(options: RunOptions, provenance: Mapping[str, Any]) -> TileStore:
    """Where finished tiles of a kernel of this provenance are kept."""
    folder = Path(options.checkpoint) if options.checkpoint is not None else None
    return TileStore(folder, provenance)


def model_identity(
    model: LogitModel, left: Sequence[EncodedExample], right: Sequence[EncodedExample]
) -> dict[str, Any]:
    """Model, weights and examples: what decides a kernel, but for rule and subspace."""
    return {
        "model": model.description,
        "weights": weights_digest(model),
        "readout": model.readout.describe(),
        "logits": "binary" if model.binary else "all",
        "dtype": str(model.dtype).removeprefix("torch."),
        "examples": {"left": fingerprint_examples(left), "right": fingerprint_examples(right)},
        "environment": environment(),
    }


def to_kernel(
    values: np.ndarray,
    outcome: Outcome,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    provenance: Mapping[str, Any],
    recorded: Mapping[str, Any],
) -> Kernel:
    """The `Kernel` of one rule's values ``[d, n, c, m, c]``."""
    return Kernel(
        values[0],
        [e.id for e in left],
        [e.id for e in right],
        [e.label for e in left],
        [e.label for e in right],
        {**provenance, "recorded": dict(recorded)},
        outcome.left_logits,
        outcome.right_logits,
        values[1] if len(values) == 2 else None,
    )


def check_examples(left: Sequence[EncodedExample], right: Sequence[EncodedExample]) -> None:
    """Raise `UserError` where a side is empty, or an id repeats or names two texts."""
    for side, examples in (("left", left), ("right", right)):
        if not examples:
            raise UserError(f"there are no examples on the {side}: give at least one")
        ids = [e.id for e in examples]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise UserError(f"example id '{twice}' stands twice on the {side}: ids must be unique")
    known = {e.id: (e.input_ids, e.read) for e in left}
    for e in right:
        if e.id in known and known[e.id] != (e.input_ids, e.read):
            raise UserError(f"example id '{e.id}' names different texts left and right: rename one")


def peak_bytes() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
