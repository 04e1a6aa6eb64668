"""Models whose width can be set: an MLP, three kinds of transformer, any config like them."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from subkern.errors import UserError
from subkern.models.logit_model import LinearReadout, LogitModel, named_parameters
from subkern.width.perceptron import Perceptron

__all__ = ["TRANSFORMERS", "Family", "Perceptrons", "Transformers", "transformers_of"]


class Family(Protocol):
    """Models of one shape at every width."""

    @property
    def base(self) -> int:
        """The width n₀ at which all parametrizations are the same; n counts as n/n₀."""
        ...

    def build(self, width: int) -> LogitModel:
        """The model at a width, with weights that are to be drawn.

        Raises:
            UserError: there is none of that width.
        """
        ...

    def spreads(self) -> dict[str, float]:
        """Standard deviation of each parameter at the base width; 0 for what is constant."""
        ...


@dataclass(frozen=True)
class Perceptrons:
    """MLPs on fixed features of tokens: hidden layers and output layer with biases.

    Weights start as N(0, gain²/k) for k inputs at the base width, the output layer's as N(0, 1/k),
    biases at 0.

    Args:
        features: of every token ``[V, k]``; they give the dtype.
        classes: logits.
        depth: hidden layers.
        activation: ``tanh``, ``relu`` or ``erf``.
        gain: of the hidden layers; √2 keeps ReLU's signal.
        base: n₀; 1 for the textbook's n.
    """

    features: Tensor
    classes: int = 1
    depth: int = 2
    activation: str = "tanh"
    gain: float = 1.0
    base: int = 1

    def build(self, width: int) -> LogitModel:
        """The perceptron of `width` units a layer."""
        if width < 1:
            raise UserError(f"width {width} is not positive: use 1 or more")
        with _own_randomness():
            body = Perceptron(self.features, width, self.depth, self.activation)
            model = LogitModel(body, LinearReadout(width, self.classes))
        return model.to(self.features.dtype).eval()

    def spreads(self) -> dict[str, float]:
        """gain/√k, 1/√k, and 0 for biases."""
        return {
            name: (1.0 if name.startswith("readout") else self.gain) / math.sqrt(p.shape[1])
            if p.ndim == 2
            else 0.0
            for name, p in named_parameters(self.build(self.base)).items()
        }


_SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}
_INNER = {"intermediate_size": 256}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "bert": {**_SMALL, **_INNER, "type_vocab_size": 1},
    "gpt2": {"n_layer": 2, "n_head": 4, "n_embd": 64, "bos_token_id": 0, "eos_token_id": 0},
    "llama": {**_SMALL, **_INNER},
}
"""Small configs by name: two layers, heads of 16, base width 64, weights N(0, 1/64) there."""

# What grows beside hidden_size and num_attention_heads, under the names that configs have for it
_GROWING = (
    "num_key_value_heads", "intermediate_size", "n_inner", "ffn_dim", "hidden_dim",
    "embedding_size", "word_embed_proj_dim",
)  # fmt: skip


@dataclass(frozen=True)
class Transformers:
    """Transformers of one config at other widths: heads grow in number, their size stays.

    Weights start as the config's own model does at its width, which is the base; a linear layer on
    the last hidden state gives the logits and starts as N(0, 1/n₀).

    Args:
        config: of a Hugging Face model, with its ``model_type``.
        classes: logits.
        pooling: what is read, as for `LinearReadout`.
        dtype: of the weights.
    """

    config: Mapping[str, Any]
    classes: int = 2
    pooling: str = "read"
    dtype: torch.dtype = torch.float32

    @property
    def base(self) -> int:
        """The config's own width."""
        return int(self._config(self.config).hidden_size)

    @property
    def head_size(self) -> int:
        """Numbers d a head; constant in width."""
        own = self._config(self.config)
        return int(getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads)

    @property
    def vocabulary(self) -> int:
        """Tokens V that the models have rows for."""
        return int(self._config(self.config).vocab_size)

    def build(self, width: int) -> LogitModel:
        """The transformer of `width` numbers a token."""
        import transformers

        config = self.at(width)
        with _own_randomness():
            try:
                module = transformers.AutoModel.from_config(config, dtype=self.dtype)
            except (ValueError, TypeError, RuntimeError, LookupError, AssertionError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"a {config.model_type} of width {width} cannot be built: {reason}"
                ) from error
            readout = LinearReadout(width, self.classes, self.pooling).to(self.dtype)
        if getattr(module, "pooler", None) is not None:
            module.pooler = None  # nothing here reads it
        return LogitModel(module, readout).eval()

    def spreads(self) -> dict[str, float]:
        """What the config's own model has; 1/√n₀ for the readout."""
        named = named_parameters(self.build(self.base))
        found = {n: _spread(p.detach()) for n, p in named.items()}
        return {**found, "readout.weight": self.base**-0.5}

    def at(self, width: int) -> Any:
        """The config at `width`.

        Raises:
            UserError: the head size does not divide the width, or something does not scale to it.
        """
        config, base, size = self._config(self.config), self.base, self.head_size
        if width < 1 or width % size:
            near = max(1, round(width / size)) * size
            raise UserError(f"width {width} is no multiple of the head size {size}: use {near}")
        heads = config.num_attention_heads
        grown = {n: getattr(config, n, None) for n in _GROWING} | {"num_attention_heads": heads}
        for name, value in grown.items():
            if not isinstance(value, int):
                continue
            if value * width % base:
                raise UserError(
                    f"width {width} makes {name} {value * width / base:g}: use a width that is a"
                    f" multiple of {base // math.gcd(base, value)}"
                )
            setattr(config, name, value * width // base)
        config.hidden_size = width
        return config

    @staticmethod
    def _config(given: Mapping[str, Any]) -> Any:
        import transformers

        values = dict(given)
        return transformers.AutoConfig.for_model(values.pop("model_type"), **values)


def transformers_of(
    family: str, classes: int, positions: int | None = None, **more: Any
) -> Transformers:
    """The family of a name in `TRANSFORMERS`, or of a ``config.json`` (or its folder).

    Args:
        family: the name or path.
        classes: logits.
        positions: tokens that one of a name can read; None for what its kind has.
        more: settings instead of the config's own, such as ``vocab_size``.

    Raises:
        UserError: no such name or file, or what it describes cannot be widened.
    """
    if family in TRANSFORMERS:
        own = {} if positions is None else {"max_position_embeddings": positions}
        named = {"model_type": family, "initializer_range": 0.125, **TRANSFORMERS[family]}
        base = {**named, **own, **more}
        return Transformers(base, classes, "mean" if family == "bert" else "read")
    path = Path(family)
    path = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"family '{family}' is unknown: use mlp, {', '.join(TRANSFORMERS)} or the path of a"
            " config.json"
        ) from error
    except ValueError as error:
        raise UserError(f"cannot read '{path}': {error}") from error
    return Transformers({**_checked(values, path), **more}, classes)


def _checked(values: Any, path: Path) -> Mapping[str, Any]:
    """A config with what widening needs."""
    if not isinstance(values, dict) or "model_type" not in values:
        raise UserError(f"'{path}' names no model_type: use the config.json of a transformer")
    try:
        config = Transformers._config(values)
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"'{path}' is no config that transformers knows: {reason}") from error
    if getattr(config, "is_encoder_decoder", False) or not all(
        isinstance(getattr(config, name, None), int)
        for name in ("hidden_size", "num_attention_heads")
    ):
        raise UserError(
            f"'{path}' ({config.model_type}) cannot be widened: it has no one hidden_size and"
            " num_attention_heads"
        )
    return values


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """What is drawn within is always the same, and leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _spread(value: Tensor) -> float:
    """Root mean square; 0 for a constant."""
    return (
        0.0
        if bool((value == value.flatten()[0]).all())
        else float(value.double().square().mean().sqrt())
    )
