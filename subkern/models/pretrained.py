"""The files of a pretrained model: where they are, and what is wrong with those that do not load.

transformers raises errors of many kinds, few of which name a file, and attaches an adapter that it
finds beside a model in silence. Here everything that does not load is one line with the file.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from subkern.errors import UserError
from subkern.hub import hub_answers
from subkern.models.demo import DEMO_MODELS, demo_path

_ADAPTER = "adapter_config.json"
# PEFT's methods as `--subspace` calls them, with the settings that it has to be told.
_KINDS = {
    "LORA": ("lora", {"r": "r", "alpha": "lora_alpha", "targets": "target_modules"}),
    "IA3": ("ia3", {"targets": "target_modules", "feedforward": "feedforward_modules"}),
    "VERA": ("vera", {"r": "r", "targets": "target_modules"}),
    "LOHA": ("loha", {"r": "r", "alpha": "alpha", "targets": "target_modules"}),
    "LOKR": ("lokr", {"r": "r", "alpha": "alpha", "targets": "target_modules"}),
    "OFT": ("oft", {"block": "oft_block_size", "targets": "target_modules"}),
    "BOFT": ("boft", {"block": "boft_block_size", "targets": "target_modules"}),
    "PROMPT_TUNING": ("prompt", {"n": "num_virtual_tokens"}),
    "PREFIX_TUNING": ("prefix", {"n": "num_virtual_tokens"}),
    "LN_TUNING": ("ln", {}),
}
# Buffers that older versions of transformers saved.
_BUFFERS = re.compile(
    r"(position_ids|token_type_ids|inv_freq|masked_bias|att(entio)?n\.bias|(cos|sin)_cached"
    r"|embed_positions\.(weights|_float_tensor)|num_batches_tracked)$"
)
# How names of PEFT's and of other libraries' adapters tell themselves from a model's.
_ADAPTED = re.compile(
    r"(^|[._])(lora|ia3|vera|hada|lokr|oft|boft|adapters?|base_layer|original_module"
    r"|modules_to_save|prompt_(encoder|embeddings?))([._]|$)"
)


class UnusedWeightsWarning(UserWarning):
    """A checkpoint holds weights that its model has no place for, such as another head's."""


# Files that hold a tokenizer's words.
_WORDS = ("tokenizer.json", "vocab.*", "*.model", "*.spm", "*.tiktoken", "tekken.json")
_WORDLESS = (b"ByT5Tokenizer", b"CanineTokenizer")  # theirs are bytes and characters


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        spec: as the user names it.
        folder: its files: the user's, or those in the hub's cache, if any are.
        revision: of the hub; the commit where the cache knows it; None of a folder of the user's.
        hub: whether what is not in the folder may be on the hub.
    """

    spec: str
    folder: Path | None
    revision: str | None = None
    hub: bool = False

    @classmethod
    def of(cls, spec: str | Path, revision: str | None = None) -> Source:
        """Find the model `spec`.

        Raises:
            UserError: a folder that holds an adapter.
        """
        name = str(spec)
        if is_local(name):
            place = demo_path(name) if name in DEMO_MODELS else Path(name)
            refuse_adapter(name, place)
            return cls(name, place)
        snapshot = cached(name, revision)
        if snapshot is None:
            return cls(name, None, revision, hub=True)
        refuse_adapter(name, snapshot)
        return cls(name, snapshot, snapshot.name, hub=True)

    def load(self, maker: Any, part: str, **options: Any) -> Any:
        """``maker.from_pretrained`` with its errors in one line.

        What the cache has needs no network, and what it lacks no patience where the hub does not
        answer.

        Args:
            maker: of transformers.
            part: what it reads: ``"config"``, ``"tokenizer"`` or ``"weights"``.
            **options: for it.

        Raises:
            UserError: whatever it raises.
        """
        place: Path | str | None = self.folder
        if self.hub and not self._has(part):
            if hub_answers():
                place = self.spec
                options |= {"revision": self.revision}
            elif not (part == "tokenizer" and self._words()):
                raise self._absence(part)
        elif part == "tokenizer" and not (self._words() or self._settled()):
            raise UserError(
                f"'{self.spec}' has no tokenizer: put tokenizer.json and tokenizer_config.json"
                " there"
            )
        try:
            return maker.from_pretrained(place, **options)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # of many kinds, by files of all kinds
            raise self._refusal(maker.__name__, error) from error

    def _has(self, part: str) -> bool:
        """Whether the folder has all of a part, as far as it can be told."""
        if self.folder is None:
            return False
        if part == "weights":
            return any(self.folder.glob("*.safetensors")) and not _absent(self.folder)
        return part == "config" or (self._settled() and self._words())

    def _settled(self) -> bool:
        return self.folder is not None and (self.folder / "tokenizer_config.json").exists()

    def _words(self) -> bool:
        if self.folder is None:
            return False
        if any(any(self.folder.glob(words)) for words in _WORDS):
            return True
        made = self.folder / "tokenizer_config.json"
        return made.exists() and any(kind in made.read_bytes() for kind in _WORDLESS)

    def _absence(self, part: str) -> UserError:
        """The error to raise where the cache lacks a part and the hub does not answer."""
        if self.folder is None:
            return not_found(self.spec, self.revision)
        lacking = {"weights": "no or not all weights", "tokenizer": "no tokenizer"}[part]
        return UserError(
            f"the cache has {lacking} of model '{self.spec}', and the hub does not answer: load it"
            " once with a network"
        )

    def _refusal(self, maker: str, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        folder = self.folder or cached(self.spec, self.revision)
        if folder is None:
            if "gated" in reason.lower() or "401" in reason or "403" in reason:
                return UserError(f"model '{self.spec}' is not open to everybody: log in to the hub")
            return not_found(self.spec, self.revision)
        if wrong := wrong_file(folder):
            return UserError(f"'{self.spec}' does not load: {wrong}")
        if method := _quantization(folder):
            return UserError(
                f"'{self.spec}' is quantized ({method}, in config.json) and does not load"
                f" ({reason}): use the model it was made from"
            )
        what = "model" if self.hub else "directory"
        return UserError(f"{what} '{self.spec}' does not load as {maker}: {reason}")


def is_local(spec: str | Path) -> bool:
    """Whether a model is a folder or comes in a package, and not from the hub."""
    return str(spec) in DEMO_MODELS or Path(spec).is_dir()


def load_weights(
    maker: Any, source: Source, dtype: torch.dtype
) -> tuple[nn.Module, tuple[str, ...]]:
    """A model with its weights, and the names of those that it has not.

    Poolers, which nothing reads, and tables of sines, which no checkpoint needs, are left out.

    Args:
        maker: of transformers, with ``from_pretrained``.
        source: where.
        dtype: of the weights.

    Raises:
        UserError: it does not load, a weight has another shape than its place or no place in the
            model, an adapter was attached, or the weights are quantized.
    """
    module, info = source.load(
        maker,
        "weights",
        dtype=dtype,
        output_loading_info=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # to be named below
    )
    if getattr(module, "_hf_peft_config_loaded", False):
        raise UserError(f"'{source.spec}' {_BESIDE}")
    if wrong := sorted(info["mismatched_keys"]):
        name, stored, place = wrong[0]
        raise UserError(
            f"'{source.spec}' has {name} of shape {_shape(stored)}, and config.json asks for"
            f" {_shape(place)}: mend config.json{_and_others(wrong)}"
        )
    made = {n for n, m in module.named_modules() if "Sinusoidal" in type(m).__name__}  # by formula
    missing = tuple(
        k
        for k in sorted(info["missing_keys"])
        if "pooler" not in k and k.rpartition(".")[0] not in made
    )
    unused = sorted(k for k in info["unexpected_keys"] if not _BUFFERS.search(k))
    _check_unused(source.spec, module, unused, missing)
    if any(not p.is_floating_point() for p in module.parameters()) or any(
        n.rsplit(".", 1)[-1] in ("qweight", "weight_packed") for n, _ in module.named_buffers()
    ):
        raise UserError(
            f"'{source.spec}' has quantized weights, which have no gradients: use the model it was"
            " made from"
        )
    return module, missing


def _check_unused(
    spec: str, module: nn.Module, unused: Sequence[str], missing: Sequence[str]
) -> None:
    """Say which weights of a checkpoint the model has no place for.

    Heads of pretraining are left out in silence, other heads with a warning: a classifier that
    was trained is not used. What belongs inside the model makes it another function.

    Raises:
        UserError: weights of an adapter, of parts that the model has (a layer too many, a bias that
            it does not add), or none of the model's own.
    """
    kind = type(module).__name__
    body = module.base_model if isinstance(module.base_model, nn.Module) else module
    prefix = getattr(module, "base_model_prefix", "") + "."
    if missing and all(n in missing or "pooler" in n for n, _ in module.named_parameters()):
        raise UserError(
            f"'{spec}' has none of the weights of {kind}, such as {few(missing, 1)}"
            f"{', but ' + few(unused, 2) if unused else ''}: rename them, or use another checkpoint"
        )
    if adapter := [k for k in unused if _ADAPTED.search(k)]:
        raise UserError(
            f"'{spec}' has weights of an adapter ({few(adapter, 1)}), which {kind} does not use:"
            " merge the adapter (merge_and_unload of PEFT), or save it in a folder of its own and"
            " add @FOLDER to its --subspace"
        )
    modules = {n for n, _ in module.named_modules()}
    parts = {n for n in modules if "." in n} | {n for n, _ in body.named_modules() if n}
    stems = {_stem(n) for n, _ in module.named_parameters()}
    homeless, left = [], []
    for key in unused:
        name = key.removeprefix(prefix)
        above = {each for k in (key, name) for each in _above(k)}
        inside = above & parts or key.rpartition(".")[0] in modules - {""}
        if inside or _stem(key) in stems or (key != name and not name.startswith("pooler.")):
            homeless.append(key)
        else:
            left.append(name)
    if homeless:
        raise UserError(
            f"{kind} has no place for {few(homeless)} of '{spec}': config.json describes another"
            " model"
        )
    known = _pretraining(module.config) if left else set()
    if others := [n for n in left if n.partition(".")[0] not in known]:
        warnings.warn(
            f"{kind} has no place for {few(others)} of '{spec}': it is left out",
            UnusedWeightsWarning,
            stacklevel=4,
        )


def _stem(name: str) -> str:
    """A name without the number of its layer."""
    return re.sub(r"\d+", "*", name)


def _above(name: str) -> set[str]:
    """Names of all that a weight is in."""
    words = name.split(".")
    return {".".join(words[:i]) for i in range(1, len(words))}


def _pretraining(config: Any) -> set[str]:
    """What models of this kind have beside their body for pretraining, by its names."""
    import transformers

    known = {"pooler", "embed_out"}  # the second is how files of GPT-NeoX have its lm_head
    for name in ("PreTraining", "MaskedLM", "CausalLM", "Seq2SeqLM"):
        try:
            with torch.device("meta"):
                maker = getattr(transformers, f"AutoModelFor{name}")
                made = maker.from_config(deepcopy(config))  # some change theirs
        except Exception:  # there is none of this kind
            continue
        known |= {key.partition(".")[0] for key in made.state_dict()}
    return known


def refuse_adapter(spec: str, folder: Path) -> None:
    """Refuse a folder that holds an adapter.

    Raises:
        UserError: it holds a model too, and which of both is meant cannot be told; or the adapter
            alone: then the line says how to use it.
    """
    if not (folder / _ADAPTER).exists():
        return
    if (folder / "config.json").exists():
        raise UserError(f"'{spec}' {_BESIDE}")
    base, subspace = _adapter(folder)
    raise UserError(
        f"'{spec}' holds an adapter and no model: use --model {base} --subspace {subspace}@{spec}"
    )


_BESIDE = (
    f"holds a model and an adapter ({_ADAPTER}), so that it is unclear which is meant: move the"
    " adapter's files to a folder of their own, and add @FOLDER to its --subspace to use it"
)


def _adapter(folder: Path) -> tuple[str, str]:
    """Base model and subspace, as options take them, of an adapter's folder."""
    try:
        config = json.loads((folder / _ADAPTER).read_bytes())
        kind, settings = _KINDS.get(config.get("peft_type"), ("KIND", {}))
    except (ValueError, AttributeError):
        return "BASE", "KIND"
    given = []
    for key, field in settings.items():
        value = config.get(field)
        if value not in (None, [], ""):
            shown = "+".join(sorted(map(str, value))) if isinstance(value, list) else str(value)
            given.append(f"{key}={shown}")
    given += [f"{key}=true" for key in ("rslora", "dora") if config.get(f"use_{key}")]
    return config.get("base_model_name_or_path") or "BASE", ":".join(
        [kind, ",".join(given)][: 1 + bool(given)]
    )


def wrong_file(folder: Path) -> str | None:
    """The first file of a model's folder that cannot be read, and why; None if all can."""
    for file in sorted(folder.glob("*.json")):
        content = file.read_bytes()
        if _is_pointer(content):
            return f"{file} is a git-lfs pointer, not the file: run git lfs pull"
        try:
            if file.name != "vocab.json" and not isinstance(json.loads(content), dict):
                return f"{file} is no JSON object: get the file again"
        except ValueError as error:
            return f"{file} is no JSON ({error}): get the file again"
    for file in sorted(folder.glob("*.safetensors")):
        if wrong := _wrong_weights(file):
            return wrong
    if absent := _absent(folder):
        return f"{folder / absent[0]} is missing{_and_others(absent)}: get the file again"
    if not any(folder.glob("*.safetensors")):
        pickles = [f for kind in ("*.bin", "*.pt", "*.pth") for f in sorted(folder.glob(kind))]
        if pickles:
            return f"{pickles[0]} is a pickle, which is not read: save it as safetensors"
    return None


def _wrong_weights(file: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    with file.open("rb") as opened:
        if _is_pointer(opened.read(64)):
            return f"{file} is a git-lfs pointer, not the weights: run git lfs pull"
    try:
        with safe_open(file, framework="pt"):
            return None
    except (SafetensorError, OSError) as error:
        return f"{file} does not read as safetensors ({error}): get the file again"


def _is_pointer(content: bytes) -> bool:
    return content.startswith(b"version https://git-lfs")


def _absent(folder: Path) -> list[str]:
    """Files that the index of weights in several files names and that are not there."""
    index = folder / "model.safetensors.index.json"
    try:
        named = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted(name for name in named if not (folder / name).exists())


def _quantization(folder: Path) -> str | None:
    """How the weights are quantized, as config.json says; None if they are not."""
    try:
        found = json.loads((folder / "config.json").read_bytes()).get("quantization_config")
    except (OSError, ValueError, AttributeError):
        return None
    return None if not found else str(found.get("quant_method", "quantized"))


def cached(spec: str, revision: str | None) -> Path | None:
    """The folder of a hub model's files in the cache, of its main branch or `revision`."""
    from huggingface_hub import try_to_load_from_cache

    for name in ("config.json", _ADAPTER):
        try:
            found = try_to_load_from_cache(spec, name, revision=revision)
        except ValueError:  # no name of a model
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def not_found(spec: str | Path, revision: str | None = None) -> UserError:
    """The error to raise where a model is nowhere, or not in a revision."""
    if revision is not None:
        return UserError(
            f"revision '{revision}' of model '{spec}' is not in the cache and not on the hub (or"
            " the hub is offline): use a branch, tag or whole commit, or leave it out"
        )
    return UserError(
        f"model '{spec}' is no directory and not on the hub (or the hub is offline): use a local"
        f" directory or {', '.join(DEMO_MODELS)}"
    )


def few(names: Iterable[str], count: int = 3) -> str:
    """The first names of many, for a message."""
    listed = list(names)
    return ", ".join(listed[:count]) + (" …" if len(listed) > count else "")


def _and_others(found: list[Any]) -> str:
    return f" ({len(found) - 1} more)" if len(found) > 1 else ""


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))
