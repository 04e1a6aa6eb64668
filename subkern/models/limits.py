"""What a model itself takes and gives: positions, width of its output, whether it looks ahead.

Configurations name numbers that are not these: RoBERTa's ``max_position_embeddings`` counts two
rows that no token takes, OPT's output may be narrower than its layers. So the module is asked, by
running it on three tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from subkern.errors import UserError
from subkern.models.precision import in_precision_of

_TRIED = 3  # tokens
_known: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()


def positions(module: nn.Module) -> int | None:
    """Most tokens that `module` takes, virtual ones included; None if nothing says a limit.

    That is what its tables of absolute positions have rows for, in front of which some leave a
    few; a model without such a table (rotary positions) is taken at its configuration's word.
    """
    if module not in _known:
        _known[module] = _positions(module)
    return _known[module]


def _positions(module: nn.Module) -> int | None:
    if (config := getattr(module, "config", None)) is None:
        return None  # no transformer
    virtual = getattr(module, "num_virtual_tokens", 0)
    lookups, more = (_lookups(module, _TRIED + extra) for extra in (0, 1))
    trained = {id(p) for p in getattr(module, "prompt_encoder", nn.Module()).parameters()}
    steps = torch.arange(_TRIED, device=_device(module))
    rooms = []
    for i, (table, rows) in enumerate(lookups):
        if len(more) == len(lookups) and torch.equal(rows, more[i][1]):
            continue  # whatever the text is, such as global tokens of the model's own
        row = rows.reshape(-1)
        # One row a token, each the one behind the last: neither words nor relative positions.
        absolute = row.numel() == rows.shape[-1] and torch.equal(row[:_TRIED], row[:1] + steps)
        if absolute and id(table) not in trained:
            rooms.append(_TRIED + virtual + table.shape[0] - 1 - int(row.max()))
    if rooms:
        return min(rooms)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    most = getattr(text, "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 0 else None


def _lookups(module: nn.Module, tokens: int) -> list[tuple[Tensor, Tensor]]:
    """Tables that `module` looks rows up in for a text of equal tokens, and which rows."""
    ids = _ids(module, tokens).to(_device(module))
    with (
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
        in_precision_of(module),
        _Lookups() as lookups,
    ):
        module(input_ids=ids, attention_mask=torch.ones_like(ids))
    return lookups.seen


def output_width(module: nn.Module) -> int:
    """Numbers d that an encoder gives at a position.

    Raises:
        UserError: it does not run on tokens alone, or gives no hidden states.
    """
    (out,) = _run(module, "last_hidden_state", _ids(module))
    return int(out.shape[-1])


def tokens_told(module: nn.Module) -> int:
    """Tokens V that a language model gives a logit to: the rows of its decoder.

    Those of the embedding may be more, or fewer.

    Raises:
        UserError: it does not run on tokens alone, or gives no logits.
    """
    (out,) = _run(module, "logits", _ids(module))
    return int(out.shape[-1])


def sees_later(module: nn.Module) -> bool | None:
    """Whether what a language model says at a token depends on later ones; None: not to be told.

    Told by changing them: what a class is called or a configuration claims is not asked.

    Raises:
        UserError: it does not run on tokens alone.
    """
    a, b, c = [i for i in range(4) if i != _pad(module)][:3]
    tried = (torch.tensor([[a, x, x, x]]) for x in (b, c))
    said, other = (logits[0, 0] for logits in _run(module, "logits", *tried))
    change, scale = float((said - other).abs().max()), float(said.abs().max())
    if change > 16 * torch.finfo(said.dtype).eps * scale:
        return True
    exact = change == 0 and said.dtype in (torch.float32, torch.float64)
    return False if exact else None  # little may be rounding


def _run(module: nn.Module, output: str, *inputs: Tensor) -> list[Tensor]:
    """The `output` of a model for each of some token ids ``[1, t]``.

    Raises:
        UserError: it does not run on tokens alone, or has no such output.
    """
    device = _device(module)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), in_precision_of(module):
            return [
                getattr(
                    module(input_ids=i.to(device), attention_mask=torch.ones_like(i).to(device)),
                    output,
                )
                for i in inputs
            ]
    except Exception as error:  # whatever a model does that expects more than tokens
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"{type(module).__name__} does not give {output} for text alone ({reason}): use"
            " another model"
        ) from error


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _pad(module: nn.Module) -> int | None:
    return getattr(getattr(module, "config", None), "pad_token_id", None)


def _ids(module: nn.Module, tokens: int = _TRIED) -> Tensor:
    """Equal tokens ``[1, t]``, not the one that counts as padding and has no position."""
    return torch.full((1, tokens), 1 if _pad(module) == 0 else 0)


class _Lookups(TorchFunctionMode):
    """Inside, notes which rows of which tables are looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.embedding:
            rows = args[0] if args else kwargs["input"]
            table = args[1] if len(args) > 1 else kwargs["weight"]
            self.seen.append((table, rows))
        return func(*args, **kwargs)


def vocabulary(module: nn.Module) -> int | None:
    """Tokens that `module` has rows for in its embedding; None where it names no embedding."""
    getter = getattr(module, "get_input_embeddings", None)
    try:
        weight = getter().weight if getter is not None else None
    except (AttributeError, NotImplementedError):
        return None
    return None if weight is None else int(weight.shape[0])
