"""What a checkpoint holds: tensors by name, from PEFT's or transformers' folders, files or memory.

Only safetensors are read: a pickle could run somebody else's code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from subkern.errors import UserError
from subkern.models.pretrained import Source, load_weights
from subkern.storage.provenance import differences, summary

if TYPE_CHECKING:
    from subkern.models.logit_model import LogitModel

Checkpoint = str | Path | Mapping[str, Tensor]

ADAPTER, CONFIG = "adapter_model.safetensors", "adapter_config.json"

# Settings of PEFT that say where an adapter came from, where it starts or how it is trained, not
# what it computes; targets and widths show in the names and shapes of the tensors.
_IMMATERIAL = {
    "task_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout", "rank_dropout", "module_dropout", "vera_dropout",
    "boft_dropout", "rank_dropout_scale", "init_weights", "init_ia3_weights", "d_initial",
    "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "token_dim",
    "num_layers", "num_attention_heads", "num_transformer_submodules", "encoder_hidden_size",
    "save_projection", "runtime_config", "ensure_weight_tying",
}  # fmt: skip


def check_exists(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that is not there or of no kind that can be read.

    Raises:
        UserError: no such path, no safetensors in it, or another kind of file.
    """
    if not isinstance(checkpoint, Mapping):
        _files(Path(checkpoint))


def read(checkpoint: Checkpoint, model: LogitModel) -> dict[str, Tensor]:
    """Tensors of `checkpoint` by name, on the CPU, for a model that a subspace is attached to.

    Raises:
        UserError: the file is damaged, the folder holds another kind of model, or an adapter
            whose configuration differs from that of `model`.
    """
    if isinstance(checkpoint, Mapping):
        return dict(checkpoint)
    path = Path(checkpoint)
    config = _adapter_config(model)
    if path.is_dir() and (path / CONFIG).exists():
        if config is None:
            raise UserError(f"'{path}' holds an adapter: give the subspace it was trained in")
        _check_config(path, config)
    elif path.is_dir():
        if config is not None:
            raise UserError(f"'{path}' holds no {CONFIG}, and the subspace is an adapter")
        return _read_model(path, model)
    return dict(_stored(path))


def is_folder(checkpoint: Checkpoint) -> bool:
    """Whether `checkpoint` is a folder; folders hold the language model but no linear readout."""
    return not isinstance(checkpoint, Mapping) and Path(checkpoint).is_dir()


def digest(checkpoint: Checkpoint) -> tuple[str, int]:
    """Hash of the names, types, shapes and bytes of all tensors, and how many there are."""
    total, count = hashlib.sha256(), 0
    for name, tensor in _tensors(checkpoint):
        value = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        total.update(value.view(torch.uint8).numpy().tobytes())
        count += 1
    return total.hexdigest()[:16], count


def _tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    if isinstance(checkpoint, Mapping):
        return iter(sorted(checkpoint.items()))
    return _stored(Path(checkpoint))


def _files(path: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted."""
    if not path.exists():
        raise UserError(f"there is no checkpoint '{path}'")
    if path.is_file():
        if path.suffix != ".safetensors":
            raise UserError(f"'{path}' is not safetensors: save tensors with safetensors.torch")
        return [path]
    adapter = (path / CONFIG).exists()
    files = [path / ADAPTER] if adapter else sorted(path.glob("model*.safetensors"))
    files = [f for f in files if f.exists()]
    if not files:
        wanted = ADAPTER if adapter else "model.safetensors or adapter_config.json"
        raise UserError(f"'{path}' holds no {wanted}: save it with save_pretrained (no pickles)")
    return files


def _stored(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of all files of a checkpoint, in the order of files and names."""
    for file in _files(path):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in sorted(tensors.keys()):
                    yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise UserError(f"'{file}' does not read as safetensors: {error}") from error


def _read_model(path: Path, model: LogitModel) -> dict[str, Tensor]:
    """Parameters of a folder of transformers, which knows older names and other layouts."""
    from transformers import AutoConfig, AutoModel

    kind, source = type(model.module), Source(str(path), path)
    config = source.load(AutoConfig, "config")
    if getattr(config, "is_encoder_decoder", False) and config.architectures != [kind.__name__]:
        pair, missing = load_weights(AutoModel, source, model.dtype)
        module = pair.get_encoder()  # type: ignore[operator]
        missing = tuple(name for name in missing if "decoder" not in name)
    else:
        module, missing = load_weights(kind, source, model.dtype)
    if missing:
        raise UserError(f"'{path}' lacks {few(missing)} of {kind.__name__}: is it that model's?")
    return {n: p.detach() for n, p in module.named_parameters(remove_duplicate=False)}


def _adapter_config(model: LogitModel) -> Any:
    """The configuration that PEFT resolved for the adapter of `model`; None without one."""
    configs = getattr(model.module, "peft_config", None)
    return configs["default"] if configs else None


def _check_config(path: Path, ours: Any) -> None:
    import peft

    from subkern.subspaces.virtual_tokens import method_name

    try:
        theirs = peft.PeftConfig.from_pretrained(str(path))
    except (ValueError, TypeError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"'{path / CONFIG}' is no configuration of PEFT's: {reason}") from error
    if method_name(ours) != method_name(theirs):
        raise UserError(
            f"'{path}' holds {method_name(theirs)}, and the subspace is {method_name(ours)}"
        )
    lines = differences(_settings(ours), _settings(theirs))
    if lines:
        raise UserError(f"'{path}' was trained in another subspace: {summary(lines)}")


def _settings(config: Any) -> dict[str, Any]:
    from subkern.subspaces.peft_adapters import describe, rewrites_weights

    kept = {k: v for k, v in describe(config).items() if k not in _IMMATERIAL}
    if not rewrites_weights(config):
        kept.pop("init_lora_weights", None)
    numbers = {k for k, v in kept.items() if type(v) is int}
    return {k: float(v) if k in numbers else v for k, v in kept.items()}  # α = 8 is α = 8.0


def few(names: Any, count: int = 3) -> str:
    """The first names of many, for a message."""
    listed = list(names)
    return ", ".join(f"'{n}'" for n in listed[:count]) + (" …" if len(listed) > count else "")
