"""Exact empirical neural tangent kernels of language models and of fine-tuning subspaces.

The public names below are loaded on first use (PEP 562): ``import subkern`` takes milliseconds and
does not import torch, and ``from subkern import compute_kernel`` works as usual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from subkern.public_names import public_names

__version__ = "0.1.0"

_HOME = {
    "Batch": "models",
    "DimensionSweep": "dimension_sweep",
    "EncodedExample": "prompts",
    "Example": "data",
    "Features": "features",
    "Full": "subspaces",
    "Kernel": "kernel",
    "LastLayers": "groups",
    "LogitModel": "models",
    "Lora": "lora",
    "LoraGrid": "lora_grid",
    "LoraSweep": "lora_sweep",
    "ParameterGroup": "groups",
    "ParameterSubset": "subspaces",
    "Peft": "subspaces",
    "Prompt": "prompts",
    "RandomSubspace": "random_subspace",
    "Running": "running",
    "Subspace": "subspaces",
    "TASKS": "tasks",
    "Task": "tasks",
    "UpdateRule": "rules",
    "UserError": "errors",
    "compute_features": "features",
    "compute_kernel": "compute",
    "export_lmk": "lmk",
    "get_task": "tasks",
    "import_lmk": "lmk",
    "load_examples": "data",
    "load_model": "loading",
    "parse_rule": "rules",
    "parse_subspace": "subspace_text",
    "sweep_dimensions": "dimension_sweep",
    "sweep_lora": "lora_sweep",
    "sweep_rules": "rule_sweep",
    "sweep_targets": "lora_sweep",
}

__all__ = [
    "TASKS",
    "Batch",
    "DimensionSweep",
    "EncodedExample",
    "Example",
    "Features",
    "Full",
    "Kernel",
    "LastLayers",
    "LogitModel",
    "Lora",
    "LoraGrid",
    "LoraSweep",
    "ParameterGroup",
    "ParameterSubset",
    "Peft",
    "Prompt",
    "RandomSubspace",
    "Running",
    "Subspace",
    "Task",
    "UpdateRule",
    "UserError",
    "__version__",
    "compute_features",
    "compute_kernel",
    "export_lmk",
    "get_task",
    "import_lmk",
    "load_examples",
    "load_model",
    "parse_rule",
    "parse_subspace",
    "sweep_dimensions",
    "sweep_lora",
    "sweep_rules",
    "sweep_targets",
]

if TYPE_CHECKING:
    from subkern.compute import compute_kernel
    from subkern.data import Example, load_examples
    from subkern.dimension_sweep import DimensionSweep, sweep_dimensions
    from subkern.errors import UserError
    from subkern.features import Features, compute_features
    from subkern.groups import LastLayers, ParameterGroup
    from subkern.kernel import Kernel
    from subkern.lmk import export_lmk, import_lmk
    from subkern.loading import load_model
    from subkern.lora import Lora
    from subkern.lora_grid import LoraGrid
    from subkern.lora_sweep import LoraSweep, sweep_lora, sweep_targets
    from subkern.models import Batch, LogitModel
    from subkern.prompts import EncodedExample, Prompt
    from subkern.random_subspace import RandomSubspace
    from subkern.rule_sweep import sweep_rules
    from subkern.rules import UpdateRule, parse_rule
    from subkern.running import Running
    from subkern.subspace_text import parse_subspace
    from subkern.subspaces import Full, ParameterSubset, Peft, Subspace
    from subkern.tasks import TASKS, Task, get_task

__getattr__, __dir__ = public_names(__name__, _HOME)
