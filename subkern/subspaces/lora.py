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
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch

from subkern.errors import UserError
from subkern.models.logit_model import LogitModel, named_parameters
from subkern.one_line import check_seed
from subkern.subspaces.base import Coordinates, HasCheckpoint
from subkern.subspaces.lora_targets import NAMED, Targets, resolve
from subkern.subspaces.peft_adapters import describe, targeted_modules, wrap


def draw_rows(seed: int, module: str, rank: int, d_in: int) -> np.ndarray:
    """Rows of LoRA's A ``[rank, d_in]``, uniform in ±1/√d_in as PEFT's default is.

    Row i depends on (seed, module, i) alone, so the rows of a smaller rank are the first rows of a
    larger one. Philox is counter-based: the same on every machine.
    """
    digest = hashlib.blake2b(f"{seed}/{module}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
    return (2.0 * generator.random((rank, d_in)) - 1.0) / np.sqrt(d_in)


@dataclass(frozen=True)
class Lora(HasCheckpoint):
    """LoRA of one rank as a subspace: PEFT's own layers, with A drawn by `draw_rows`.

    Args:
        r: rank.
        alpha: LoRA's α; the update is scaled by α/r (by α/√r if `rslora`).
        targets: a name of `subkern.subspaces.lora_targets.NAMED` (``"qv"``, ``"attention"``,
            ``"mlp"``, ``"all-linear"``, ``"all"``), a regular expression over full module names,
            or a tuple of names or suffixes, as in PEFT's ``target_modules``.
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
        if not 0 < self.alpha < float("inf"):
            raise UserError(f"LoRA alpha {self.alpha} is not a number above 0: use alpha=8")
        check_seed("seed of LoRA", self.seed)

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
            linear = "default" in layers[name].lora_A
            if not linear or hasattr(layers[name], "parameter_name"):  # PEFT's way with experts
                advice = "targets=attention, or Peft(LoraConfig(…))"
                raise UserError(f"'{name}' is not a linear layer: adapt it with {advice}")
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
