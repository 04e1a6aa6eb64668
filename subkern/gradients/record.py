"""Record the operations that trainable parameters enter, while the model runs.

Watching operations (`torch.overrides.TorchFunctionMode`) and not modules needs no knowledge of the
model: tied weights, functional heads, GPT-2's Conv1D and shared layers all look the same.

A parameter enters an operation with a *use*: the operation's output y, whose cotangent autograd
gives later, and what the parameter was combined with. A parameter seen in an operation that no
rule here covers is listed in `Recorder.uncovered`; `subkern.gradients.capture` computes it by
`torch.func`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from subkern.cores import make_way
from subkern.models.likelihood import token_log_probs


class Kind(Enum):
    """How a parameter's gradient forms from an operation's input x and cotangent g."""

    OUTER = "outer"  # Σ_t g_t x_tᵀ: linear layers
    ROWS = "rows"  # g_t added to row id_t: embeddings
    HEAD = "head"  # Σ_t g_t (e_y − p)_t x_tᵀ: log-probabilities of tokens y_t, by their decoder
    HEAD_SUM = "head_sum"  # Σ_t g_t (e_y − p)_t: by its bias
    PRODUCT = "product"  # Σ g ⊙ x over everything the parameter was broadcast over
    SUM = "sum"  # Σ g likewise: biases


@dataclass
class Call:
    """One recorded operation; its cotangent belongs to every use that shares it."""

    output: Tensor
    version: int
    layout: str  # example axis: "batch" [b, …], "flat" [b·t, d], or "none" (shared by the batch)


@dataclass(frozen=True)
class Decoder:
    """What else decides log-probabilities ``log softmax(W x + b)[y]``.

    Attributes:
        weight: W ``[V, d]``.
        bias: b ``[V]``, if there is one.
        targets: y ``[r, k]``.
        live: which of them are there, ``[r, k]``.
    """

    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    live: Tensor


@dataclass
class Use:
    """One parameter entering one operation."""

    name: str
    kind: Kind
    call: Call
    shape: torch.Size  # of the parameter
    input: Tensor | None = None  # x, or ids
    transposed: bool = False  # weight is [d_in, d_out]
    input_version: int = 0
    decoder: Decoder | None = None


@dataclass
class Alias:
    """A tensor that is a parameter in disguise: cast, transposed, or shifted by a constant."""

    tensor: Tensor  # kept alive so that its id stays its own
    name: str
    transposed: bool = False


@dataclass
class _Entry:
    """What an operation's rule says: the uses to record for its output."""

    name: str
    kind: Kind
    input: Tensor | None = None
    transposed: bool = False
    decoder: Decoder | None = None


Rule = Callable[["Recorder", tuple[Any, ...], dict[str, Any], Tensor], "list[_Entry] | None"]


@dataclass(eq=False, repr=False)
class Recorder(TorchFunctionMode):
    """Record how `parameters` enter the operations run inside.

    Args:
        parameters: name → parameter; each must have ``requires_grad=False``, so that autograd
            stops at the recorded outputs and never forms a weight gradient.
        batch: number of examples b of the batch that runs inside.
        length: its padded length t.
    """

    parameters: Mapping[str, Tensor]
    batch: int
    length: int
    uses: list[Use] = field(default_factory=list)
    uncovered: dict[str, str] = field(default_factory=dict)  # name → why
    expanded: set[str] = field(default_factory=set)  # given an axis of examples they lacked

    def __post_init__(self) -> None:
        super().__init__()
        self._aliases = {id(p): Alias(p, name) for name, p in self.parameters.items()}

    def alias(self, value: Any) -> Alias | None:
        """The parameter behind `value`, if it is one."""
        return self._aliases.get(id(value)) if isinstance(value, Tensor) else None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        found = [a for value in _flatten((args, kwargs)) if (a := self.alias(value)) is not None]
        out = func(*args, **kwargs)
        if not found or not any(isinstance(leaf, Tensor) for leaf in _flatten(out)):
            return out  # .shape, .dtype, .size() of a parameter tell nothing of its values
        if isinstance(out, Tensor) and self._is_disguise(func, args, kwargs, out, found):
            return out
        rule = RULES.get(func)
        entries = rule(self, args, kwargs, out) if rule and isinstance(out, Tensor) else None
        if entries is None or {e.name for e in entries} != {a.name for a in found}:
            for a in found:
                self.uncovered[a.name] = f"enters {getattr(func, '__name__', func)}"
            return out
        return self._record(out, entries)

    def _is_disguise(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        out: Tensor,
        found: list[Alias],
    ) -> bool:
        """Register `out` if it is the parameter itself but for a cast, transpose or shift."""
        first = found[0]
        if id(out) in self._aliases:
            return True
        turned = func in TRANSPOSES and out.dim() == 2
        shifted = func in ADDITIONS and all(
            isinstance(a, int | float) or self.alias(a) for a in args
        )
        if len(found) != 1 or not (func in CASTS or turned or (shifted and not kwargs)):
            return False
        self._aliases[id(out)] = Alias(out, first.name, first.transposed ^ turned)
        return True

    def _record(self, out: Tensor, entries: list[_Entry]) -> Tensor:
        make_way()
        layout = self._layout(out)
        if layout == "broadcast":  # BERT adds [1, t, d] positions: give each example its own
            out, layout = out.expand(self.batch, *out.shape[1:]), "batch"
            self.expanded |= {e.name for e in entries}
        if not out.requires_grad:
            leaf = out.detach().requires_grad_()
            out = leaf.clone()  # a leaf must not be changed in place, its copy may
            call = Call(leaf, leaf._version, layout)
        else:
            call = Call(out, out._version, layout)
        for e in entries:
            shape = self.parameters[e.name].shape
            version = 0 if e.input is None else e.input._version
            use = Use(e.name, e.kind, call, shape, e.input, e.transposed, version, e.decoder)
            self.uses.append(use)
        return out

    def _layout(self, out: Tensor) -> str:
        if self.batch == 1 or out.shape[:1] == (self.batch,):
            return "batch"
        if out.dim() == 2 and out.shape[0] == self.batch * self.length:
            return "flat"
        return "broadcast" if out.dim() > 1 and out.shape[0] == 1 else "none"

    def changed_in_place(self) -> set[str]:
        """Parameters whose recorded output or input was written to later, and so is lost."""
        return {
            u.name
            for u in self.uses
            if u.call.output._version != u.call.version
            or (u.input is not None and u.input._version != u.input_version)
        }


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, tuple | list):
        return []
    return [leaf for v in value for leaf in _flatten(v)]


# --- one rule an operation: which parameters it takes, and how their gradients form ---


def _get(args: tuple[Any, ...], kwargs: dict[str, Any], index: int, name: str) -> Any:
    return args[index] if len(args) > index else kwargs.get(name)


def _linear(rec: Recorder, args: Any, kwargs: Any, out: Tensor) -> list[_Entry] | None:
    x = _get(args, kwargs, 0, "input")
    weight = rec.alias(_get(args, kwargs, 1, "weight"))
    bias = rec.alias(_get(args, kwargs, 2, "bias"))
    if rec.alias(x):
        return None
    entries = []
    if weight:
        entries.append(_Entry(weight.name, Kind.OUTER, x, weight.transposed))
    if bias:
        entries.append(_Entry(bias.name, Kind.SUM))
    return entries


def _addmm(rec: Recorder, args: Any, kwargs: Any, out: Tensor) -> list[_Entry] | None:
    if kwargs.get("alpha", 1) != 1 or kwargs.get("beta", 1) != 1 or len(args) != 3:
        return None
    bias, weight = rec.alias(args[0]), rec.alias(args[2])
    entries = _matmul(rec, args[1:], {}, out)
    if entries is None or (bias and weight and bias.name == weight.name):
        return None
    return entries + ([_Entry(bias.name, Kind.SUM)] if bias else [])


def _matmul(rec: Recorder, args: Any, kwargs: Any, out: Tensor) -> list[_Entry] | None:
    x, weight = args[0], rec.alias(args[1])
    if rec.alias(x) or args[1].dim() != 2:
        return None
    return [_Entry(weight.name, Kind.OUTER, x, not weight.transposed)] if weight else []


def _log_probs(rec: Recorder, args: Any, kwargs: Any, out: Tensor) -> list[_Entry] | None:
    x, weight, bias, targets, live = args
    found = rec.alias(weight), rec.alias(bias)
    if rec.alias(x) or (found[0] and found[0].transposed):
        return None
    decoder, kinds = Decoder(weight, bias, targets, live), (Kind.HEAD, Kind.HEAD_SUM)
    return [
        _Entry(a.name, kind, x, decoder=decoder)
        for a, kind in zip(found, kinds, strict=True)
        if a is not None
    ]


def _embedding(rec: Recorder, args: Any, kwargs: Any, out: Tensor) -> list[_Entry] | None:
    ids, weight = _get(args, kwargs, 0, "input"), rec.alias(_get(args, kwargs, 1, "weight"))
    options = {"scale_grad_by_freq": 4, "max_norm": 3}
    special = any(_get(args, kwargs, i, name) for name, i in options.items())
    if weight is None or weight.transposed or special:
        return None
    padding = _get(args, kwargs, 2, "padding_idx")
    if padding is not None and padding >= 0:  # torch gives the padding row no gradient
        ids = ids.masked_fill(ids == padding, -1)
    return [_Entry(weight.name, Kind.ROWS, ids)]


def _norm(function: Callable[..., Tensor], eps: int) -> Rule:
    def rule(rec: Recorder, args: Any, kwargs: Any, out: Tensor) -> list[_Entry] | None:
        x, shape = args[0], _get(args, kwargs, 1, "normalized_shape")
        weight = rec.alias(_get(args, kwargs, 2, "weight"))
        bias = rec.alias(_get(args, kwargs, 3, "bias")) if eps == 4 else None
        entries = []
        if weight:
            with torch.no_grad():
                value = _get(args, kwargs, eps, "eps")
                options = {} if value is None else {"eps": value}
                entries.append(_Entry(weight.name, Kind.PRODUCT, function(x, shape, **options)))
        return entries + ([_Entry(bias.name, Kind.SUM)] if bias else [])

    return rule


def _mul(rec: Recorder, args: Any, kwargs: Any, out: Tensor) -> list[_Entry] | None:
    left, right = rec.alias(args[0]), rec.alias(args[1])
    weight, x = (left, args[1]) if left else (right, args[0])
    if weight is None or (left and right) or weight.transposed or not isinstance(x, Tensor):
        return None
    return [_Entry(weight.name, Kind.PRODUCT, x)]


def _add(rec: Recorder, args: Any, kwargs: Any, out: Tensor) -> list[_Entry] | None:
    left, right = rec.alias(args[0]), rec.alias(args[1])
    weight = left or right
    if weight is None or (left and right) or weight.transposed or kwargs:
        return None
    return [_Entry(weight.name, Kind.SUM)]


_T = torch.Tensor
ADDITIONS: set[Callable[..., Any]] = {torch.add, _T.add, _T.__add__, _T.__radd__}
CASTS = {_T.to, _T.float, _T.double, _T.type_as, _T.type, _T.contiguous}
TRANSPOSES = {_T.t, torch.t, _T.T.__get__, _T.mT.__get__}  # type: ignore[attr-defined]
RULES: dict[Callable[..., Any], Rule] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    _T.addmm: _addmm,
    F.embedding: _embedding,
    token_log_probs: _log_probs,
    F.layer_norm: _norm(F.layer_norm, 4),
    F.rms_norm: _norm(F.rms_norm, 3),
    **dict.fromkeys((torch.matmul, _T.matmul, _T.__matmul__, torch.mm, _T.mm), _matmul),
    **dict.fromkeys((torch.mul, _T.mul, _T.__mul__, _T.__rmul__), _mul),
    **dict.fromkeys(ADDITIONS, _add),
}
