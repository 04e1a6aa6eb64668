"""Starts of LoRA that look at training data first: EVA and LoRA-GA, by PEFT's own code.

Both are a point that a LoRA subspace may stand at (`subkern.subspaces.base.AtCheckpoint`):
``Lora(r=8).at(data_start(model, examples, Lora(r=8)))``, or ``lora:r=8@FILE`` of the command line
with the file that ``subkern start`` writes. Sources: Paischer et al. 2024, "Parameter Efficient
Fine-tuning via Explained Variance Adaptation"; Wang et al. 2024, "LoRA-GA".
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

from subkern.errors import UserError, check_choice
from subkern.models.copy import copy_module
from subkern.models.logit_model import Batch, LogitModel
from subkern.prompts.prompt import EncodedExample, label_array
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
    s·B·A is taken out of the weight; a layer that the loss does not see starts as LoRA does.

    Args:
        model: f at θ₀; it is left as it is.
        examples: training examples, taken in order.
        lora: rank, α and targets; its seed is of layers that start as LoRA does.
        method: of `METHODS`.
        batch_size: examples of a forward pass; LoRA-GA's gradient is the mean over such batches.
        loss: of `subkern.training.losses`, for LoRA-GA.

    Returns:
        Tensors by name, to stand at: ``lora.at(tensors)``. LoRA-GA's hold the adapted weights too.

    Raises:
        UserError: no examples, an unknown method, or PEFT refuses a layer, or EVA has fewer tokens
            in a batch than ranks.
    """
    check_choice("method", method, METHODS)
    if not examples:
        raise UserError("there are no training examples: give at least one")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is not positive: use 1 or more")
    plain = lora.attach(model)  # refuses what LoRA itself cannot do, and names the targets
    parts = [examples[i : i + batch_size] for i in range(0, len(examples), batch_size)]
    batches = [(model.collate(part), torch.as_tensor(label_array(part))) for part in parts]
    found: Any = plain.model.module.peft_config
    config = copy.deepcopy(found["default"])
    config.target_modules = set(targeted_modules(plain.model.module))
    config.exclude_modules = None
    trained = {name: p.detach().clone() for name, p in plain.parameters.items()}
    with torch.random.fork_rng(), _silent():
        torch.manual_seed(lora.seed)
        if method == "eva":
            return trained | _eva(model, config, batches)
        return trained | _lora_ga(model, config, batches, loss)


Batches = Sequence[tuple[Batch, Tensor]]


def _eva(model: LogitModel, config: peft.LoraConfig, batches: Batches) -> dict[str, Tensor]:
    """A of every adapted layer; B is 0 already."""
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
        return taken.reshape(-1, taken.shape[-1]).contiguous()

    found = get_eva_state_dict(
        module,
        [{"batch": batch} for batch, _ in batches],
        config,
        forward_fn=lambda _, inputs: run(inputs["batch"]),
        prepare_model_inputs_fn=lambda inputs, _: inputs["batch"].attention_mask.bool(),
        prepare_layer_inputs_fn=of_tokens,
        show_progress_bar=False,
    )
    return {
        f"{name}.lora_A.default.weight": rows.to(model.dtype).contiguous()
        for name, rows in found.items()
    }


def _lora_ga(
    model: LogitModel, config: peft.LoraConfig, batches: Batches, loss: str
) -> dict[str, Tensor]:
    """A, B and the weight beside them of every adapted layer."""
    config.init_lora_weights = "lora_ga"  # type: ignore[assignment]
    config.lora_ga_config = peft.LoraGAConfig()
    module = copy_module(model.module, shared=False)
    run = model.with_module(module)

    def backward() -> None:
        module.eval()  # PEFT has turned dropout on
        for batch, labels in batches:
            get_loss(loss)(run(batch), labels.to(batch.read.device)).backward()

    peft.preprocess_loraga(module, config, backward)
    found = {name: module.get_submodule(name) for name in config.target_modules or ()}
    gradients = {name: getattr(each, "_peft_loraga_grad", None) for name, each in found.items()}
    felt = {name: each for name, each in gradients.items() if each is not None and each.any()}
    if not felt:
        raise UserError("the loss depends on no adapted layer: LoRA-GA has no start")
    for name, gradient in felt.items():
        if min(gradient.shape) < 2 * config.r:
            raise UserError(
                f"LoRA-GA of rank {config.r} needs twice as many directions, and '{name}' has"
                f" {min(gradient.shape)}: use ranks up to {min(gradient.shape) // 2}"
            )
    config.target_modules = [*felt]  # a layer that the loss does not see starts as LoRA does
    started = wrap(run, config).module
    return {
        f"{name}.{part}.weight": started.get_parameter(f"{name}.{part}.weight").detach().clone()
        for name in targeted_modules(started)
        for part in ("lora_A.default", "lora_B.default", "base_layer")
    }


@contextmanager
def _silent() -> Iterator[None]:
    """Keep PEFT's progress and notes off the screen."""
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
