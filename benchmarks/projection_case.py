"""Random projections side by side: time, memory, and error of the Gram matrix at the same d."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import numpy as np

from benchmarks.accuracy import errors
from benchmarks.cases import Plan
from benchmarks.contenders import Say
from benchmarks.explicit_rows import form_rows
from benchmarks.measure import Sample, release_memory, resident_bytes, timed
from benchmarks.problem import Problem, spread
from benchmarks.projectors import CONTENDERS, Gradients, Missing, Prepare
from benchmarks.race import take_turns
from subkern.models.logit_model import named_parameters

_EQUAL = 1.25  # errors up to so many times the others' count as equal: a seed's varies as much


class Projecting:
    """A projection as a contender: another seed each turn.

    Args:
        gradients: name → ``[k, size]``.
        gram: their exact inner products ``[k, k]``.
        dim: d.
        prepare: how it projects.
    """

    def __init__(self, gradients: Gradients, gram: np.ndarray, dim: int, prepare: Prepare) -> None:
        self.gradients = gradients
        self.gram = gram
        self.dim = dim
        self.prepare = prepare

    def sample(self, turn: int) -> Sample:
        """Project all gradients; seconds per gradient, and errors of the Gram matrix."""
        seconds, projected = timed(self.prepare(self.gradients, self.dim, turn))
        rows = projected.double().numpy()
        found = errors((rows @ rows.T)[:, None, :, None], self.gram[:, None, :, None])
        parts = {f"error_{name}": value for name, value in found.items()}
        return Sample(seconds / len(rows), seconds, len(rows), parts=parts)


@dataclass
class ProjectionEntrant:
    """A projection and what was measured of it."""

    label: str
    contender: Projecting
    samples: list[Sample] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """JSON-able; errors are root mean squares over the seeds."""
        return {
            "label": self.label,
            "seconds_per_entry": median(s.seconds_per_entry for s in self.samples),
            "peak_bytes": max(s.peak_bytes for s in self.samples),
            "flops_per_entry": None,
            "error_raw": self._error("error_raw"),
            "error_centred": self._error("error_centred"),
            "samples": [asdict(s) for s in self.samples],
        }

    def _error(self, name: str) -> float:
        return math.sqrt(sum(s.parts[name] ** 2 for s in self.samples) / len(self.samples))


def project(problem: Problem, plan: Plan, say: Say, deadline: float) -> dict[str, Any]:
    """Measure every projection there is; the record is JSON-able.

    Args:
        problem: its examples' gradients are projected, those of two layers in the middle.
        plan: how many gradients and dimensions.
        say: takes progress lines.
        deadline: as for `benchmarks.race.race`.
    """
    started = time.monotonic()
    gradients = middle_gradients(problem, plan.gradients)
    flat = [g.double() for g in gradients.values()]
    gram = np.asarray(sum(g @ g.T for g in flat))
    del flat
    release_memory()
    base = resident_bytes()
    size = sum(g.shape[1] for g in gradients.values())
    say(f"{plan.gradients} gradients over {size} coordinates ({time.monotonic() - started:.0f} s)")
    entrants, missing = [], {}
    for label, find in CONTENDERS.items():
        try:
            contender = Projecting(gradients, gram, plan.dim, find())
        except Missing as reason:
            say(str(reason))
            missing[label] = str(reason)
        else:
            entrants.append(ProjectionEntrant(label, contender))
    take_turns(entrants, plan.rounds, base, say, deadline)
    return {
        "case": "projection",
        "problem": problem.name,
        "title": f"gradients of {problem.title}",
        "gradients": len(gram),
        "coordinates": size,
        "parameters": list(gradients),
        "dimension": plan.dim,
        "loaded_bytes": base,
        "expected_error": expected_errors(gram, plan.dim),
        **_compared([e.record() for e in entrants]),
        "missing": missing,
    }


def middle_gradients(problem: Problem, count: int) -> Gradients:
    """Gradients of `count` examples over the two layers in the middle, name → ``[k, size]``."""
    named = named_parameters(problem.model)
    layers = {n: int(found[1]) for n in named if (found := re.search(r"\.layers?\.(\d+)\.", n))}
    depth = max(layers.values()) + 1
    middle = {(depth - 1) // 2, depth // 2, (depth - 2) // 2}
    chosen = {n: named[n] for n, layer in layers.items() if layer in middle}
    rows = form_rows(problem.model, chosen, spread(problem.left + problem.right, count))
    parts = rows.split([p.numel() for p in chosen.values()], dim=1)
    return {n: part.contiguous() for n, part in zip(chosen, parts, strict=True)}


def expected_errors(gram: np.ndarray, dim: int) -> dict[str, float]:
    """Root mean square relative error of a Gaussian projection's Gram matrix, raw and centred.

    √(((tr G)² + ‖G‖²)/d) / ‖G‖, from Var⟨Pᵀu, Pᵀv⟩ = (‖u‖²‖v‖² + ⟨u,v⟩²)/d; the projection is
    linear, so the same holds for the centred gradients.
    """
    shift = np.eye(len(gram)) - 1 / len(gram)
    return {
        name: math.sqrt((np.trace(g) ** 2 + (g**2).sum()) / dim / (g**2).sum())
        for name, g in (("raw", gram), ("centred", shift @ gram @ shift))
    }


def _compared(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Ratios to the fastest of ours among those of equal error, and the aims."""
    ours = [r for r in records if r["label"].startswith("subkern")]
    others = [r for r in records if not r["label"].startswith("subkern")]
    bar = _EQUAL * median(r["error_centred"] for r in others or ours)
    base = min(
        (r for r in ours if r["error_centred"] <= bar),
        key=lambda r: r["seconds_per_entry"],
        default=min(ours, key=lambda r: r["error_centred"]),
    )
    for r in records:
        pairs = zip(r["samples"], base["samples"], strict=False)
        ratios = [a["seconds_per_entry"] / b["seconds_per_entry"] for a, b in pairs]
        r |= {"ratio": median(ratios), "ratio_by_round": ratios}
    aims = []
    if others:
        rival = min(others, key=lambda r: r["seconds_per_entry"])
        equal = base["error_centred"] <= bar
        aims.append(
            {
                "what": f"{rival['label']}, times {base['label']} at equal error",
                "sense": "at least",
                "aim": 1.0,
                "measured": rival["ratio"],
                "met": equal and rival["ratio"] >= 1,
            }
        )
    return {"base": base["label"], "contenders": list(records), "aims": aims}
