"""Starts of LoRA that look at training data first: EVA and LoRA-GA, by PEFT's own code.

Both are a point that a LoRA subspace may stand at (`subkern.subspaces.base.AtCheckpoint`):
``Lora(r=8).at(eva(model, examples, Lora(r=8)))``, or ``lora:r=8@FILE`` of the command line with the
file that ``subkern start`` writes. Sources: Paischer et al. 2024, "Parameter Efficient Fine-tuning
via Explained Variance Adaptation"; Wang et al. 2024, "LoRA-GA".
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import peft
import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.models.copy import copy_module
from subkern.models.logit_model import Batch, LogitModel
from subkern.prompts.prompt import EncodedExample
from subkern.subspaces.lora import Lora
from subkern.subspaces.peft_adapters import targeted_modules, wrap
from subkern.training.losses import get_loss

__all__ = ["METHODS", "data_start"]

METHODS = ("eva", "lora-ga")


def data_start(
    model: LogitModel,
    examples: Sequence[EncodedExample],
    lora: Lora,
    method: str = "eva",
    *,
    batch_size: int = 8,
    loss: str = "cross_entropy",
) -> dict[str, Tensor]:
    """Return where LoRA starts when its start is chosen by data; f is the pretrained one there.

    ``eva``: the rows of A are the directions in which a layer's inputs vary most (right singular
    vectors of the centered inputs of all tokens, by PEFT's incremental PCA), B = 0; every layer
    keeps the rank asked for (ρ = 1). ``lora-ga``: with U S Vᵀ the gradient of the loss by a layer's
    weight, A is V's first r columns and B the next r of U S, scaled as PEFT's ``stable`` does, and
    s·B·A is taken out of the weight.

    Args:
        model: f at θ₀; it is left as it is.
        examples: training examples, taken in order.
        lora: rank, α and targets; its seed plays no part in A's rows.
        method: of `METHODS`.
        batch_size: examples of a forward pass; LoRA-GA's gradient is the mean over such batches.
        loss: of `subkern.training.losses`, for LoRA-GA.

    Returns:
        Tensors by name, to stand at: ``lora.at(tensors)``. LoRA-GA's hold the adapted weights too.

    Raises:
        UserError: no examples, an unknown method, or PEFT refuses a layer, or EVA has fewer tokens
            in a batch than ranks.
    """
    if method not in METHODS:
        raise UserError(f"method '{method}' is no start from data: use {' or '.join(METHODS)}")
    if not examples:
        raise UserError("there are no training examples: give at least one")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is not positive: use 1 or more")
    plain = lora.attach(model).model  # refuses what LoRA itself cannot do, and names the targets
    parts = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    batches = [(model.collate(part), [e.label for e in part]) for part in parts]
    found: Any = plain.module.peft_config
    config = copy.deepcopy(found["default"])
    config.target_modules = set(targeted_modules(plain.module))
    config.exclude_modules = None
    start = _eva if method == "eva" else _lora_ga
    with torch.random.fork_rng(), _silent():
        torch.manual_seed(lora.seed)
        return start(model, plain, config, batches, loss)


Batches = Sequence[tuple[Batch, list[Any]]]


def _eva(
    model: LogitModel, plain: LogitModel, config: peft.LoraConfig, batches: Batches, _: str
) -> dict[str, Tensor]:
    from peft.tuners.lora.eva import get_eva_state_dict

    tokens = min(int(batch.attention_mask.sum()) for batch, _ in batches)
    if tokens < config.r:
        raise UserError(f"EVA of rank {config.r} needs as many tokens in a batch, and one has"
                        f" {tokens}: use a larger batch or a smaller rank")  # fmt: skip
    config.init_lora_weights = "eva"
    config.eva_config = peft.EvaConfig(rho=1.0)
    module = copy_module(model.module, shared=True)
    run = model.with_module(module)

    def of_tokens(inputs: Any, mask: Tensor | None, _: str) -> Tensor:
        taken: Tensor = inputs[0] if isinstance(inputs, tuple | list) else inputs
        if mask is not None and taken.shape[:-1] == mask.shape:
            return taken[mask]
        return taken.reshape(-1, taken.shape[-1])

    found = get_eva_state_dict(
        module,
        [{"batch": batch} for batch, _ in batches],
        config,
        forward_fn=lambda _, inputs: run(inputs["batch"]),
        prepare_model_inputs_fn=lambda inputs, _: inputs["batch"].attention_mask.bool(),
        prepare_layer_inputs_fn=of_tokens,
        show_progress_bar=False,
    )
    tensors = _adapter(plain)
    for name, rows in found.items():
        tensors[f"{name}.lora_A.default.weight"] = rows.to(plain.dtype).contiguous()
    return tensors


def _lora_ga(
    model: LogitModel, plain: LogitModel, config: peft.LoraConfig, batches: Batches, loss: str
) -> dict[str, Tensor]:
    config.init_lora_weights = "lora_ga"  # type: ignore[assignment]
    config.lora_ga_config = peft.LoraGAConfig()
    module = copy_module(model.module, shared=False)
    run = model.with_module(module)

    def backward() -> None:
        module.eval()  # PEFT has turned dropout on
        for batch, labels in batches:
            get_loss(loss)(run(batch), torch.tensor(labels, device=batch.read.device)).backward()

    peft.preprocess_loraga(module, config, backward)
    for name in config.target_modules or ():
        gradient = getattr(module.get_submodule(name), "_peft_loraga_grad", None)
        if gradient is None or not gradient.any():
            raise UserError(f"the loss does not depend on '{name}', so LoRA-GA has no start for it:"
                            " leave it out of the targets")  # fmt: skip
        if min(gradient.shape) < 2 * config.r:
            raise UserError(
                f"LoRA-GA of rank {config.r} needs twice as many directions, and '{name}' has"
                f" {min(gradient.shape)}: use ranks up to {min(gradient.shape) // 2}"
            )
    started = wrap(run, config)
    tensors = _adapter(started)
    for name in targeted_modules(started.module):
        weight = started.module.get_submodule(name).get_base_layer().weight  # type: ignore[operator]
        tensors[f"{name}.base_layer.weight"] = weight.detach().clone()
    return tensors


def _adapter(model: LogitModel) -> dict[str, Tensor]:
    """A and B of an attached LoRA, by name."""
    named = model.module.named_parameters()
    return {n: p.detach().clone() for n, p in named if ".lora_A." in n or ".lora_B." in n}


@contextmanager
def _silent() -> Iterator[None]:
    """Keep PEFT's progress and notes off the screen."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
