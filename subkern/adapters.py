"""PEFT adapters on a `LogitModel`, without touching the model they are put on."""

from __future__ import annotations

import copy
import json
from typing import Any

import peft
import torch
from torch import nn

from subkern.errors import UserError
from subkern.groups import norm_modules
from subkern.models import LogitModel
from subkern.virtual_tokens import add_virtual_tokens


def wrap(model: LogitModel, config: peft.PeftConfig, seed: int = 0) -> LogitModel:
    """`model` with the adapter of `config`, on a copy that shares every weight.

    The copy is in evaluation mode (adapter dropout off). The adapter is initialised by PEFT from
    `seed`; only its parameters, and the linear readout if there is one, require gradients. LN
    tuning without targets takes every norm of the model.

    Raises:
        UserError: PEFT refuses the configuration (no module matches the targets, say), or the
            model has no place for the virtual tokens of a prompt method.
    """
    module = _copy(model.module, shared=not _rewrites(config))
    # PEFT decomposes weights (PiSSA, OLoRA) in float32 only.
    double = _keeps_function(config) and model.dtype == torch.float64
    config = _with_targets(module, config)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if config.is_prompt_learning:
                return model.with_module(add_virtual_tokens(module, config))
            wrapped = peft.get_peft_model(module.float() if double else module, config)
    except UserError:
        raise
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise UserError(_explain(model, config, error)) from error
    inner = wrapped.to(model.dtype).base_model.model
    assert isinstance(inner, nn.Module)
    if double:
        _restore(model.module, inner)
    return model.with_module(inner)


def targeted_modules(wrapped: nn.Module) -> list[str]:
    """Names of the modules that carry an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [n for n, m in wrapped.named_modules() if isinstance(m, BaseTunerLayer)]


def linear_modules(module: nn.Module) -> list[str]:
    """Names of the linear layers of a model (GPT-2's `Conv1D` too), its decoder left out."""
    from transformers.pytorch_utils import Conv1D

    getter = getattr(module, "get_output_embeddings", None)
    decoder = getter() if getter is not None else None
    return [
        n
        for n, m in module.named_modules()
        if isinstance(m, nn.Linear | Conv1D) and m is not decoder
    ]


def describe(config: peft.PeftConfig) -> dict[str, Any]:
    """The configuration as JSON-able values, without what PEFT adds for bookkeeping."""
    values = json.loads(json.dumps(config.to_dict(), default=_plain, sort_keys=True))
    for key in ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping"):
        values.pop(key, None)
    return {k: v for k, v in values.items() if v not in (None, {}, [], False)}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def _rewrites(config: peft.PeftConfig) -> bool:
    """Whether the method may change the base weights in place (PiSSA, OLoRA, …)."""
    plain = (True, False, "gaussian", "orthogonal")
    return getattr(config, "init_lora_weights", True) not in plain


def _keeps_function(config: peft.PeftConfig) -> bool:
    """Whether the method takes its start out of the weight: W = W_rest + s·B·A (PiSSA, OLoRA)."""
    init = getattr(config, "init_lora_weights", True)
    return isinstance(init, str) and init.startswith(("pissa", "olora"))


def _restore(original: nn.Module, wrapped: nn.Module) -> None:
    """Put float64 weights back after an initialisation in float32: W_rest = W − s·B·A exactly."""
    from peft.tuners.lora import LoraLayer

    weights = dict(original.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if (plain := name.replace(".base_layer", "")) in weights:
                parameter.copy_(weights[plain])
        for layer in wrapped.modules():
            if isinstance(layer, LoraLayer):
                layer.get_base_layer().weight -= layer.get_delta_weight("default")


def _with_targets(module: nn.Module, config: peft.PeftConfig) -> peft.PeftConfig:
    """A copy of `config`, which PEFT may change; LN tuning finds its norms by what they are."""
    config = copy.deepcopy(config)
    if config.peft_type == peft.PeftType.LN_TUNING and config.target_modules is None:
        config.target_modules = set(norm_modules(module))
    return config


def _copy(module: nn.Module, *, shared: bool) -> nn.Module:
    """A copy of the modules, around the same values if `shared`.

    Its parameters are objects of their own, so that PEFT may freeze them without freezing ours.
    """
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach() if shared else p.detach().clone(), p.requires_grad)
        for p in module.parameters()
    }
    memo |= {id(b): b for b in module.buffers()}
    return copy.deepcopy(module, memo)


def _explain(model: LogitModel, config: peft.PeftConfig, error: Exception) -> str:
    targets = getattr(config, "target_modules", None)
    suffixes = sorted({n.rsplit(".", 1)[-1] for n in linear_modules(model.module)})
    if "not found" in str(error) or "target" in str(error).lower():
        shown = targets if isinstance(targets, str) else ", ".join(sorted(targets or []))
        return f"no module matches the targets '{shown}': there are {', '.join(suffixes)}"
    return f"PEFT refuses this configuration: {str(error).splitlines()[0]}"
