"""A language model as a function f(x; θ) from a batch of examples to class logits [b, c].

A `LogitModel` is a Hugging Face model and a *readout*: label-word logits at one position (prompted
masked or causal LM), log-likelihoods of marked tokens, or a linear layer on the encoder. Kernels,
training and metrics see only the `LogitModel`, never the architecture.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from subkern.cores import make_way
from subkern.errors import UserError
from subkern.models.likelihood import token_log_probs, widened
from subkern.models.limits import positions, vocabulary
from subkern.models.precision import in_precision_of
from subkern.prompts.marked import MISSING, Marked
from subkern.prompts.prompt import EncodedExample, Prompt, unknown_token

if TYPE_CHECKING:
    from subkern.tasks.examples import Example


@dataclass(frozen=True)
class Marks:
    """Which tokens of r sequences are marked, and where their log-likelihoods go.

    Attributes:
        reads: positions that tell each marked token's probability, ``[r, k]``.
        targets: the tokens, ``[r, k]``.
        live: which of the k are there, ``[r, k]``.
        weights: of each sequence, ``[r]``.
        places: the logit it adds to, among the ``b·c``, ``[r]``.
        offsets: what the logits begin with, ``[b, c]``, float64.
    """

    reads: Tensor
    targets: Tensor
    live: Tensor
    weights: Tensor
    places: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right.

    Attributes:
        input_ids: token ids, ``[b, t]``; of marked sequences ``[r, t]``.
        attention_mask: 1 for tokens, 0 for padding, of the same shape.
        read: the position whose output is read, ``[b]``.
        marks: of marked sequences, those of an example next to each other.
    """

    input_ids: Tensor
    attention_mask: Tensor
    read: Tensor
    marks: Marks | None = None

    def __len__(self) -> int:
        return self.input_ids.shape[0]


def collate(
    examples: Sequence[EncodedExample],
    pad_id: int = 0,
    device: torch.device | str = "cpu",
    num_logits: int = 1,
) -> Batch:
    """Pad `examples` on the right to their longest.

    Right padding keeps every position's index, so no model needs to be told its positions. Marked
    sequences are rows of their own; an example has `num_logits` logits, or lacks some.
    """
    marked = [(i, m) for i, e in enumerate(examples) for m in e.marked]
    rows = [m.input_ids for _, m in marked] or [e.input_ids for e in examples]
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    read = torch.tensor([e.read for e in examples], dtype=torch.long)
    marks = _marks(examples, marked, num_logits, device) if marked else None
    return Batch(ids.to(device), mask.to(device), read.to(device), marks)


def _marks(
    examples: Sequence[EncodedExample],
    marked: Sequence[tuple[int, Marked]],
    num_logits: int,
    device: torch.device | str,
) -> Marks:
    most = max(len(m.reads) for _, m in marked)
    reads = torch.zeros(len(marked), most, dtype=torch.long)
    targets, live = torch.zeros_like(reads), torch.zeros_like(reads, dtype=torch.bool)
    for row, (_, m) in enumerate(marked):
        reads[row, : len(m.reads)] = torch.tensor(m.reads, dtype=torch.long)
        targets[row, : len(m.reads)] = torch.tensor(m.targets, dtype=torch.long)
        live[row, : len(m.reads)] = True
    weights = torch.tensor([m.weight for _, m in marked], dtype=torch.float64)
    places = torch.tensor([i * num_logits + m.logit for i, m in marked], dtype=torch.long)
    offsets = torch.full((len(examples), num_logits), MISSING, dtype=torch.float64)
    for i, e in enumerate(examples):
        offsets[i, : len(e.offsets)] = torch.tensor(e.offsets, dtype=torch.float64)
    return Marks(*(x.to(device) for x in (reads, targets, live, weights, places, offsets)))


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


class SequenceReadout(nn.Module):
    """Log-likelihoods of the marked tokens of sequences, added up to logits.

    ``f_k(x) = offset_k + Σ_r w_r Σ_t log p(y_rt | …)`` over the sequences r of logit k. Only the
    positions that tell a marked token go through the decoder, a few at a time where it is a linear
    layer and nothing follows it (`token_log_probs`).

    Args:
        num_logits: c: 1, or the most options that an example has.
        kind: of the task, of which `LogitModel` sees completions and preferences.
    """

    def __init__(self, num_logits: int = 1, kind: str = "labels") -> None:
        super().__init__()
        self._options, self.kind = num_logits, kind
        self._bare: bool | None = None  # whether logits are the decoder's output as it is

    @property
    def num_logits(self) -> int:
        """Number of logits, c."""
        return self._options

    def describe(self) -> dict[str, Any]:
        """What is read, for provenance."""
        return {"log_likelihoods": self._options}

    def forward(self, module: nn.Module, batch: Batch) -> Tensor:
        """Logits ``[b, c]``."""
        marks = batch.marks
        if marks is None:
            raise UserError("the examples have no marked tokens: encode them with the model's task")
        told = self._told(module, batch, marks)
        weights, offsets = marks.weights.to(told), marks.offsets.to(told)
        out = offsets.flatten().index_add(0, marks.places, told.sum(1) * weights)
        return out.view(offsets.shape)

    def _told(self, module: nn.Module, batch: Batch, marks: Marks) -> Tensor:
        """Log-probability of every marked token, ``[r, k]``."""
        rows = torch.arange(len(batch), device=marks.reads.device)[:, None]
        decoder = _decoder(module)
        if type(decoder) is nn.Linear and self._bare is not False:
            kept: list[Tensor] = []

            def keep(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                kept[:] = [args[0][rows, marks.reads]]
                return (args[0][:, :1], *args[1:])  # of which nothing is read

            seen: list[Tensor] = []
            watch = decoder.register_forward_hook(lambda *given: seen.append(given[-1]))
            try:
                with _pre_hook(decoder, keep):
                    out = module(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            finally:
                watch.remove()
            if self._bare is None:
                self._bare = len(seen) == 1 and _same(seen[0], out.logits)
            if self._bare:
                weight, bias = decoder.weight, decoder.bias
                return token_log_probs(kept[0], weight, bias, marks.targets, marks.live)
        selected = False

        def select(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            nonlocal selected
            selected = True
            return (args[0][rows, marks.reads], *args[1:])

        with _pre_hook(decoder, select):
            logits = module(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        scores = widened(logits if selected else logits[rows, marks.reads])
        found = torch.log_softmax(scores, -1).gather(-1, marks.targets[..., None])[..., 0]
        return found.masked_fill(~marks.live, 0.0)


def _same(output: Tensor, logits: Tensor) -> bool:
    """Whether a decoder's output is the model's logits: no scale and no cap comes after it."""
    with torch.no_grad():
        return output.shape == logits.shape and bool(
            (output.detach().to(logits.dtype) == logits.detach()).all()
        )


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


Readout = WordReadout | SequenceReadout | LinearReadout


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
        return collate(examples, self.pad_id, self.device, self.readout.num_logits)

    @property
    def classifies(self) -> bool:
        """Whether an example's label is one of several, to be told from the others."""
        told = self.readout.kind if isinstance(self.readout, SequenceReadout) else ""
        return told not in ("completion", "preference") and not self.regresses

    @property
    def regresses(self) -> bool:
        """Whether an example's label is a real number, which f is to be."""
        task = getattr(self.prompt, "task", None)  # a prompt of a user's own may have none
        return task is not None and task.kind == "regression"

    def check_tokens(self, examples: Sequence[EncodedExample]) -> None:
        """Refuse an example with more tokens than the model has positions, or with one it lacks.

        Raises:
            UserError: the longest is too long, counting virtual tokens; or a token has no
                embedding.
        """
        most, virtual = positions(self.module), getattr(self.module, "num_virtual_tokens", 0)
        longest = max(examples, key=lambda e: e.longest)
        if most is not None and longest.longest + virtual > most:
            raise UserError(
                f"example '{longest.id}' has {longest.longest} tokens"
                f"{f' after {virtual} virtual ones' if virtual else ''} and the model takes {most}:"
                " lower the task's max_length"
            )
        if (known := vocabulary(self.module)) is None:
            return
        for e in examples:
            for token in (min(e.input_ids), max(e.input_ids)):
                if not 0 <= token < known:
                    raise unknown_token(token, known, f"example '{e.id}'", self.tokenizer)

    def encode_all(self, examples: Sequence[Example]) -> list[EncodedExample]:
        """`examples` by the model's prompt; preferences against what the model says as it stands.

        Raises:
            UserError: as `Prompt.encode_all`, or the model has no prompt.
        """
        if self.prompt is None:
            raise UserError("the model has no prompt: load it with load_model")
        encoded = self.prompt.encode_all(examples)
        if not (isinstance(self.readout, SequenceReadout) and self.readout.kind == "preference"):
            return encoded
        self.check_tokens(encoded)
        return [
            replace(e, offsets=(-f,)) for e, f in zip(encoded, self._said(encoded), strict=True)
        ]

    def _said(self, examples: Sequence[EncodedExample]) -> list[float]:
        """The one logit of every example, each alone."""
        with torch.no_grad():
            return [float(self(self.collate([example]))) for example in examples]

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
