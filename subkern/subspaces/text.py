"""Subspaces in one line of text, as the command line and configuration files write them.

``KIND``, ``KIND:ARGUMENT`` or ``KIND:key=value,…``, each followed by ``@CHECKPOINT`` for the same
subspace part-way through training, e.g. ``lora:r=8,targets=q_proj+v_proj@runs/mr/checkpoint-50``.
The first ``@`` ends the subspace. `FORMS` lists every kind with an example of its options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from subkern.errors import UserError
from subkern.one_line import (
    Read,
    read_count,
    read_flag,
    read_options,
    read_positive,
    read_seed,
)
from subkern.subspaces.group_names import GROUPS

if TYPE_CHECKING:
    from subkern.subspaces.base import HasCheckpoint, Subspace
    from subkern.subspaces.random import RandomSubspace


def parse_subspace(text: str) -> Subspace:
    """A subspace from its one-line form; `FORMS` shows one of each kind.

    Raises:
        UserError: unknown kind or option, a value of the wrong type, or an empty checkpoint.
    """
    line, at, checkpoint = text.partition("@")
    kind, colon, rest = line.partition(":")
    if kind not in PARSERS:
        raise UserError(f"unknown subspace '{text}': use {', '.join(FORMS.values())}")
    if colon and not rest and kind not in ("last", "params", "random"):  # these say what they need
        raise UserError(f"'{text}' has nothing after its colon: write {FORMS[kind]}, or {kind}")
    subspace = PARSERS[kind](rest)
    if not at:
        return subspace
    if not checkpoint:
        raise UserError(f"'{text}' names no checkpoint: write {line}@path/to/checkpoint")
    return subspace.at(checkpoint)


def parse_targets(text: str) -> str | tuple[str, ...]:
    """Adapter targets: a named set, a regular expression, or names joined by ``+`` or ``,``."""
    from subkern.subspaces.lora_targets import NAMED

    if text in NAMED or not re.fullmatch(r"[\w.]+([+,][\w.]+)*", text):
        return text
    return tuple(re.split(r"[+,]", text))


def _peft_targets(text: str) -> str | list[str]:
    """Targets as PEFT takes them: of the named sets, it knows ``all-linear`` alone."""
    from subkern.subspaces.lora_targets import NAMED

    targets = parse_targets(text)
    if targets in NAMED and targets != "all-linear":
        raise UserError(f"targets={targets} is for plain lora: name layers here, or all-linear")
    return targets if isinstance(targets, str) else list(targets)


# --- parameters of the model itself ---


def _alone(kind: str, make: Callable[[], HasCheckpoint]) -> Callable[[str], HasCheckpoint]:
    """A parser of a kind that takes no argument."""

    def parse(rest: str) -> HasCheckpoint:
        if rest:
            raise UserError(f"unknown subspace '{kind}:{rest}': {kind} takes no argument")
        return make()

    return parse


def _full() -> HasCheckpoint:
    from subkern.subspaces.base import Full

    return Full()


def _bias() -> HasCheckpoint:
    from subkern.subspaces.base import BIASES, ParameterSubset

    return ParameterSubset(BIASES)


def _group(name: str) -> Callable[[], HasCheckpoint]:
    def make() -> HasCheckpoint:
        from subkern.subspaces.parameter_groups import ParameterGroup

        return ParameterGroup(name)

    return make


def _params(rest: str) -> HasCheckpoint:
    from subkern.subspaces.base import ParameterSubset

    if not rest:
        raise UserError("unknown subspace 'params:': give a regular expression, params:REGEX")
    return ParameterSubset(rest)


def _last(rest: str) -> HasCheckpoint:
    from subkern.subspaces.parameter_groups import LastLayers

    if not re.fullmatch(r"-?\d+", rest):
        raise UserError(f"last:'{rest}' is not a number of layers: write last:2")
    return LastLayers(int(rest))


def _random(rest: str) -> RandomSubspace:
    """``dim`` is needed; ``inner=`` takes another subspace's line and comes last."""
    from subkern.projections.spec import KINDS
    from subkern.subspaces.random import RandomSubspace

    head, has_inner, inner = rest.partition("inner=")
    known: dict[str, Read] = {
        "dim": read_count,
        "kind": str,
        "seed": read_seed,
        "allocation": str,
    }
    options = read_options("random", head.removesuffix(","), known | {"inner": parse_subspace})
    if has_inner and "inner" in options:
        raise UserError(f"option inner of random stands twice in '{rest}': give it once")
    if has_inner:
        options["inner"] = parse_subspace(inner)
    if "dim" not in options:
        raise UserError(f"random needs a dimension: random:dim=1000,kind={KINDS[0]}")
    return RandomSubspace(**options)


# --- adapters ---


def _read_init(text: str) -> str:
    """A start of LoRA that the weights alone decide; the others of PEFT see data or a quantizer."""
    if text not in INITS and not re.fullmatch(r"pissa_niter_[1-9]\d{0,2}", text):
        known = f"{', '.join(INITS)} or pissa_niter_16"
        raise UserError(f"init '{text}' of LoRA is unknown here: use {known}, or leave it out")
    return text


INITS = ("gaussian", "orthogonal", "pissa", "olora")
"""Starts of `lora:…,init=`, beside PEFT's usual one and ``pissa_niter_N``."""


def _lora(rest: str) -> HasCheckpoint:
    import peft

    from subkern.subspaces.base import Peft
    from subkern.subspaces.lora import Lora

    options = read_options("LoRA", rest, _LORA_OPTIONS)
    dora, init = options.pop("dora", False), options.pop("init", None)
    lora = Lora(**options)
    if not dora and init is None:
        return lora
    if isinstance(lora.targets, str):
        _peft_targets(lora.targets)
    config: peft.LoraConfig = lora.config  # PEFT's own start, for which `draw_rows` has no place
    config.use_dora = dora
    config.init_lora_weights = True if init is None else init
    return Peft(config, lora.seed, "lora")


@dataclass(frozen=True)
class _Adapter:
    """How one line becomes a PEFT configuration: ``kind:key=value`` → ``Config(field=value)``.

    Attributes:
        kind: first word of the line.
        config: name of the class in `peft`.
        options: key → field of the configuration and how to read it.
        fixed: fields that are always set.
        seeded: fields that take the seed too (VeRA draws its shared A and B from one of its own).
    """

    kind: str
    config: str
    options: Mapping[str, tuple[str, Read]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    seeded: tuple[str, ...] = ()

    def __call__(self, rest: str) -> HasCheckpoint:
        import peft

        from subkern.subspaces.base import Peft

        known: dict[str, Read] = {key: read for key, (_, read) in self.options.items()}
        options = read_options(self.kind, rest, known | {"seed": read_seed})
        seed = options.pop("seed", 0)
        values = dict(self.fixed) | dict.fromkeys(self.seeded, seed)
        values |= {self.options[key][0]: value for key, value in options.items()}
        try:
            config = getattr(peft, self.config)(**values)
        except (ValueError, TypeError) as error:
            raise UserError(f"PEFT refuses '{self.kind}:{rest}': {error}") from error
        return Peft(config, seed, self.kind)


_Options = Mapping[str, tuple[str, Read]]
_TARGETS: _Options = {"targets": ("target_modules", _peft_targets)}
_RANKED: _Options = {"r": ("r", read_count), "alpha": ("alpha", read_positive), **_TARGETS}
_LINEAR = {"target_modules": "all-linear"}
_VIRTUAL: _Options = {"n": ("num_virtual_tokens", read_count)}
_ADAPTERS = (
    _Adapter(
        "ia3",
        "IA3Config",
        {**_TARGETS, "feedforward": ("feedforward_modules", _peft_targets)},
    ),
    _Adapter(
        "vera",
        "VeraConfig",
        {"r": ("r", read_count), "d_initial": ("d_initial", read_positive), **_TARGETS},
        _LINEAR,
        ("projection_prng_key",),
    ),
    _Adapter("loha", "LoHaConfig", _RANKED, _LINEAR),
    _Adapter("lokr", "LoKrConfig", {**_RANKED, "factor": ("decompose_factor", int)}, _LINEAR),
    _Adapter("oft", "OFTConfig", {"block": ("oft_block_size", read_count), **_TARGETS}, _LINEAR),
    _Adapter(
        "boft",
        "BOFTConfig",
        {
            "block": ("boft_block_size", read_count),
            "factors": ("boft_n_butterfly_factor", read_count),
            **_TARGETS,
        },
        _LINEAR,
    ),
    _Adapter("prompt", "PromptTuningConfig", _VIRTUAL, {"num_virtual_tokens": 10}),
    _Adapter(
        "prefix",
        "PrefixTuningConfig",
        {**_VIRTUAL, "projection": ("prefix_projection", read_flag)},
        {"num_virtual_tokens": 10},
    ),
    _Adapter("ln", "LNTuningConfig", _TARGETS),
)
_LORA_OPTIONS: dict[str, Read] = {
    "r": read_count,
    "alpha": read_positive,
    "seed": read_seed,
    "targets": parse_targets,
    "rslora": read_flag,
    "dora": read_flag,
    "init": _read_init,
}
PARSERS: dict[str, Callable[[str], HasCheckpoint | RandomSubspace]] = {
    "full": _alone("full", _full),
    "bias": _alone("bias", _bias),
    **{group: _alone(group, _group(group)) for group in GROUPS},
    "last": _last,
    "params": _params,
    "random": _random,
    "lora": _lora,
    **{adapter.kind: adapter for adapter in _ADAPTERS},
}
"""Kind → what reads the text after its colon. Other modules may add theirs, and its form below."""

FORMS: dict[str, str] = {
    **{kind: kind for kind in ("full", "bias", *GROUPS)},
    "last": "last:N",
    "params": "params:REGEX",
    "random": "random:dim=1000,kind=gaussian,seed=0,allocation=global,inner=full",
    "lora": "lora:r=8,alpha=8,targets=all-linear,seed=0,rslora=false,dora=false,init=pissa",
    "ia3": "ia3:targets=A+B,feedforward=B",
    "vera": "vera:r=256",
    "loha": "loha:r=8",
    "lokr": "lokr:r=8,factor=-1",
    "oft": "oft:block=32",
    "boft": "boft:block=4,factors=1",
    "prompt": "prompt:n=10",
    "prefix": "prefix:n=10",
    "ln": "ln",
}
"""Kind → an example of its one-line form, with the options it takes."""


def as_subspace(subspace: Subspace | str) -> Subspace:
    """A `Subspace`, parsed if it is text."""
    return parse_subspace(subspace) if isinstance(subspace, str) else subspace
