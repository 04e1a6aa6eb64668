"""What is estimated: seconds and FLOPs of every phase, memory, and bytes on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

__all__ = ["Alternative", "Costs", "Estimate", "Phase"]


@dataclass(frozen=True)
class Phase:
    """A part of the work.

    Attributes:
        name: what it is.
        seconds: that it takes.
        flops: of its matrix products, or None where they are not counted.
    """

    name: str
    seconds: float
    flops: int | None = None


@dataclass(frozen=True)
class Costs:
    """What a computation takes.

    Attributes:
        phases: parts of the work, in order.
        memory_bytes: most resident memory, that of the loaded model with it.
        scratch_bytes: of files while it runs, beside what it leaves.
    """

    phases: tuple[Phase, ...]
    memory_bytes: int
    scratch_bytes: int

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def flops(self) -> int:
        """Of all phases whose products are counted."""
        return sum(phase.flops or 0 for phase in self.phases)


@dataclass(frozen=True)
class Alternative:
    """What it would take asked for otherwise.

    Attributes:
        change: what is asked for otherwise, as an option.
        costs: what it takes then.
    """

    change: str
    costs: Costs


@dataclass(frozen=True)
class Estimate:
    """What a computation will take on this machine.

    Attributes:
        what: kernel entries or gradients, by name, in all.
        entries: how many.
        costs: what it takes.
        output_bytes: of the numbers that it leaves on disk, before compression.
        alternatives: what other settings would take.
        cores_of_others: that other processes used while it was measured: they slow both.
    """

    what: str
    entries: int
    costs: Costs
    output_bytes: int
    alternatives: tuple[Alternative, ...] = ()
    cores_of_others: float = 0.0

    def after(self, name: str, seconds: float) -> Estimate:
        """The same with a phase before all others."""
        return self._with(lambda phases: (Phase(name, seconds), *phases))

    def then(self, name: str, seconds: float) -> Estimate:
        """The same with a phase after all others."""
        return self._with(lambda phases: (*phases, Phase(name, seconds)))

    def times(self, count: int) -> Estimate:
        """Of so many computations of the same sizes, one after the other."""

        def more(costs: Costs) -> Costs:
            phases = (
                replace(
                    p,
                    seconds=p.seconds * count,
                    flops=None if p.flops is None else p.flops * count,
                )
                for p in costs.phases
            )
            return replace(costs, phases=tuple(phases))

        return replace(
            self._changed(more),
            entries=self.entries * count,
            output_bytes=self.output_bytes * count,
        )

    def _with(self, change: Callable[[tuple[Phase, ...]], tuple[Phase, ...]]) -> Estimate:
        return self._changed(lambda costs: replace(costs, phases=change(costs.phases)))

    def _changed(self, change: Callable[[Costs], Costs]) -> Estimate:
        others = tuple(replace(a, costs=change(a.costs)) for a in self.alternatives)
        return replace(self, costs=change(self.costs), alternatives=others)

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "what": self.what,
            "entries": self.entries,
            "seconds": self.costs.seconds,
            "flops": self.costs.flops,
            "memory_bytes": self.costs.memory_bytes,
            "scratch_bytes": self.costs.scratch_bytes,
            "output_bytes": self.output_bytes,
            "phases": [asdict(phase) for phase in self.costs.phases],
            "alternatives": [{"change": a.change, **_summary(a.costs)} for a in self.alternatives],
            "cores_of_others": self.cores_of_others,
        }


def _summary(costs: Costs) -> Mapping[str, Any]:
    return {
        "seconds": costs.seconds,
        "flops": costs.flops,
        "memory_bytes": costs.memory_bytes,
        "scratch_bytes": costs.scratch_bytes,
    }
