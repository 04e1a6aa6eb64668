"""LoRA at its start, for every rank at once.

ΔW = s·B·A with s = α/r (rsLoRA: α/√r) and B = 0: only B moves at first, and
∂f/∂B = s Σ_t g_t (A a_t)ᵀ. So the LoRA kernel of a layer is the full one with a replaced by s·A·a,
and because the rows of A are independent, the contributions of rows 1 … R summed up to r give rank
r. One capture of the base model's factors serves every rank and every seed.

E[K_LoRA] = Σ_layers s²·r/(3·d_in)·K_layer: layer by layer proportional to the kernel of full
fine-tuning *of the adapted weights*. Compare after the optimal scale; what then remains between the
two expectations is the weighting of layers of different d_in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor, nn

from subkern.adapters import describe, linear_modules, targeted_modules, wrap
from subkern.capture import Captured
from subkern.contraction import BLOCK
from subkern.errors import UserError
from subkern.factors import Outer, work_dtype
from subkern.models import LogitModel, named_parameters
from subkern.subspaces import Coordinates, Trainable
from subkern.target_sets import NAMED, Targets, resolve


def draw_rows(seed: int, module: str, rank: int, d_in: int) -> np.ndarray:
    """Rows of LoRA's A ``[rank, d_in]``, uniform in ±1/√d_in as PEFT's default is.

    Row i depends on (seed, module, i) alone, so the rows of a smaller rank are the first rows of a
    larger one. Philox is counter-based: the same on every machine.
    """
    digest = hashlib.blake2b(f"{seed}/{module}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return (2.0 * generator.random((rank, d_in)) - 1.0) / np.sqrt(d_in)


@dataclass(frozen=True)
class Lora(Trainable):
    """LoRA of one rank as a subspace: PEFT's own layers, with A drawn by `draw_rows`.

    Args:
        r: rank.
        alpha: LoRA's α; the update is scaled by α/r (by α/√r if `rslora`).
        targets: a name of `subkern.target_sets.NAMED` (``"qv"``, ``"attention"``, ``"mlp"``,
            ``"all-linear"``, ``"all"``), a regular expression over full module names, or a tuple
            of names or suffixes, as in PEFT's ``target_modules``.
        seed: seed of A.
        rslora: rank-stabilised scaling.
    """

    r: int = 8
    alpha: float = 8.0
    targets: Targets = "all-linear"
    seed: int = 0
    rslora: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise UserError(f"LoRA rank {self.r} is not positive: use r >= 1")

    @property
    def config(self) -> peft.LoraConfig:
        """The equivalent PEFT configuration.

        Raises:
            UserError: the targets are a named set, which only a model resolves (`config_for`).
        """
        if self.targets in NAMED and self.targets != "all-linear":
            raise UserError(f"targets '{self.targets}' depend on the model: use config_for(model)")
        return self._config(self.targets)

    def config_for(self, model: LogitModel) -> peft.LoraConfig:
        """The PEFT configuration for `model`; ``"all"`` trains the other parameters beside it."""
        return self._config(resolve(model, self.targets).targets)

    def _config(self, targets: Targets) -> peft.LoraConfig:
        return peft.LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]
            target_modules=targets if isinstance(targets, str) else list(targets),
            use_rslora=self.rslora,
        )

    def attach(self, model: LogitModel) -> Coordinates:
        """A PEFT-wrapped copy of `model`; its coordinates are every A and B (and the readout).

        With targets ``"all"`` every weight that is not adapted is a coordinate too.

        Raises:
            UserError: no module matches the targets, or the rank exceeds a layer's dimensions.
        """
        wrapped = wrap(model, self.config_for(model), self.seed)
        layers = dict(wrapped.module.named_modules())
        for name in targeted_modules(wrapped.module):
            if "default" not in layers[name].lora_A:
                raise UserError(
                    f"'{name}' is not a linear layer: adapt it with Peft(LoraConfig(…))"
                )
            weight = layers[name].lora_A["default"].weight
            _check_rank(self.r, name, weight.shape[1], layers[name].lora_B["default"].out_features)
            rows = draw_rows(self.seed, name, self.r, weight.shape[1])
            with torch.no_grad():
                weight.copy_(torch.from_numpy(rows))
        if resolve(model, self.targets).trains_rest:
            _train_rest(wrapped)
        return Coordinates.of_adapter(wrapped)

    def describe(self) -> dict[str, Any]:
        """Rank, scaling, targets (as they were named) and seed."""
        config = describe(self._config(self.targets))
        return {"kind": "lora", "seed": self.seed, "config": config}


def _train_rest(wrapped: LogitModel) -> None:
    """Let every parameter of a PEFT-wrapped model be trained but the weights it adapts."""
    adapted = {f"{name}.base_layer.weight" for name in targeted_modules(wrapped.module)}
    for name, parameter in named_parameters(wrapped).items():
        parameter.requires_grad_(name not in adapted)


def _check_rank(rank: int, name: str, d_in: int, d_out: int) -> None:
    if rank > min(d_in, d_out):
        raise UserError(
            f"LoRA rank {rank} exceeds the {d_out} x {d_in} layer '{name}':"
            f" use ranks up to {min(d_in, d_out)} or other targets"
        )


@dataclass(frozen=True)
class SweepLayers:
    """The base weights that a LoRA sweep adapts, with the stacked A of every seed.

    Attributes:
        rows: parameter name → A ``[s·R, d_in]``, seeds one after the other.
        shapes: parameter name → (d_in, d_out).
        always: parameters trained beside the adapters: the linear readout, or with targets
            ``"all"`` every parameter that is not adapted.
    """

    rows: dict[str, Tensor]
    shapes: dict[str, tuple[int, int]]
    always: tuple[str, ...]

    def trainable(self, rank: int) -> int:
        """Trained parameters of LoRA of `rank`: A and B of every layer."""
        return sum(rank * (i + o) for i, o in self.shapes.values())


def sweep_layers(
    model: LogitModel, targets: Targets, max_rank: int, seeds: Sequence[int]
) -> SweepLayers:
    """Resolve `targets` (named ones first) exactly as PEFT does and draw every seed's A.

    Raises:
        UserError: nothing matches, a target is no linear layer, or `max_rank` is too large.
    """
    meant = resolve(model, targets)
    wrapped = wrap(model, Lora(r=1, targets=meant.targets).config)
    names = targeted_modules(wrapped.module)
    linear = set(linear_modules(model.module))
    modules = dict(model.module.named_modules())
    for name in names:
        if name not in linear:
            what = (
                "is the decoder"
                if isinstance(modules[name], nn.Linear)
                else "is not a linear layer"
            )
            raise UserError(f"'{name}' {what}, which no sweep covers: use --subspace lora:r=8,…")
    by_id = {id(p): n for n, p in named_parameters(model).items()}
    rows, shapes = {}, {}
    for name in names:
        weight = modules[name].weight
        turned = not isinstance(modules[name], nn.Linear)  # Conv1D keeps [d_in, d_out]
        d_in, d_out = tuple(weight.shape) if turned else tuple(weight.shape)[::-1]
        _check_rank(max_rank, name, d_in, d_out)
        drawn = np.concatenate([draw_rows(s, name, max_rank, d_in) for s in seeds])
        key = by_id[id(weight)]
        if key in rows:
            raise UserError(f"'{name}' shares its weight with another target: name one of them")
        dtype = work_dtype(weight.dtype)
        # The rows as the model would hold them: rounded to its own type first.
        rows[key] = torch.from_numpy(drawn).to(weight.dtype).to(weight.device, dtype)
        shapes[key] = (d_in, d_out)
    always = tuple(
        name
        for name in named_parameters(model)
        if name.startswith("readout.") or (meant.trains_rest and name not in rows)
    )
    return SweepLayers(rows, shapes, always)


def sweep_block(
    left: Captured, right: Captured, layers: SweepLayers, seeds: int, ranks: Sequence[int]
) -> Tensor:
    """Kernel blocks of B's gradients before scaling by s², for all seeds and ranks.

    Returns:
        ``[seeds, ranks, n, c, m, c]``, float64: Σ over layers and over rows 1 … r of
        ⟨Σ_t g_t (A_ρ·a_t), Σ_s g'_s (A_ρ·a'_s)⟩.
    """
    n, m, c = len(left), len(right), left.logits.shape[1]
    edges = [0, *sorted(set(ranks))]
    order = [edges.index(r) - 1 for r in ranks]
    device = left.logits.device
    out = torch.zeros(seeds, len(edges) - 1, n * c, m * c, dtype=torch.float64, device=device)
    for name, rows in layers.rows.items():
        if name not in left.factors or name not in right.factors:
            continue
        sides = [_project(side.factors[name], rows, c) for side in (left, right)]
        per_row = _gram_by_row(*sides)  # [s·R, n·c, m·c]
        per_row = per_row.view(seeds, -1, n * c, m * c)
        for k in range(len(edges) - 1):
            out[:, k] += per_row[:, edges[k] : edges[k + 1]].sum(1)
    return out.cumsum(1)[:, order].view(seeds, len(ranks), n, c, m, c)


def _project(side: Sequence[Any], rows: Tensor, c: int) -> Tensor:
    """U = Σ_t g_t (A_ρ·a_t) of every example, ``[s·R, n·c, d_out]``."""
    if not all(isinstance(f, Outer) for f in side):
        raise UserError("a target is used as more than a linear layer: use --subspace lora:r=…")
    d_out = side[0].cotangents.shape[-1]
    out = rows.new_empty(len(side), rows.shape[0], c * d_out)
    for factor, target in zip(side, out, strict=True):
        hidden = factor.inputs.to(rows.dtype) @ rows.T  # [t, s·R]
        torch.mm(hidden.T, factor.cotangents.flatten(1).to(rows.dtype), out=target)
    return out.transpose(0, 1).unflatten(-1, (c, d_out)).flatten(1, 2)


def _gram_by_row(left: Tensor, right: Tensor) -> Tensor:
    parts = zip(left.split(BLOCK, dim=-1), right.split(BLOCK, dim=-1), strict=True)
    return torch.stack([torch.bmm(a, b.mT).double() for a, b in parts]).sum(0)


def scales(ranks: Sequence[int], alpha: float, rslora: bool) -> np.ndarray:
    """s² for every rank: (α/r)², or α²/r for rsLoRA."""
    r = np.asarray(ranks, dtype=np.float64)
    return alpha**2 / r if rslora else (alpha / r) ** 2
