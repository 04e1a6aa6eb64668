"""The folder of one training run: whose it is, where the run stands, what it became.

A checkpoint is one safetensors file, replaced whole: coordinates, optimizer and everything recorded
so far are of the same step always, whenever the process is killed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from subkern.errors import DamagedError
from subkern.storage.checksums import SUMS, is_noted, is_sound
from subkern.storage.claim import refuse_foreign, refuse_other
from subkern.storage.files import remove, write_json, write_tensors
from subkern.storage.provenance import differences
from subkern.subspaces.movable import MovableModel
from subkern.training.monitor import Trajectory
from subkern.training.result import (
    ADAPTER,
    KEPT,
    RESULT,
    SETTINGS,
    SHIFT,
    TRAJECTORY,
    FineTuned,
    stored_settings,
    write_result,
    write_settings,
)
from subkern.training.settings import Diverged

__all__ = ["TrainingFolder", "claim"]

CHECKPOINT = "checkpoint.safetensors"
# In the order they are removed: without its result a run is unfinished.
_OURS = (RESULT, SHIFT, KEPT, ADAPTER, TRAJECTORY, CHECKPOINT, SUMS, SETTINGS)


class TrainingFolder:
    """A folder that belongs to the run of `settings`.

    Args:
        path: the folder; it need not exist.
        settings: everything that decides the run.
        overwrite: replace a run of other settings, and one that is damaged.
        every: seconds between checkpoints; 0 writes one after every step.

    Raises:
        UserError: the folder holds a run of other settings (the fields are named), or other files.
        DamagedError: a finished run's settings are damaged.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Mapping[str, Any],
        *,
        overwrite: bool = False,
        every: float = 60.0,
    ) -> None:
        self.path, self.settings, self.every = Path(path), settings, every
        self.overwrite = overwrite
        self._saved_at = time.monotonic()
        if claim(self.path, settings, overwrite=overwrite):
            self.clear()
        write_settings(self.path, settings)

    def clear(self) -> None:
        """Remove every file of the run."""
        for name in _OURS:
            remove(self.path / name)

    def finished(self) -> FineTuned | None:
        """The run, if it is done; a damaged one is removed if it may be.

        Raises:
            Diverged: that is how it ended.
            DamagedError: a file of it is not what was written.
        """
        if not (self.path / RESULT).exists():
            return None
        remove(self.path / CHECKPOINT)  # of a process killed as it finished
        try:
            return FineTuned.load(self.path)
        except DamagedError:
            if not self.overwrite:
                raise
        self.clear()
        write_settings(self.path, self.settings)
        return None

    def finish(self, found: FineTuned) -> None:
        """Keep the run and drop its checkpoint."""
        found.save(self.path)
        remove(self.path / CHECKPOINT)

    def drop_shift(self, found: FineTuned) -> FineTuned:
        """Remove what moved and keep the rest: of a point of a grid that is not the best."""
        if found.shift:
            write_result(self.path, replace(found, shift={}))  # first: it says what is there
        for name in (SHIFT, KEPT, ADAPTER):
            remove(self.path / name)
        return replace(found, shift={}, shifts={}, adapter={})

    def diverged(self, error: Diverged) -> None:
        """Keep that the run diverged."""
        how = {"step": error.step, "learning_rate": error.learning_rate}
        write_json(self.path / RESULT, {"diverged": how})
        remove(self.path / CHECKPOINT)

    def checkpoint(
        self,
        step: int,
        seconds: float,
        tunable: MovableModel,
        optimizer: torch.optim.Optimizer,
        trajectory: Trajectory,
    ) -> None:
        """Write where the run stands after `step`, if it is time to."""
        if time.monotonic() - self._saved_at < self.every:
            return
        tensors = {f"z/{n}": p.detach() for n, p in tunable.coordinates.items()}
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"opt/{i}/{k}": v for k, v in state.items() if isinstance(v, Tensor)}
        tensors |= _pack(trajectory)
        state = {"step": step, "seconds": seconds, "best_step": trajectory.best_step}
        write_tensors(self.path / CHECKPOINT, tensors, {"state": json.dumps(state)})
        self._saved_at = time.monotonic()

    def resume(
        self, tunable: MovableModel, optimizer: torch.optim.Optimizer
    ) -> tuple[int, float, Trajectory]:
        """Stand where the checkpoint was written: (step, seconds so far, what was recorded).

        At the start if there is none, or it is damaged.

        Raises:
            UserError: it holds something else than a run's state; it is removed.
        """
        path = self.path / CHECKPOINT
        if not path.exists() or not is_sound(path):
            return 0, 0.0, Trajectory()
        try:
            with safe_open(path, framework="pt") as file:
                state = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            _put_back(tensors, tunable, optimizer)
            recorded = _unpack(tensors, state["best_step"])
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            path.unlink()
            raise DamagedError(
                f"'{path}' was damaged ({error}) and is removed: give the same command again"
            ) from error
        return state["step"], state["seconds"], recorded


def claim(
    path: Path, settings: Mapping[str, Any], *, overwrite: bool, result: str = RESULT
) -> bool:
    """Whether the folder holds a run of other settings, which is to be replaced.

    So is one of which nobody knows what it is of, unless its ``result`` is there.

    Raises:
        UserError: it does and must not be (the fields are named), or it holds other files.
        DamagedError: its settings are damaged and it is finished.
    """
    if not (path / SETTINGS).exists():
        refuse_foreign(path, "run of fine-tuning")
        return False
    try:
        changes = differences(settings, stored_settings(path))
    except DamagedError:
        finished = (path / result).exists() and not overwrite
        if finished or not is_noted(path / SETTINGS):
            raise
        return True
    if not overwrite:
        refuse_other(path, "a run", changes)
    return bool(changes)


def _put_back(
    tensors: Mapping[str, Tensor], tunable: MovableModel, optimizer: torch.optim.Optimizer
) -> None:
    with torch.no_grad():
        for name, parameter in tunable.coordinates.items():
            parameter.copy_(tensors[f"z/{name}"])
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, "opt/").items():
        index, _, key = name.partition("/")
        states.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _pack(trajectory: Trajectory) -> dict[str, Tensor]:
    out = {
        "steps": torch.tensor(trajectory.steps),
        "losses": torch.tensor(trajectory.losses, dtype=torch.float64),
        "looks": torch.tensor(trajectory.looks, dtype=torch.float64).reshape(-1, 3),
    }
    for split, logits in trajectory.logits.items():
        out[f"logits/{split}"] = torch.from_numpy(np.stack(logits))
    out |= {f"best/{n}": t for n, t in trajectory.best_shift.items()}
    for step, shift in trajectory.kept.items():
        out |= {f"kept/{step}/{n}": t for n, t in shift.items()}
    return out


def _unpack(tensors: Mapping[str, Tensor], best_step: int) -> Trajectory:
    kept: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, "kept/").items():
        step, _, coordinate = name.partition("/")
        kept.setdefault(int(step), {})[coordinate] = tensor
    return Trajectory(
        steps=tensors["steps"].tolist(),
        logits={n: list(t.numpy()) for n, t in _below(tensors, "logits/").items()},
        losses=tensors["losses"].tolist(),
        looks=[(int(s), loss, value) for s, loss, value in tensors["looks"].tolist()],
        best_step=best_step,
        best_shift=_below(tensors, "best/"),
        kept=kept,
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
