"""Prompt, prefix and p-tuning: virtual tokens before the text of every example.

PEFT makes the prompt encoder and formats its output; the forward is ours, because PEFT's own
depends on a task type and gives logits for virtual positions too. Here what comes out stands at
the positions of the real tokens only, so a readout reads where it always does.

Right padding keeps its meaning: virtual tokens come first, are always attended to, and take the
first n positions, so the text's position ids begin at n, whatever its length or its batch.
"""

from __future__ import annotations

import copy
from typing import Any

import peft
import torch
from peft import PeftModel, PeftType, PromptLearningConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from subkern.errors import UserError
from subkern.models.precision import cast, tensors


def method_name(config: peft.PeftConfig) -> str:
    """PEFT's name of the method of `config`, like ``PREFIX_TUNING``."""
    return str(getattr(config.peft_type, "value", config.peft_type))


EMBEDDED = (PeftType.PROMPT_TUNING, PeftType.P_TUNING)
SUPPORTED = (*EMBEDDED, PeftType.PREFIX_TUNING)


class VirtualTokens(PeftModel):
    """A transformers model that sees n trained virtual tokens before its input.

    Prompt tuning and p-tuning put n trained embeddings before those of the tokens; prefix tuning
    puts n trained keys and values before those of every layer.

    Args:
        model: the transformers model; its parameters are frozen in place.
        config: of `SUPPORTED` kinds.

    Raises:
        UserError: another method, or a model that cannot take its virtual tokens.
    """

    def __init__(self, model: PreTrainedModel, config: peft.PeftConfig) -> None:
        if config.peft_type not in SUPPORTED:
            kinds = ", ".join(kind.value for kind in SUPPORTED)
            raise UserError(f"{method_name(config)} is not supported: use an adapter or {kinds}")
        config = copy.deepcopy(config)
        assert isinstance(config, PromptLearningConfig)
        config.inference_mode = False
        if config.peft_type in EMBEDDED:
            # Wide as the word embeddings, which are not always as wide as the layers (ALBERT).
            width = next(model.get_input_embeddings().parameters()).shape[1]
            config.token_dim = config.token_dim or width
            config.num_layers = config.num_attention_heads = 1  # PEFT asks, and never uses them
        super().__init__(model, config)
        for parameter in model.parameters():
            parameter.requires_grad_(False)

    @property
    def num_virtual_tokens(self) -> int:
        """Positions n that the virtual tokens take."""
        return int(self.active_peft_config.num_virtual_tokens)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """The model's output at the real tokens, ``[b, t, …]``, of ids and mask ``[b, t]``."""
        seen = attention_mask.new_ones(len(input_ids), self.num_virtual_tokens)
        mask = torch.cat([seen, attention_mask], dim=1)
        if self.peft_type == PeftType.PREFIX_TUNING:
            prefix = self.get_prompt(len(input_ids))
            return self.base_model(input_ids=input_ids, attention_mask=mask, past_key_values=prefix)
        embeddings = self.base_model.get_input_embeddings()(input_ids)  # type: ignore[operator]
        text = torch.cat([self._prompts(len(input_ids)).to(embeddings.dtype), embeddings], dim=1)
        return self._without_prompt(inputs_embeds=text, attention_mask=mask)

    def _prompts(self, batch: int) -> Tensor:
        """Virtual embeddings ``[b, n, d]``.

        One row of ids an example, where PEFT repeats one row: gradients stay per example.
        """
        tokens = self.prompt_tokens[self.active_adapter].to(self.device).expand(batch, -1)
        return self.prompt_encoder[self.active_adapter](tokens)

    def _without_prompt(self, **inputs: Tensor) -> Any:
        """Run the model; drop the virtual positions before the decoder, or of what comes out."""
        n, dropped = self.num_virtual_tokens, False

        def drop(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            nonlocal dropped
            dropped = True
            return (args[0][:, n:], *args[1:])

        decoder = getattr(self.base_model, "get_output_embeddings", lambda: None)()
        # Before the readout's own hook, which picks positions of the text.
        hook = decoder.register_forward_pre_hook(drop, prepend=True) if decoder else None
        try:
            out = self.base_model(**inputs)
        finally:
            if hook is not None:
                hook.remove()
        for key in ("logits", "last_hidden_state"):
            if key in out and not dropped:
                out[key] = out[key][:, n:]
        return out


def add_virtual_tokens(model: PreTrainedModel, config: peft.PeftConfig) -> VirtualTokens:
    """`model`, frozen in place, behind the virtual tokens of `config`; tried on three tokens.

    Raises:
        UserError: the model has no place for them, or takes them and does not use them.
    """
    method, kind = method_name(config), type(model).__name__
    try:
        dtype, ours = next(model.parameters()).dtype, tensors(model)
        wrapped = VirtualTokens(model, config).eval()
        cast(wrapped, dtype, kept=ours)
        moves = _moves_output(wrapped)
    except UserError:
        raise
    except Exception as error:  # whatever a model does with arguments that it does not expect
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{method} does not work with {kind}: {reason[:160]}") from error
    if not moves:
        raise UserError(f"{kind} ignores the virtual tokens of {method}: use prompt tuning")
    return wrapped


def _moves_output(wrapped: VirtualTokens) -> bool:
    """Whether what comes out for three tokens depends on the virtual ones."""
    ids = torch.arange(3, device=wrapped.device)[None]
    with torch.enable_grad():
        out = wrapped(ids, torch.ones_like(ids))[0]
    return bool(out.requires_grad)
