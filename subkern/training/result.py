"""What fine-tuning gives, and the folder it is kept in.

A folder holds::

    settings.json          what decides the run, and its fingerprint; written first
    shift.safetensors      z − z₀ at the best step: what moved, nothing else
    kept.safetensors       the same at the steps of ``keep_steps``, if any: ``<step>/<name>``
    adapter.safetensors    of an adapter: its tensors, for ``subspace.at(...)``
    trajectory.npz         logits, losses, looks at dev, labels
    result.json            best step, scores, seconds; written last
    checkpoint.safetensors only while training
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from subkern.errors import DamagedError, UserError
from subkern.storage.checksums import AGAIN, require_sound
from subkern.storage.files import (
    UNREADABLE,
    keep_json,
    read_json,
    replacing,
    write_json,
    write_tensors,
)
from subkern.storage.provenance import fingerprint
from subkern.training.settings import Diverged

__all__ = ["FineTuned"]

SETTINGS, RESULT = "settings.json", "result.json"
SHIFT, KEPT, ADAPTER = "shift.safetensors", "kept.safetensors", "adapter.safetensors"
TRAJECTORY = "trajectory.npz"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class FineTuned:
    """One finished training run.

    Attributes:
        settings: everything that decided it, as JSON values.
        best_step: the best on dev: highest score, then lowest loss, then earliest; the last
            without dev.
        shift: z − z₀ there, by coordinate; empty where only the best of a grid is kept.
        scores: score at the best step by split.
        steps: steps ``[s]`` whose logits were kept.
        logits: split → ``[s, n, c]``, float64, at `steps`.
        start_logits: split → ``[n, c]`` before the first update.
        best_logits: split → ``[n, c]`` at the best step.
        labels: split → ``[n]``.
        losses: mean loss ``[steps]`` of each update's batch.
        looks: ``[k, 3]``: step, loss and score of every look at dev.
        shifts: step → z − z₀ at the steps of ``Training.keep_steps``.
        adapter: of an adapter, its tensors at the best step by name.
        seconds: of training and looking, all sessions together.
    """

    settings: Mapping[str, Any]
    best_step: int
    shift: Mapping[str, Tensor]
    scores: Mapping[str, float]
    steps: np.ndarray
    logits: Mapping[str, np.ndarray]
    start_logits: Mapping[str, np.ndarray]
    best_logits: Mapping[str, np.ndarray]
    labels: Mapping[str, np.ndarray]
    losses: np.ndarray
    looks: np.ndarray
    shifts: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    adapter: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def training(self) -> Mapping[str, Any]:
        """The fields of `subkern.training.settings.Training`."""
        found: Mapping[str, Any] = self.settings["training"]
        return found

    @property
    def dev_loss(self) -> float | None:
        """Loss on dev at the best step; None without dev."""
        at = self.looks[self.looks[:, 0] == self.best_step]
        return float(at[0, 1]) if len(at) else None

    @property
    def rank_on_dev(self) -> tuple[float, float]:
        """(score, −loss) on dev at the best step: the greater, the better; (0, 0) without dev."""
        loss = self.dev_loss
        return (0.0, 0.0) if loss is None else (self.scores["dev"], -loss)

    def save(self, folder: str | Path) -> None:
        """Write everything; the folder counts as finished once all of it is there."""
        root = Path(folder)
        write_settings(root, self.settings)
        _write_tensors(root / SHIFT, self.shift)
        kept = {f"{step}/{n}": t for step, shift in self.shifts.items() for n, t in shift.items()}
        _write_tensors(root / KEPT, kept)
        _write_tensors(root / ADAPTER, self.adapter)
        with replacing(root / TRAJECTORY) as part:
            np.savez_compressed(part, allow_pickle=False, **self._arrays())
        write_result(root, self)

    @classmethod
    def load(cls, folder: str | Path) -> FineTuned:
        """Read what `save` wrote.

        Raises:
            UserError: there is no finished run.
            DamagedError: a file of it is damaged.
            Diverged: the run ended so.
        """
        root = Path(folder)
        if not (root / RESULT).exists():
            state = "is unfinished: run it again" if (root / SETTINGS).exists() else "is none"
            raise UserError(f"'{root}' should hold a fine-tuning run and {state}")
        for name in (TRAJECTORY, SHIFT, KEPT, ADAPTER):
            if (root / name).exists():
                require_sound(root / name)
        settings, result = stored_settings(root), read_json(root / RESULT)
        try:
            if (diverged := result.get("diverged")) is not None:
                raise Diverged(**diverged)
            return cls._read(root, settings, result)
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, *UNREADABLE) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DamagedError(f"the run in '{root}' is damaged ({reason}): {AGAIN}") from error

    @classmethod
    def _read(cls, root: Path, settings: Mapping[str, Any], result: Mapping[str, Any]) -> FineTuned:
        with np.load(root / TRAJECTORY, allow_pickle=False) as stored:
            arrays = dict(stored)
        has_shift = result["has_shift"]
        shifts: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _read_tensors(root / KEPT).items() if has_shift else ():
            step, _, coordinate = name.partition("/")
            shifts.setdefault(int(step), {})[coordinate] = tensor
        return cls(
            settings=settings,
            best_step=result["best_step"],
            shift=load_file(root / SHIFT) if has_shift else {},
            scores=result["scores"],
            steps=arrays["steps"],
            logits=_group(arrays, "logits"),
            start_logits=_group(arrays, "start_logits"),
            best_logits=_group(arrays, "best_logits"),
            labels=_group(arrays, "labels"),
            losses=arrays["losses"],
            looks=arrays["looks"],
            shifts=shifts,
            adapter=_read_tensors(root / ADAPTER) if has_shift else {},
            seconds=result["seconds"],
        )

    def _arrays(self) -> Arrays:
        named = {"steps": self.steps, "losses": self.losses, "looks": self.looks}
        for group in ("logits", "start_logits", "best_logits", "labels"):
            named |= {f"{group}/{split}": values for split, values in getattr(self, group).items()}
        return named


def _group(arrays: Arrays, group: str) -> Arrays:
    return {n.partition("/")[2]: v for n, v in arrays.items() if n.startswith(group + "/")}


def _read_tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.exists() else {}


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, or remove the file where there are none."""
    if tensors:
        write_tensors(path, tensors)
    else:
        path.unlink(missing_ok=True)


def write_result(root: Path, found: FineTuned) -> None:
    """Write ``result.json``: the run is finished, and whether the folder holds what moved."""
    numbers = {"best_step": found.best_step, "scores": found.scores, "seconds": found.seconds}
    write_json(root / RESULT, {**numbers, "has_shift": bool(found.shift)})


def stored_settings(root: Path) -> dict[str, Any]:
    """Read ``settings.json``.

    Raises:
        DamagedError: it is not what was written.
    """
    path = root / SETTINGS
    try:
        return dict(read_json(path)["settings"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DamagedError):
            raise
        raise DamagedError(f"'{path}' is damaged ({error}): {AGAIN}") from error


def write_settings(root: Path, settings: Mapping[str, Any]) -> None:
    """Write ``settings.json``: what the folder is for."""
    keep_json(root / SETTINGS, {"fingerprint": fingerprint(settings), "settings": settings})
