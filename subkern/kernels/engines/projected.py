"""Projected gradients of examples, and kernels from them.

Each example is captured once, its gradient formed once, a chunk of coordinates at a time; every
projection of a sweep takes the chunk while it is in cache. A batch holds as many examples as memory
allows, because a dense P is made once a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from subkern.gradients.batches import CaptureJob, Capturing, cut
from subkern.gradients.capture import Captured
from subkern.gradients.chunks import WIDTH, Chunk, chunks
from subkern.kernels.request import Request
from subkern.kernels.rules import UpdateRule
from subkern.kernels.sides import Outcome, Sides
from subkern.kernels.tiles import TileStore, Tiling
from subkern.projections.project import Projections
from subkern.projections.spec import ProjectionSpec
from subkern.storage.progress import Progress

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

_CHUNK = 1 << 21  # gradient entries formed at a time: 8 MiB; forming fewer is slower
_SHARE = 0.8  # of the memory budget; the rest is the graph of a batch


@dataclass(frozen=True)
class ProjectedGradients:
    """Projected gradients of some examples.

    Attributes:
        values: cell → ``[n, c, dim]``, float64.
        logits: f₀ ``[n, c]``, float64.
    """

    values: Mapping[ProjectionSpec, np.ndarray]
    logits: np.ndarray

    def pick(self, positions: Sequence[int]) -> ProjectedGradients:
        """The rows at `positions`, in that order."""
        at = list(positions)
        return ProjectedGradients({cell: v[at] for cell, v in self.values.items()}, self.logits[at])

    def arrays(self) -> dict[str, np.ndarray]:
        """As named arrays, for a `TileStore`."""
        named = {f"{c.kind}-{c.seed}-{c.dim}": v for c, v in self.values.items()}
        return {**named, "logits": self.logits}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ProjectedGradients:
        """What `arrays` gave."""
        values = {}
        for name in arrays.keys() - {"logits"}:
            kind, seed, dim = name.rsplit("-", 2)
            values[ProjectionSpec(kind, int(seed), int(dim))] = arrays[name]
        return cls(values, arrays["logits"])

    @classmethod
    def join(cls, parts: Sequence[ProjectedGradients]) -> ProjectedGradients:
        """One after the other."""
        cells = parts[0].values
        values = {cell: np.concatenate([p.values[cell] for p in parts]) for cell in cells}
        return cls(values, np.concatenate([p.logits for p in parts]))


def project_captured(
    captured: Captured, shapes: Mapping[str, torch.Size], projections: Projections
) -> ProjectedGradients:
    """Project the gradients behind the factors of n examples.

    Args:
        captured: factors.
        shapes: parameter name → shape, of every parameter of `projections`.
        projections: what to project to.
    """
    n, c = captured.logits.shape
    width = max(WIDTH, _CHUNK // (n * c))
    sums = projections.sums(n * c, captured.logits.device)
    for name, shape in shapes.items():
        factors = captured.factors.get(name)
        for chunk in chunks(factors, shape, c, width) if factors else ():
            rows = chunk.rows.flatten(0, 1)
            for start, part in _runs(chunk):
                sums.add(name, rows[:, part], start)
    values = {cell: v.view(n, c, -1).cpu().numpy() for cell, v in sums.read().items()}
    return ProjectedGradients(values, captured.logits.cpu().numpy())


def _runs(chunk: Chunk) -> Iterator[tuple[int, slice]]:
    """Stretches of consecutive coordinates: (first coordinate, columns of the chunk)."""
    first = chunk.first.tolist()
    breaks = [i for i in range(1, len(first)) if first[i] != first[i - 1] + 1]
    for a, b in zip([0, *breaks], [*breaks, len(first)], strict=True):
        yield first[a] * chunk.row_size, slice(a * chunk.row_size, b * chunk.row_size)


def project_all(
    job: CaptureJob,
    capturing: Capturing,
    examples: Sequence[EncodedExample],
    projections: Projections,
    store: TileStore,
    progress: Progress | None = None,
) -> ProjectedGradients:
    """Project all `examples` in batches; finished batches of `store` are not computed again."""
    shapes = {n: p.shape for n, p in job.parameters.items()}
    tiling = store.tiling(lambda: Tiling(batches(job, examples, projections), ()))
    parts = []
    for k, picks in enumerate(tiling.left):
        arrays = store.get(f"rows-{k}")
        if arrays is None:
            captured = capturing(examples[picks])
            arrays = project_captured(captured, shapes, projections).arrays()
            store.put(f"rows-{k}", arrays)
        parts.append(ProjectedGradients.from_arrays(arrays))
        if progress is not None:
            progress(picks.stop, len(examples))
    return ProjectedGradients.join(parts)


def batches(
    job: CaptureJob, examples: Sequence[EncodedExample], projections: Projections
) -> tuple[slice, ...]:
    """Consecutive examples whose factors, chunk and sums fit the memory of `job` together."""
    c = job.model.num_logits
    beside = c * (12 * projections.width + 16 * WIDTH)  # sums in both types; a chunk and a copy
    return cut([size + beside for size in job.sizes(examples)], _SHARE * job.memory)


def rows_per_batch(
    job: CaptureJob, examples: Sequence[EncodedExample], projections: Projections
) -> int:
    """How many examples any batch may hold, whatever their lengths."""
    longest = max(examples, key=lambda e: len(e.input_ids))
    first = batches(job, [longest] * len(examples), projections)[0]
    return first.stop - first.start


def gram(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Kernel ``[n, c, m, c]`` of rows ``[n, c, d]`` and ``[m, c, d]``."""
    product = left.reshape(-1, left.shape[-1]) @ right.reshape(-1, right.shape[-1]).T
    return product.reshape(*left.shape[:2], *right.shape[:2])


def rows_kernels(left: np.ndarray, right: np.ndarray, rule: UpdateRule) -> np.ndarray:
    """Kernels ``[d, n, c, m, c]`` of `rule` from rows: the update is made of coordinates z.

    d = 2 for a rule that acts on one side: on the left, then on the right.
    """
    if rule.is_sgd:
        return gram(left, right)[None]
    ours, theirs = (rule.update(torch.from_numpy(rows)).numpy() for rows in (left, right))
    if rule.is_asymmetric:
        return np.stack([gram(ours, right), gram(left, theirs)])
    return gram(ours, theirs)[None]


class Projected:
    """Kernels in the coordinates z of a random subspace: every example is captured once."""

    def run(self, request: Request, sides: Sides, store: TileStore) -> list[Outcome]:
        """As `Engine.run`."""
        projection, progress = request.coordinates.projection, request.options.progress
        assert projection is not None
        step = None if progress is None else _as_entries(progress, sides.entries)
        capturing = request.capturing()
        rows = project_all(request.job, capturing, sides.every, projection.projections, store, step)
        mine, theirs = (rows.pick(sides.places(side)) for side in (sides.left, sides.right))
        left, right = mine.values[projection.cell], theirs.values[projection.cell]
        return [
            Outcome(rows_kernels(left, right, rule), mine.logits, theirs.logits)
            for rule in request.rules
        ]


def _as_entries(progress: Progress, entries: int) -> Progress:
    return lambda done, total: progress(entries * done // total, entries)
