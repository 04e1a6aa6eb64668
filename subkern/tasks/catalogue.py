"""The tasks by name: the 14 of the paper, or a user's own from one small TOML or YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from subkern.errors import UserError
from subkern.tasks.task import FileSource, HubSource, Task
from subkern.tasks.task_file import TASK_SUFFIXES, load_task_file

__all__ = ["TASKS", "FileSource", "HubSource", "Task", "get_task"]

_FOURTEEN = (
    *("SST-2", "sst-5", "mr", "cr", "mpqa", "subj", "trec", "ag_news"),
    *("MNLI", "SNLI", "QNLI", "RTE", "MRPC", "QQP"),
)
_DATA = Path(__file__).parent / "data"

TASKS: Mapping[str, Task] = MappingProxyType(
    {name: load_task_file(_DATA / f"{name}.toml") for name in _FOURTEEN}
)
"""The 14 tasks of the paper, by name: prompts, label words and limits of LM-BFF / LM-Kernel-FT.

Label order is that code's, and it decides the order of the logits. Causal prompts are subkern's
own; their words are common enough to be single tokens for byte-level BPE tokenizers. Their files
(``subkern/tasks/data/*.toml``) are examples of a task of one's own.
"""


def get_task(name_or_path: str | Path) -> Task:
    """Return a task by its name (any case) or from a ``.toml``, ``.yaml`` or ``.yml`` file.

    Raises:
        UserError: no task of that name (the message has the closest), or a file that is missing or
            does not describe a task.
    """
    name = str(name_or_path)
    by_lower = {key.lower(): task for key, task in TASKS.items()}
    if name.lower() in by_lower:
        return by_lower[name.lower()]
    if Path(name).suffix.lower() in TASK_SUFFIXES:
        return load_task_file(Path(name))
    close = [by_lower[m].name for m in get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    hint = f"closest: {', '.join(close)}" if close else f"the tasks are {', '.join(TASKS)}"
    raise UserError(f"unknown task '{name}': {hint} (your own: the path of a .toml or .yaml file)")
