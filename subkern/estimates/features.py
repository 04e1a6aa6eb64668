"""What projected gradients will take: features, and kernels of random subspaces."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from subkern.cores import Company, heeding_others
from subkern.estimates.captures import CaptureProbe, check_single_words, length, resident
from subkern.estimates.estimate import Alternative, Costs, Estimate, Phase
from subkern.gradients.batches import CaptureJob
from subkern.kernels.engines.projected import batches, project_captured, rows_per_batch
from subkern.kernels.request import Request, RunOptions
from subkern.kernels.sides import Sides
from subkern.models.logit_model import LogitModel
from subkern.projections.project import Projections
from subkern.subspaces.random import RandomSubspace

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample

Examples = Sequence["EncodedExample"]
_TRIED = (2, 8)  # examples projected together, to tell what a batch takes and what an example does


def estimate_features(
    model: LogitModel,
    examples: Examples,
    *,
    subspace: RandomSubspace,
    options: RunOptions | None = None,
) -> Estimate:
    """What `subkern.features.features.compute_features` with these arguments will take here.

    Raises:
        UserError: as `compute_features`.
    """
    request = Request(model, Sides.of(examples), subspace=subspace, options=options)
    projection = request.coordinates.projection
    assert projection is not None
    c = model.num_logits
    output = len(examples) * c * (4 * subspace.dim + 8)
    return estimate_projected(request, projection.projections, "gradients", output, True)


def estimate_projected(
    request: Request, projections: Projections, what: str, output: int, even: bool
) -> Estimate:
    """What projecting the gradients of all examples of a request will take.

    Args:
        request: of a random subspace.
        projections: where to.
        what: is counted in the end: ``gradients``, or ``kernel entries``.
        output: bytes that are left.
        even: whether batches hold equally many examples, as those of features.
    """
    company, every = Company(), request.sides.every
    check_single_words(any(e.marked for e in every))
    loaded = resident()
    with heeding_others(), torch.random.fork_rng(devices=[]):
        began = time.perf_counter()
        request.validate()
        _ = request.base
        checks = time.perf_counter() - began
        probe = CaptureProbe(request.job, every)
        rows = _Rows(probe, projections, checks, loaded, even)
        costs, others = rows.costs(every, request.job), []
        for factor in (0.25, 0.5, 2.0, 4.0):
            job = replace(request.job, memory=factor * request.job.memory)
            change = f"--memory {job.memory / 2**30:.3g}GiB"
            others.append(Alternative(change, rows.costs(every, job)))
        if half := len(every) // 2:
            few = rows.costs(every[:half], request.job)
            others.append(Alternative(f"{half} examples", few))
    c, sides = request.coordinates.model.num_logits, request.sides
    entries = len(every) * c if what == "gradients" else sides.entries * c * c
    return Estimate(what, entries, costs, output, tuple(others), company.cores())


class _Rows:
    """Arithmetic on what was measured of a few examples."""

    def __init__(
        self,
        probe: CaptureProbe,
        projections: Projections,
        checks: float,
        loaded: int,
        even: bool,
    ) -> None:
        self.probe, self.projections, self.even = probe, projections, even
        self.checks, self.loaded = checks, loaded
        self.batch, self.example = self._measure()

    def _measure(self) -> tuple[float, float]:
        """Seconds of projecting a batch however small, and of every example in it."""
        job, took = self.probe.job, []
        shapes = {n: p.shape for n, p in job.parameters.items()}
        middle = self.probe.tried[len(self.probe.tried) // 2]
        for count in (_TRIED[0], *_TRIED):  # the first turn warms up
            captured = job.capture([middle] * count)
            began = time.perf_counter()
            project_captured(captured, shapes, self.projections)
            took.append(time.perf_counter() - began)
        del took[0]
        more = max(0.0, (took[1] - took[0]) / (_TRIED[1] - _TRIED[0]))
        more = min(more, took[1] / _TRIED[1])
        return max(0.0, took[1] - more * _TRIED[1]), more

    def costs(self, examples: Examples, job: CaptureJob) -> Costs:
        """What `examples` take within the memory of `job`."""
        if self.even:
            step = rows_per_batch(job, examples, self.projections)
            picks = [slice(i, i + step) for i in range(0, len(examples), step)]
        else:
            picks = list(batches(job, examples, self.projections))
        calls = [examples[pick] for pick in picks]
        flops, capturing = self.probe.work(job, calls)
        projecting = len(calls) * self.batch + len(examples) * self.example
        c = job.model.num_logits
        largest = max(calls, key=lambda call: sum(map(length, call)))
        sums = 12 * self.projections.width * len(largest) * c
        memory = self.loaded + self.probe.held(largest) + sums + self.probe.batch_bytes(job)
        phases = (
            Phase("checks", self.checks),
            Phase("capture", capturing, flops),
            Phase("projection", projecting),
        )
        return Costs(phases, int(memory), 0)
