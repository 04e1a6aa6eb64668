"""PEFT adapters on a `LogitModel`, without touching the model they are put on."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_FAMILIES,
)
from torch import nn
from transformers import PreTrainedModel

from subkern.errors import UserError
from subkern.models.anatomy import _linear, linear_modules, norm_modules
from subkern.models.copy import copy_module
from subkern.models.limits import vocabulary
from subkern.models.logit_model import LogitModel
from subkern.models.precision import cast, tensors
from subkern.prompts.prompt import unknown_token
from subkern.subspaces.lora_targets import refused_by_peft
from subkern.subspaces.virtual_tokens import add_virtual_tokens, method_name


def wrap(model: LogitModel, config: peft.PeftConfig, seed: int = 0) -> LogitModel:
    """`model` with the adapter of `config`, on a copy that shares every weight.

    The copy is in evaluation mode (adapter dropout off). The adapter is initialized by PEFT from
    `seed`; only its parameters, and the linear readout if there is one, require gradients. LN
    tuning without targets takes every norm of the model.

    Raises:
        UserError: PEFT refuses the configuration (no module matches the targets, say), the model
            has no place for the virtual tokens of a prompt method, or no row for a token that is
            trained, or that virtual ones start at.
    """
    _check_tokens(model, config)
    module = copy_module(model.module, shared=not rewrites_weights(config))
    ours = tensors(module)
    # PEFT decomposes weights (PiSSA, OLoRA) and gradients (LoRA-GA) in float32 only.
    double = _keeps_function(config) and model.dtype == torch.float64
    config = _with_targets(module, config)
    try:
        with torch.random.fork_rng(), _only_refusals():
            torch.manual_seed(seed)
            if config.is_prompt_learning:
                assert isinstance(module, PreTrainedModel)
                return model.with_module(add_virtual_tokens(module, config))
            wrapped = peft.get_peft_model(module.float() if double else module, config)
    except UserError:
        raise
    except Exception as error:  # PEFT's refusals are of many kinds
        raise UserError(_explain(model, config, error)) from error
    _refuse_turned_olora(wrapped, config)
    cast(wrapped, model.dtype, kept=ours)
    inner = wrapped.base_model.model
    assert isinstance(inner, nn.Module)
    if double:
        _restore(model.module, inner)
    return model.with_module(inner)


def _check_tokens(model: LogitModel, config: peft.PeftConfig) -> None:
    """Refuse tokens of `config` that the model has no row for."""
    known, tokenizer = vocabulary(model.module), model.tokenizer
    listed = getattr(config, "token_indices", None) or []
    listed = getattr(config, "trainable_token_indices", None) or listed
    groups = listed.values() if isinstance(listed, dict) else [listed]
    tokens = [token for group in groups for token in group]
    if getattr(config, "prompt_tuning_init", None) == "TEXT":
        from transformers import AutoTokenizer

        where, how = config.tokenizer_name_or_path, config.tokenizer_kwargs or {}  # type: ignore[attr-defined]
        try:
            tokenizer = AutoTokenizer.from_pretrained(where, **how)
        except Exception as error:  # of many kinds
            raise UserError(
                f"prompt tuning starts at a text, and '{where}' is no tokenizer"
            ) from error
        tokens = tokenizer(config.prompt_tuning_init_text)["input_ids"]  # type: ignore[attr-defined]
    for token in tokens:
        if known is not None and not 0 <= token < known:
            raise unknown_token(token, known, method_name(config), tokenizer)


@contextmanager
def _only_refusals() -> Iterator[None]:
    """Keep PEFT's notes off the screen; a size that it would change on its own is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.filterwarnings("error", "Invalid `(oft_block_size|r)`", UserWarning)
        try:
            yield
        except UserWarning as error:
            wrong = str(error).partition("!")[0]
            raise ValueError(f"{wrong}, it must divide the width of every layer") from error


def targeted_modules(wrapped: nn.Module) -> list[str]:
    """Names of the modules that carry an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [n for n, m in wrapped.named_modules() if isinstance(m, BaseTunerLayer)]


def describe(config: peft.PeftConfig) -> dict[str, Any]:
    """The configuration as JSON-able values, without what PEFT adds for bookkeeping."""
    values = json.loads(json.dumps(config.to_dict(), default=_plain, sort_keys=True))
    for key in ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping"):
        values.pop(key, None)
    return {k: v for k, v in values.items() if v not in (None, {}, [], False)}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set | frozenset) else str(value)


def rewrites_weights(config: peft.PeftConfig) -> bool:
    """Whether the method may change the base weights in place (PiSSA, OLoRA, …)."""
    plain = (True, False, "gaussian", "orthogonal")
    return getattr(config, "init_lora_weights", True) not in plain


def _keeps_function(config: peft.PeftConfig) -> bool:
    """Whether it takes its start out of the weight, W = W_rest + s·B·A: PiSSA, OLoRA, LoRA-GA."""
    init = getattr(config, "init_lora_weights", True)
    return isinstance(init, str) and init.startswith(("pissa", "olora", "lora_ga"))


def _refuse_turned_olora(wrapped: nn.Module, config: peft.PeftConfig) -> None:
    """PEFT decomposes GPT-2's weights as they lie, [d_in, d_out], and adapts their transposes."""
    if getattr(config, "init_lora_weights", True) != "olora":
        return
    for name, layer in wrapped.named_modules():
        if getattr(layer, "fan_in_fan_out", False):
            name = name.removeprefix("base_model.model.")
            raise UserError(f"PEFT's OLoRA does not start at f for Conv1D '{name}': use init=pissa")


def _restore(original: nn.Module, wrapped: nn.Module) -> None:
    """Put float64 weights back after an initialization in float32: W_rest = W − s·B·A exactly."""
    from peft.tuners.lora import LoraLayer

    weights = dict(original.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if (plain := name.replace(".base_layer", "")) in weights:
                parameter.copy_(weights[plain])
        for layer in wrapped.modules():
            if isinstance(layer, LoraLayer):
                delta = layer.get_delta_weight("default")  # type: ignore[operator]
                layer.get_base_layer().weight -= delta


def _with_targets(module: nn.Module, config: peft.PeftConfig) -> peft.PeftConfig:
    """A copy of `config`, which PEFT may change, with targets where PEFT knows none for the model.

    LN tuning finds its norms by what they are; (IA)³ scales what every linear layer gives.
    """
    config = copy.deepcopy(config)
    family = getattr(getattr(module, "config", None), "model_type", None)
    if isinstance(config, peft.IA3Config) and family not in IA3_FAMILIES:
        config.target_modules = config.target_modules or "all-linear"
        config.feedforward_modules = config.feedforward_modules or []
    if isinstance(config, peft.LNTuningConfig) and config.target_modules is None:
        config.target_modules = norm_modules(module)
    if isinstance(config, peft.LoraConfig) and config.target_modules == "all-linear":
        config.exclude_modules = config.exclude_modules or sorted(refused_by_peft(module)) or None
    return config


def _explain(model: LogitModel, config: peft.PeftConfig, error: Exception) -> str:
    message, method = str(error), method_name(config)
    kinds = sorted({type(m).__name__ for m in _linear(model.module).values()})
    # "Target module Conv1D(nf=48) is not supported", "… of type <class 'a.Conv1D'> not supported"
    refused = re.search(r"[Tt]arget module (?:of type .*\.)?(\w+)\W.*not supported", message)
    if refused and refused[1] in kinds:
        return f"PEFT's {method} adapts no {' or '.join(kinds)}, as this model has: use lora or ia3"
    suffixes = sorted({n.rsplit(".", 1)[-1] for n in linear_modules(model.module)})
    there = f"there are {', '.join(suffixes)}"
    family = getattr(getattr(model.module, "config", None), "model_type", "this")
    if refused := re.search(r"Module '(\w+)' is incompatible", message):
        return f"PEFT's {method} adapts no {refused[1]} of {family} models: leave it out; {there}"
    if "specify `target_modules`" in message:
        return f"PEFT knows no targets of {method} for {family} models: name them; {there}"
    if "target" in message.lower():
        targets = getattr(config, "target_modules", None)
        shown = targets if isinstance(targets, str) else ", ".join(sorted(targets or []))
        return f"no module matches the targets '{shown}': {there}"
    return f"PEFT refuses this {method}: {(message.splitlines() or [type(error).__name__])[0]}"
