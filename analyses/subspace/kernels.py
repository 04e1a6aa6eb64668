"""The kernels of ``analyze subspace``: full, random subspaces, LoRA and other methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from subkern.errors import UserError
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.dimensions import sweep_dimensions
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora
from subkern.kernels.sweeps.lora_blocks import sweep_layers
from subkern.models.logit_model import LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.text import as_subspace

from .config import DEFAULT_METHODS, Config
from .measure import Member, Sweep

__all__ = ["Methods", "choose_methods", "compute_sweep", "count_parameters"]


@dataclass(frozen=True)
class Methods:
    """The methods beside random subspaces and LoRA.

    Attributes:
        full: how many parameters full fine-tuning trains.
        parameters: one-line form -> how many parameters it trains.
        left_out: default methods that the model cannot take -> why.
    """

    full: int
    parameters: dict[str, int]
    left_out: dict[str, str]

    def describe(self) -> dict[str, Any]:
        """What is recorded beside the inputs."""
        return {"methods": dict(self.parameters), "left_out": dict(self.left_out)}


def choose_methods(config: Config, model: LogitModel) -> Methods:
    """Return the methods asked for, or those defaults that the model can take.

    Raises:
        UserError: the model cannot take a method that was asked for, LoRA as asked for, or so many
            dimensions.
    """
    whole = count_parameters(model, "full")
    if config.dims[-1] > whole:
        raise UserError(
            f"dims holds {config.dims[-1]}, the model has {whole} parameters: give at most that"
        )
    if config.ranks:
        sweep_layers(model, config.targets, max(config.ranks), config.adapter_seeds[:1])
    parameters, left_out = {}, {}
    for method in DEFAULT_METHODS if config.methods is None else config.methods:
        try:
            parameters[method] = count_parameters(model, method)
        except UserError as error:
            if config.methods is not None:
                raise
            left_out[method] = str(error)
    return Methods(whole, parameters, left_out)


def count_parameters(model: LogitModel, method: str) -> int:
    """Return how many parameters a method trains."""
    return as_subspace(method).attach(model).size


def compute_sweep(
    config: Config,
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    methods: Methods,
    options: RunOptions,
) -> Sweep:
    """Return every kernel of a data seed, left × right; each part resumes from its own tiles."""
    started = perf_counter()
    cost: dict[str, float] = {}
    others: list[Member] = []
    for dims, kinds in _by_dims(config).items():
        swept = sweep_dimensions(
            model,
            left,
            right,
            dims=dims,
            kinds=kinds,
            seeds=config.projection_seeds,
            rule=config.rule,
            allocation=config.allocation,
            options=_part(options, f"dimensions-{dims[-1]}"),
        )
        full = Member(swept.full, "full", "full", methods.full)
        others += [
            Member(swept.kernels[kind, seed, dim], "random", kind, dim, seed)
            for kind in kinds
            for dim in dims
            for seed in config.projection_seeds
        ]
        cost |= {f"{'+'.join(kinds)}.{name}": value for name, value in swept.cost.items()}
    others += _lora(config, model, left, right, options, cost)
    others += _methods(config, model, left, right, methods, options, cost)
    parts = [value for name, value in cost.items() if name.endswith(".seconds")]
    cost["seconds"] = max(perf_counter() - started, sum(parts))  # of all runs, if one was killed
    return Sweep(full, others, cost)


def _by_dims(config: Config) -> dict[tuple[int, ...], list[str]]:
    """Return the kinds that are tried in the same dimensions, by these."""
    found: dict[tuple[int, ...], list[str]] = {}
    for kind in config.kinds:
        found.setdefault(config.dims_of(kind), []).append(kind)
    return found


def _lora(
    config: Config,
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    options: RunOptions,
    cost: dict[str, float],
) -> Iterator[Member]:
    """Yield LoRA's kernels, ranks ascending; ``cost`` takes what they took."""
    if not config.ranks:
        return
    grid = LoraGrid(config.ranks, config.adapter_seeds, config.targets)
    found = sweep_lora(
        model, left, right, grid=grid, rule=config.rule, options=_part(options, "lora")
    )
    cost |= {f"lora.{name}": value for name, value in found.cost.items()}
    for rank in config.ranks:
        for seed in config.adapter_seeds:
            kernel = found.kernels[seed, rank]
            yield Member(kernel, "lora", f"rank {rank}", found.trainable[rank], seed)


def _methods(
    config: Config,
    model: LogitModel,
    left: Sequence[EncodedExample],
    right: Sequence[EncodedExample],
    methods: Methods,
    options: RunOptions,
    cost: dict[str, float],
) -> Iterator[Member]:
    """Yield the kernels of the other methods; ``cost`` takes what they took."""
    for i, (method, parameters) in enumerate(methods.parameters.items()):
        part = _part(options, f"method-{i}")
        kernel = compute_kernel(model, left, right, rule=config.rule, subspace=method, options=part)
        cost[f"{method}.seconds"] = kernel.provenance["recorded"]["seconds"]
        yield Member(kernel, "method", method, parameters)


def _part(options: RunOptions, name: str) -> RunOptions:
    """Return the same way to run with a checkpoint folder of its own."""
    if options.checkpoint is None:
        return options
    return replace(options, checkpoint=Path(options.checkpoint) / name)
