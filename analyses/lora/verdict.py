"""The answer of ``analyze lora``: from its long table to the rank to take."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.pooling import Pooled
from ..engine.run_folder import Results
from .numbers import drops, same_predictions, scores

__all__ = ["Recommendation", "Verdict", "recommend"]


@dataclass(frozen=True)
class Verdict:
    """Whether one rank is as good as full fine-tuning, to the classifier solved on its kernels.

    Attributes:
        rank: the rank.
        score: the task's metric on the test split.
        drop: the full kernel's score minus this one's.
        agreement: share of the test examples that get the full kernel's prediction.
        drop_ok, agreement_ok: whether the means are within the tolerances.
    """

    rank: int
    score: Pooled
    drop: Pooled
    agreement: Pooled
    drop_ok: bool
    agreement_ok: bool

    @property
    def ok(self) -> bool:
        """Whether both are within tolerance."""
        return self.drop_ok and self.agreement_ok

    def shortfall(self, max_drop: float, min_agreement: float) -> float:
        """How far the worse of the two is beyond its tolerance; 0 if none is."""
        return max(0.0, self.drop.mean - max_drop, min_agreement - self.agreement.mean)


@dataclass(frozen=True)
class Recommendation:
    """Which rank to take.

    Attributes:
        solver: the classifier that judges.
        rank: the smallest rank within both tolerances, or None.
        closest: the rank that misses them by least (``rank`` itself if there is one).
        verdicts: one a rank, ascending.
        max_drop, min_agreement: the tolerances.
    """

    solver: str
    rank: int | None
    closest: int
    verdicts: tuple[Verdict, ...]
    max_drop: float
    min_agreement: float

    @property
    def chosen(self) -> Verdict:
        """The verdict on the recommended rank, or on the closest."""
        return next(verdict for verdict in self.verdicts if verdict.rank == self.closest)

    @property
    def relapses(self) -> list[int]:
        """Ranks above the recommended one that are not within tolerance themselves."""
        if self.rank is None:
            return []
        return [v.rank for v in self.verdicts if v.rank > self.rank and not v.ok]


def recommend(results: Results, solver: str | None = None) -> Recommendation:
    """Judge every rank by the classifier ``solver`` (the config's first) on the test split.

    A rank is as good as full fine-tuning if, on the mean over all seeds, its score is at most
    ``max_drop`` below the full kernel's and at least ``min_agreement`` of the test examples get the
    prediction of the full kernel's classifier. A higher score never counts against a rank.
    """
    solver = solver or results.config["solvers"][0]
    max_drop, min_agreement = results.config["max_drop"], results.config["min_agreement"]
    found, lower, same = (each(results, solver) for each in (scores, drops, same_predictions))
    slack = 1e-12  # 19 of 20 is 0.95, whatever binary fractions make of it
    verdicts = tuple(
        Verdict(
            rank,
            score,
            lower[rank],
            same[rank],
            drop_ok=lower[rank].mean <= max_drop + slack,
            agreement_ok=same[rank].mean >= min_agreement - slack,
        )
        for rank, score in found.items()
    )
    rank = next((verdict.rank for verdict in verdicts if verdict.ok), None)
    closest = min(verdicts, key=lambda v: (v.shortfall(max_drop, min_agreement), v.rank)).rank
    return Recommendation(solver, rank, rank or closest, verdicts, max_drop, min_agreement)
