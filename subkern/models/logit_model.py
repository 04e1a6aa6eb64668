"""A language model as a function f(x; θ) from a batch of examples to class logits [b, c].

A `LogitModel` is a Hugging Face model and a *readout*: label-word logits at one position (prompted
masked or causal LM) or a linear layer on the encoder. Kernels, training and metrics see only the
`LogitModel`, never the architecture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from subkern.cores import make_way
from subkern.errors import UserError
from subkern.models.precision import in_precision_of

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample, Prompt


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right.

    Attributes:
        input_ids: token ids, ``[b, t]``.
        attention_mask: 1 for tokens, 0 for padding, ``[b, t]``.
        read: the position whose output is read, ``[b]``.
    """

    input_ids: Tensor
    attention_mask: Tensor
    read: Tensor

    def __len__(self) -> int:
        return self.input_ids.shape[0]


def collate(
    examples: Sequence[EncodedExample], pad_id: int = 0, device: torch.device | str = "cpu"
) -> Batch:
    """Pad `examples` on the right to their longest.

    Right padding keeps every position's index, so no model needs to be told its positions.
    """
    length = max(len(e.input_ids) for e in examples)
    ids = torch.full((len(examples), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(examples), length), dtype=torch.long)
    for i, example in enumerate(examples):
        n = len(example.input_ids)
        ids[i, :n] = torch.tensor(example.input_ids, dtype=torch.long)
        mask[i, :n] = 1
    read = torch.tensor([e.read for e in examples], dtype=torch.long)
    return Batch(ids.to(device), mask.to(device), read.to(device))


class WordReadout(nn.Module):
    """Logits of the label words at the read position of a language model.

    Only the read position goes through the decoder: it sees ``[b, 1, d]`` instead of
    ``[b, t, d]``, which is exact and saves ``t·V`` logits an example.
    """

    def __init__(self, label_ids: Sequence[int]) -> None:
        super().__init__()
        self.label_ids = tuple(label_ids)

    @property
    def num_logits(self) -> int:
        """Number of label words, c."""
        return len(self.label_ids)

    def describe(self) -> dict[str, Any]:
        """What is read, for provenance."""
        return {"label_ids": list(self.label_ids)}

    def forward(self, module: nn.Module, batch: Batch) -> Tensor:
        """Label-word logits ``[b, c]``."""
        rows = torch.arange(len(batch), device=batch.read.device)
        selected = False

        def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            nonlocal selected
            selected = True
            return (args[0][rows, batch.read][:, None], *args[1:])

        with _pre_hook(_decoder(module), select):
            logits = module(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        at_read = logits[:, 0] if selected else logits[rows, batch.read]
        if not 0 <= min(self.label_ids) <= max(self.label_ids) < (known := at_read.shape[-1]):
            raise UserError(
                f"label words {list(self.label_ids)} are read from {known} logits: use tokens 0 to"
                f" {known - 1}"
            )
        return at_read[:, list(self.label_ids)]


class LinearReadout(nn.Module):
    """A linear layer on the encoder's output at one position, or on the mean over the tokens.

    Args:
        hidden_size: width d of the encoder's output.
        num_logits: number of classes c.
        pooling: ``"read"`` (the position named by the example: [CLS] or last token) or ``"mean"``.
        seed: seed of the weights, drawn N(0, 0.02²) as BERT-type heads are; biases are 0.
    """

    def __init__(
        self, hidden_size: int, num_logits: int, pooling: str = "read", seed: int = 0
    ) -> None:
        super().__init__()
        if pooling not in ("read", "mean"):
            raise UserError(f"unknown pooling '{pooling}': use 'read' or 'mean'")
        self.pooling = pooling
        self.linear = nn.Linear(hidden_size, num_logits)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.linear.weight.normal_(0.0, 0.02, generator=generator)
            self.linear.bias.zero_()

    @property
    def num_logits(self) -> int:
        """Number of classes, c."""
        return self.linear.out_features

    def describe(self) -> dict[str, Any]:
        """What is read, for provenance; the weights have a digest of their own."""
        return {"pooling": self.pooling, "num_logits": self.num_logits}

    def forward(self, module: nn.Module, batch: Batch) -> Tensor:
        """Class logits ``[b, c]``."""
        hidden = module(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask
        ).last_hidden_state
        if self.pooling == "mean":
            weight = batch.attention_mask.to(hidden.dtype)[..., None]
            pooled = (hidden * weight).sum(1) / weight.sum(1)
        else:
            pooled = hidden[torch.arange(len(batch), device=hidden.device), batch.read]
        return self.linear(pooled)


Readout = WordReadout | LinearReadout


class LogitModel(nn.Module):
    """f(x; θ): a Hugging Face model with a readout; ``forward(batch)`` gives logits ``[b, c]``.

    Args:
        module: the Hugging Face model.
        readout: how class logits are read from it.
        binary: give the one logit ``f_1 − f_0`` (``c = 1``); needs a readout of two logits.
        tokenizer: kept for users and reports.
        prompt: the prompt the examples are encoded with.
        description: JSON-able provenance: what model, weights, head and tying this is.

    Raises:
        UserError: `binary` with other than two logits.
    """

    def __init__(
        self,
        module: nn.Module,
        readout: Readout,
        *,
        binary: bool = False,
        tokenizer: Any = None,
        prompt: Prompt | None = None,
        description: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if binary and readout.num_logits != 2:
            raise UserError(
                f"binary logits need two classes, this task has {readout.num_logits}:"
                " use --logits all"
            )
        self.module = module
        self.readout = readout
        self.binary = binary
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.description = dict(description or {})
        if (config := getattr(module, "config", None)) is not None:
            config.use_cache = False  # keys and values are never reused here

    @property
    def num_logits(self) -> int:
        """Number of logits c that `forward` returns (1 if binary)."""
        return 1 if self.binary else self.readout.num_logits

    @property
    def dtype(self) -> torch.dtype:
        """Type of the model's parameters."""
        return next(self.module.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the model's parameters."""
        return next(self.module.parameters()).device

    @property
    def pad_id(self) -> int:
        """Token id that fills padding: its value never reaches a logit, but it must have a row."""
        config, known = getattr(self.module, "config", None), vocabulary(self.module)
        for named in (self.tokenizer, config):
            pad = getattr(named, "pad_token_id", None)
            if pad is not None and pad >= 0 and (known is None or pad < known):
                return int(pad)
        return 0

    def collate(self, examples: Sequence[EncodedExample]) -> Batch:
        """Pad `examples` into a `Batch` on the model's device."""
        return collate(examples, self.pad_id, self.device)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[b, c]`` of `batch`."""
        make_way()
        with in_precision_of(self.module):
            logits = self.readout(self.module, batch)
        return logits[:, 1:2] - logits[:, 0:1] if self.binary else logits

    def with_module(self, module: nn.Module, **description: Any) -> LogitModel:
        """The same function read from another module (an adapter-wrapped copy, say)."""
        return LogitModel(
            module,
            self.readout,
            binary=self.binary,
            tokenizer=self.tokenizer,
            prompt=self.prompt,
            description={**self.description, **description},
        ).eval()


def named_parameters(model: LogitModel) -> dict[str, nn.Parameter]:
    """All parameters of `model` under the names users know them by.

    The Hugging Face names, and ``readout.weight``, ``readout.bias`` for a linear readout. A
    shared parameter appears once, under its first name.
    """
    named = dict(model.module.named_parameters())
    if isinstance(model.readout, LinearReadout):
        named |= {f"readout.{k}": v for k, v in model.readout.linear.named_parameters()}
    return named


def vocabulary(module: nn.Module) -> int | None:
    """Tokens that `module` has rows for in its embedding; None where it names no embedding."""
    getter = getattr(module, "get_input_embeddings", None)
    try:
        weight = getter().weight if getter is not None else None
    except (AttributeError, NotImplementedError):
        return None
    return None if weight is None else int(weight.shape[0])


def parameter_path(name: str) -> str:
    """Path inside the `LogitModel` of the parameter that `named_parameters` calls `name`."""
    if name in ("readout.weight", "readout.bias"):
        return name.replace("readout.", "readout.linear.")
    return "module." + name


def untie(module: nn.Module) -> None:
    """Give the decoder a weight of its own, as the paper's code does (``tie="untied"``)."""
    decoder = _decoder(module)
    embedding = module.get_input_embeddings()  # type: ignore[operator]
    if isinstance(decoder, nn.Linear) and decoder.weight is embedding.weight:
        decoder.weight = nn.Parameter(decoder.weight.detach().clone())
        module.config.tie_word_embeddings = False  # type: ignore[union-attr]


def _decoder(module: nn.Module) -> nn.Module | None:
    getter = getattr(module, "get_output_embeddings", None)
    return getter() if getter is not None else None


@contextlib.contextmanager
def _pre_hook(module: nn.Module | None, hook: Any) -> Iterator[None]:
    if module is None:
        yield
        return
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
