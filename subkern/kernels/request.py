"""What is asked for, made once, and what an engine makes of it.

A `Request` holds everything that any way to a kernel needs: the two sides, the coordinates, how to
capture, what decides the numbers, where finished parts are kept. An `Engine` turns it to outcomes.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from subkern.cores import heeding_others
from subkern.errors import NoMemoryError, UserError, check_choice
from subkern.gradients.batches import CaptureJob, Capturing, Observer
from subkern.gradients.capture import Captured
from subkern.gradients.plan import CapturePlan, MustMove, validate
from subkern.kernels.kernel import Kernel
from subkern.kernels.rules import UpdateRule, as_rule
from subkern.kernels.sides import Outcome, Sides
from subkern.kernels.tiles import TileStore
from subkern.models.digest import weights_digest
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import fingerprint_examples, label_array
from subkern.storage.memory import parse_memory
from subkern.storage.progress import Progress
from subkern.storage.provenance import environment
from subkern.subspaces.base import Subspace
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import as_subspace

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

ENGINES = ("factors", "reference")

# How torch and its libraries say that memory ran out; "an illegal memory access" is none of it.
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "allocate memory",
    "bad_alloc",
    "alloc_failed",
)


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
        parse_memory(self.memory)  # a mistake is said before the model is loaded

    def clear(self) -> None:
        """Remove the checkpoint: its kernel is saved."""
        if self.checkpoint is not None:
            TileStore(Path(self.checkpoint), {}).clear()


class Engine(Protocol):
    """A way to kernels."""

    def run(self, request: Request, sides: Sides, store: TileStore) -> list[Outcome]:
        """Kernels of all pairs of `sides`, one a rule of `request` unless the engine says what of.

        Finished parts that `store` holds are not computed again.
        """
        ...


class Request:
    """Kernels that are asked for: of what model, examples, rules and subspace, and how to run.

    Args:
        model: f, in evaluation mode.
        sides: rows and columns.
        rules: update rules or their one-line forms.
        subspace: what is trained, or its one-line form.
        engine: one of `ENGINES`: what provenance calls the way gradients are found.
        options: batch size, memory, progress, checkpoint.
        must_move: parameters that have to move a logit; None for those of the subspace, without
            what an adapter only trains beside itself.

    Attributes:
        coordinates: the model in the subspace.
        started: when, for what the record says of seconds.
    """

    def __init__(
        self,
        model: LogitModel,
        sides: Sides,
        *,
        rules: Sequence[UpdateRule | str] = ("sgd",),
        subspace: Subspace | str = "full",
        engine: str = "factors",
        options: RunOptions | None = None,
        must_move: Sequence[MustMove] | None = None,
    ) -> None:
        check_choice("engine", engine, ENGINES)
        self.sides, self.engine, self.options = sides, engine, options or RunOptions()
        self.subspace = as_subspace(subspace)
        self.rules = tuple(entrywise(as_rule(rule), self.subspace, engine) for rule in rules)
        self.coordinates = self.subspace.attach(model)
        self.must_move = must_move
        self._model = model
        self.started = time.perf_counter()

    @cached_property
    def described(self) -> dict[str, Any]:
        """The subspace, for provenance."""
        return self.subspace.describe()

    @cached_property
    def base(self) -> dict[str, Any]:
        """What decides the numbers, but for rule, subspace and engine."""
        return _identity(self._model, self.sides.left, self.sides.right)

    def identity(
        self, rule: UpdateRule, subspace: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Everything that decides the kernel of a rule over this subspace, or a described one."""
        where = {"subspace": dict(subspace or self.described), "engine": self.engine}
        return self.base | rule.describe() | where

    @cached_property
    def plan(self) -> CapturePlan:
        """How to capture, once everything that can be refused was (see `validate`)."""
        coordinates = self.coordinates
        alive = tuple(n for n in coordinates.parameters if n not in coordinates.beside)
        must_move = self.must_move
        if must_move is None:
            must_move = [MustMove(alive, self.described)]
        examples = [*self.sides.left, *self.sides.right]
        size, recorded = self.options.batch_size, self.engine != "reference"
        return validate(coordinates, examples, must_move, size, recorded)

    def validate(self) -> None:
        """Refuse what can be refused before anything is computed (see `subkern.gradients.plan`)."""
        _ = self.plan

    @cached_property
    def job(self) -> CaptureJob:
        """What is captured, and how."""
        memory = parse_memory(self.options.memory)
        coordinates = self.coordinates
        return CaptureJob(coordinates.model, coordinates.parameters, self.plan, memory)

    def capturing(self, observer: Observer | None = None) -> Capturing:
        """Captures examples, with what the rules read of them; an `observer` sees them too."""
        bounded = any(rule.drops_noise for rule in self.rules)

        def capture(examples: Sequence[EncodedExample]) -> Captured:
            captured = self.job.capture(examples, bounded)
            if observer is not None:
                observer(examples, captured)
            return captured

        return capture

    def store(self, identity: Mapping[str, Any]) -> TileStore:
        """Where finished tiles of what has this identity are kept."""
        folder = self.options.checkpoint
        return TileStore(None if folder is None else Path(folder), identity)

    def run(self, engine: Engine, store: TileStore) -> list[Outcome]:
        """What an engine finds.

        Raises:
            UserError: see `validate`.
            NoMemoryError: memory ran out.
        """
        with naming_memory(), heeding_others():
            self.validate()
            return engine.run(self, self.sides, store)

    def cost(self, store: TileStore) -> dict[str, float]:
        """Seconds since the request was made, and of earlier runs whose tiles `store` held; and the
        peak resident bytes of this process so far.
        """
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {
            "seconds": store.earlier + time.perf_counter() - self.started,
            "peak_bytes": float(peak if sys.platform == "darwin" else peak * 1024),
        }

    def record(self, store: TileStore) -> dict[str, Any]:
        """What provenance notes of a run, whatever the engine."""
        noted = {"seconds": self.cost(store)["seconds"], "coordinates": self.coordinates.size}
        return noted if self.engine == "reference" else {"reasons": list(self.plan.reasons)} | noted

    def kernel(
        self,
        outcome: Outcome,
        rule: UpdateRule,
        recorded: Mapping[str, Any],
        subspace: Mapping[str, Any] | None = None,
    ) -> Kernel:
        """The `Kernel` of an outcome.

        Args:
            outcome: its numbers.
            rule: of which rule it is.
            recorded: notes that decide nothing.
            subspace: the description of its subspace, where it is another than the request's.
        """
        left, right = self.sides.left, self.sides.right
        labeled = self._model.classifies or self._model.regresses
        return Kernel(
            outcome.values[0],
            [e.id for e in left],
            [e.id for e in right],
            label_array(left) if labeled else None,
            label_array(right) if labeled else None,
            {**self.identity(rule, subspace), "recorded": dict(recorded)},
            outcome.left_logits,
            outcome.right_logits,
            outcome.values[1] if rule.is_asymmetric else None,
            left_content=[e.content for e in left],
            right_content=[e.content for e in right],
        )


def kernel_identity(
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    *,
    rule: UpdateRule | str = "sgd",
    subspace: Subspace | str = "full",
    engine: str = "factors",
) -> dict[str, Any]:
    """Everything that decides the numbers of a kernel: the provenance it will carry."""
    subspace = as_subspace(subspace)
    rule = entrywise(as_rule(rule), subspace, engine)
    where = {"subspace": subspace.describe(), "engine": engine}
    return _identity(model, left, right) | rule.describe() | where


def _identity(
    model: LogitModel, left: Sequence[EncodedExample], right: Sequence[EncodedExample]
) -> dict[str, Any]:
    """Model, weights and examples."""
    return {
        "model": model.description,
        "weights": weights_digest(model),
        "readout": model.readout.describe(),
        "logits": "binary" if model.binary else "all",
        "dtype": str(model.dtype).removeprefix("torch."),
        "examples": {"left": fingerprint_examples(left), "right": fingerprint_examples(right)},
        "environment": environment(),
    }


def entrywise(rule: UpdateRule, subspace: Subspace, engine: str = "factors") -> UpdateRule:
    """The rule as it is applied: some ways take every entry as it is, without a tolerance.

    The reference engine's whole gradients do not tell how an entry came to be; and no coordinate of
    a random subspace is zero by structure.
    """
    if engine == "reference" or isinstance(subspace, RandomSubspace):
        return replace(rule, zero_tolerance=0.0)
    return rule


@contextmanager
def naming_memory() -> Iterator[None]:
    """Inside, memory that runs out is a `NoMemoryError` that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not (known or any(words in text.lower() for words in _OUT_OF_MEMORY)):
            raise
        first = (text.splitlines() or [type(error).__name__])[0]
        raise NoMemoryError(
            f"out of memory ({first[:80]}): lower --memory or --batch-size"
        ) from error
