"""Target sets of a LoRA study: how they are written, and its results seen one set at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from subkern.errors import UserError
from subkern.subspaces.lora_targets import NAMED, Targets
from subkern.subspaces.text import parse_targets

from ..engine.run_folder import Results

__all__ = [
    "GRID",
    "MOST",
    "asks_for_targets",
    "configuration_name",
    "from_texts",
    "is_grid",
    "kernel_name",
    "label",
    "named_sets",
    "names",
    "only",
]

GRID = "grid"  # stands for all named sets
MOST = 6  # lines that one panel can hold


def label(targets: Targets | Sequence[str]) -> str:
    """Return targets as one line, as `--targets` takes them."""
    return targets if isinstance(targets, str) else ",".join(targets)


def from_texts(texts: Iterable[str]) -> dict[str, Any]:
    """Return the settings ``targets`` and ``target_sets`` for what `--targets` was given.

    Each text is one target set; ``grid`` stands for the named ones, qv to all.
    """
    given = [texts] if isinstance(texts, str) else texts
    wanted = list(dict.fromkeys(t for text in given for t in (NAMED if text == GRID else [text])))
    if len(wanted) == 1:
        return {"targets": parse_targets(wanted[0]), "target_sets": ()}
    return {"target_sets": tuple(wanted)}


def named_sets(targets: Targets | Sequence[str], target_sets: Sequence[str]) -> dict[str, Targets]:
    """Return the targets of a study by name: of its ``target_sets``, or of ``targets`` alone.

    Raises:
        UserError: there are more than a figure can show.
    """
    if len(target_sets) > MOST:
        raise UserError(f"{len(target_sets)} target sets are too many: compare at most {MOST}")
    if target_sets:
        return {text: parse_targets(text) for text in target_sets}
    return {label(targets): targets if isinstance(targets, str) else tuple(targets)}


def names(results: Results) -> list[str]:
    """Return the names of the study's target sets."""
    return list(named_sets(results.config["targets"], results.config["target_sets"]))


def asks_for_targets(config: Mapping[str, Any]) -> bool:
    """Return whether the question is of rank *and* targets, or of a budget."""
    return bool(config["target_sets"]) or config["budget"] is not None


def is_grid(results: Results) -> bool:
    """Return whether the study's question is of rank *and* targets, or of a budget."""
    return asks_for_targets(results.config)


def configuration_name(config: Mapping[str, Any], targets: str, rank: int) -> str:
    """Return what LoRA of a rank on a target set is called: ``rank 4``, ``mlp, rank 4``."""
    several = bool(config["target_sets"])
    return f"{targets}, rank {rank}" if several else f"rank {rank}"


def kernel_name(config: Mapping[str, Any], targets: str | None, what: str) -> str:
    """Return the name under which a kernel of a data seed is kept: ``lora-r4-s0``, ``mlp-full``.

    A study of one target set does not name it; sets that are written as names or expressions go by
    their number, as they are no file names.
    """
    if targets is None or not config["target_sets"]:
        return what
    number = list(config["target_sets"]).index(targets) + 1
    return f"{targets if targets in NAMED else f'set{number}'}-{what}"


def only(results: Results, targets: str, ranks: Sequence[int] | None = None) -> Results:
    """Return the study of one target set (and of some ranks), as if no other had been asked for."""
    table = results.table
    here = (table["targets"].isna() | (table["targets"] == targets)).fillna(True)
    wanted = sorted(results.config["ranks"] if ranks is None else ranks)
    here &= (table["rank"].isna() | table["rank"].isin(wanted)).fillna(True)
    config = {
        **results.config,
        "targets": named_sets(results.config["targets"], results.config["target_sets"])[targets],
        "target_sets": [],
        "ranks": wanted,
        "budget": None,
    }
    kernels = _Renamed(results.kernels, results.config, targets)
    return replace(results, table=table[here.to_numpy(dtype=bool)], config=config, kernels=kernels)


class _Renamed(Mapping[str, Any]):
    """The kernels of one target set under the names of a study of it alone."""

    def __init__(self, kernels: Mapping[str, Any], config: Mapping[str, Any], targets: str) -> None:
        self.kernels, self.config, self.targets = kernels, config, targets

    def __getitem__(self, name: str) -> Any:
        seed, _, what = name.partition("/")
        targets = None if what == "full" else self.targets
        return self.kernels[f"{seed}/{kernel_name(self.config, targets, what)}"]

    def __iter__(self) -> Iterator[str]:
        whole = [f"{seed}/full" for seed in self.config["data_seeds"]]
        starts = {
            seed: f"{seed}/{kernel_name(self.config, self.targets, '')}"
            for seed in self.config["data_seeds"]
        }
        yield from whole
        for name in self.kernels:
            for seed, start in starts.items():
                if name.startswith(start) and name not in whole:
                    yield f"{seed}/{name.removeprefix(start)}"

    def __len__(self) -> int:
        return sum(1 for _ in self)
