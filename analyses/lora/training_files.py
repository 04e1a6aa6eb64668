"""The configuration that is advised as files that training takes: PEFT's own, and a script."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

import subkern
from subkern.tasks.own_file import is_own
from subkern.tasks.task_file import TASK_SUFFIXES

from ..engine.run_folder import ADAPTER, SCRIPT, Results
from ..engine.settings import OWN
from ..show.study_numbers import model_name
from ..verify.rates import Rates
from ..verify.trial import Trial
from .config import Config
from .findings import Findings

PEFT_TARGETS = "peft_targets"
"""In a run's inputs: name of a target set -> as PEFT's ``target_modules`` takes it, or None."""


def training_files(results: Results, found: Findings) -> dict[str, str]:
    """Return the files by their names in the run directory.

    None where the advised targets train weights that no PEFT configuration names (``all``), and of
    runs that did not record what their targets are.
    """
    targets = results.inputs.get(PEFT_TARGETS, {}).get(found.best.targets)
    if targets is None:
        return {}
    return {ADAPTER: _adapter(found, targets), SCRIPT: _script(results, found)}


def _adapter(found: Findings, targets: str | list[str]) -> str:
    """Return what PEFT writes, with the modules in order: it keeps them as a set."""
    import peft

    config = peft.LoraConfig(
        base_model_name_or_path=_absolute(found.config.model),
        r=found.best.rank,
        lora_alpha=found.config.alpha,  # type: ignore[arg-type]  # PEFT scales by any number
        target_modules=targets,
        use_rslora=found.config.rslora,
    )
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        (path,) = Path(folder).iterdir()
        fields = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(fields["target_modules"], list):
        fields["target_modules"].sort()
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def _script(results: Results, found: Findings) -> str:
    config, trial, rates = found.config, Trial(), Rates.of(results)
    rate = rates.named(found.best.name) if rates is not None else None
    template = Path(__file__).with_name("train.py.j2").read_text(encoding="utf-8")
    made = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    made.filters["python"] = repr
    return made.from_string(template).render(
        f=found,
        model=model_name(results),
        version=subkern.__version__,
        loading=_loading(config),
        shots=config.shots,
        data_seed=config.data_seeds[0],
        task=_absolute(config.task) if _is_file(config.task) else config.task,
        data=config.data if config.data in ("hub", "demo") else _absolute(config.data),
        source=_absolute(config.model),
        own=_own(config),
        named=bool(config.task),
        changes=_changes(config) if config.task else {},
        probed=config.head_init == "probe",
        limits={"train": config.train_limit, "test": config.test_limit},
        rate=None if rate is None or rate.note else rate.suggested,
        steps=trial.steps,
        batch_size=trial.batch_sizes[0],
    )


def _loading(config: Config) -> dict[str, Any]:
    """Return the arguments of `load_model` that are not its own defaults."""
    given = {
        name: getattr(config, name)
        for name in ("head", "tie", "dtype", "revision", "pooling", "seed")
    }
    usual = {
        "head": "prompt", "tie": "model", "dtype": "float32", "revision": None, "pooling": "read",
        "seed": 0,
    }  # fmt: skip
    return {name: value for name, value in given.items() if value != usual[name]}


def _own(config: Config) -> dict[str, Any] | None:
    """Return what is said of a data file, as `file_task` takes it; None where there is none."""
    if config.task and not is_own(config.data):
        return None
    names = (*OWN, "template") if not config.task else OWN
    said = {name: getattr(config, name) for name in names}
    files = {name: _absolute(said[name]) for name in ("test", "dev") if said[name] is not None}
    return {name: value for name, value in (said | files).items() if value is not None}


def _is_file(task: str) -> bool:
    """Whether a task is named by its file; a folder may be called as a task is."""
    return Path(task).suffix.lower() in TASK_SUFFIXES


def _absolute(name: str) -> str:
    """Return a file's or folder's whole path: the script may be run from anywhere."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _changes(config: Config) -> Mapping[str, Any]:
    """Return which fields of the task are others than its own."""
    changes: dict[str, Any] = {}
    if config.template is not None:
        masked = "*mask*" in config.template
        changes["template"] = config.template if masked else ""
        changes["causal_template"] = "" if masked else config.template
    if config.label_words is not None:
        changes |= dict.fromkeys(("label_words", "causal_label_words"), config.label_words)
    return changes
