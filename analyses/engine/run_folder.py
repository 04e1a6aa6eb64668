"""The results of an analysis, and the directory they are kept in.

A run directory holds::

    config.yaml        what was asked, what it was resolved to, the command, the fingerprint
    environment.json   versions, code, machine, when
    results.parquet    one long table; written last, so where it lies the numbers are complete
    predictions.parquet what the judge's classifier predicts for every test example
    learning_rates.parquet what each configuration can take; see :mod:`analyses.verify.rates`
    verification*      what fine-tuning made of it, if asked for; see :mod:`analyses.verify`
    kernels/           the kernels, as Zarr
    figures/           PNG and PDF, drawn from the above
    report.html        the same for reading, in one file
    checkpoint/        only while computing

Every file is written under another name and renamed when it is whole; its checksum stands in
``.sha256`` (:mod:`subkern.storage.checksums`) and is verified when it is read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from subkern.errors import DamagedError, UserError
from subkern.kernels.kernel import Kernel
from subkern.storage.checksums import AGAIN, SUMS, is_noted, is_sound, require_sound, unsound
from subkern.storage.claim import refuse_foreign, refuse_other
from subkern.storage.files import PART, STAGE, read_json, replacing
from subkern.storage.provenance import differences, fingerprint, normalize, summary

__all__ = [
    "ADAPTER",
    "FIGURE_FOLDER",
    "LEARNING_RATES",
    "PREDICTIONS",
    "REPORT",
    "SCRIPT",
    "VERIFICATION",
    "KernelFolder",
    "Results",
    "RunDirectory",
    "State",
    "replacing",
]

CONFIG, ENVIRONMENT, TABLE = "config.yaml", "environment.json", "results.parquet"
KERNELS, FIGURE_FOLDER, REPORT, CHECKPOINT = "kernels", "figures", "report.html", "checkpoint"
TRAIN = "train"
ADAPTER, SCRIPT = f"{TRAIN}/adapter_config.json", f"{TRAIN}/train.py"
PREDICTIONS, LEARNING_RATES, VERIFICATION = "predictions", "learning_rates", "verification"
# Tables beside the long one.
_BESIDE = {name: f"{name}.parquet" for name in (PREDICTIONS, LEARNING_RATES, VERIFICATION)}
# In the order they are removed: without its table a run is unfinished, without its config foreign.
_OURS = (
    *(
        TABLE,
        REPORT,
        FIGURE_FOLDER,
        ADAPTER,
        SCRIPT,
        f"{TRAIN}/{SUMS}",
        KERNELS,
        CHECKPOINT,
        *_BESIDE.values(),
    ),
    *(VERIFICATION, ENVIRONMENT, SUMS, CONFIG),
)

State = Literal["new", "unfinished", "done"]


class KernelFolder(MutableMapping[str, Kernel]):
    """Kernels saved below a folder by name (``13/full``): written at once, read when asked for.

    Of an ``unfinished`` run those that are damaged count as not there.
    """

    def __init__(self, folder: Path, *, unfinished: bool = False) -> None:
        self.folder, self.unfinished = folder, unfinished

    def _path(self, name: str) -> Path:
        """Return where the kernel ``name`` lies."""
        return self.folder / f"{name}.zarr"

    def __getitem__(self, name: str) -> Kernel:
        if not self._path(name).exists():
            raise KeyError(name)
        try:
            return Kernel.load(self._path(name))
        except DamagedError:
            if not self.unfinished:
                raise
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        paths = sorted(self.folder.glob("*/*.zarr"))
        return (path.relative_to(self.folder).with_suffix("").as_posix() for path in paths)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __setitem__(self, name: str, kernel: Kernel) -> None:
        self._path(name).parent.mkdir(parents=True, exist_ok=True)
        kernel.save(self._path(name), overwrite=True)

    def __delitem__(self, name: str) -> None:
        if not self._path(name).exists():
            raise KeyError(name)
        shutil.rmtree(self._path(name))


@dataclass(frozen=True, eq=False)
class Results:
    """What an analysis computed, and all that its figures and its report are made from.

    Attributes:
        analysis: its name (``lora``).
        config: the fields of its ``Config``, as plain JSON values.
        inputs: what the config was resolved to: task, template, sizes, digests, model.
        table: the long table; its columns are the analysis's.
        kernels: the kernels by name, ``<data seed>/<kernel>``.
        environment: see :func:`subkern.storage.provenance.environment`; and ``started``,
        ``finished``.
        command: the command line (or call) that gives these results again.
        beside: other tables by name: ``predictions`` (:mod:`analyses.engine.predictions`),
            ``learning_rates`` and ``verification`` (:mod:`analyses.verify`), where there are any.
    """

    analysis: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    table: pd.DataFrame
    kernels: Mapping[str, Kernel] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    beside: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a finished run directory.

        Raises:
            UserError: ``path`` is no run directory, or one whose computation has not finished.
            DamagedError: a file of it is not what was written.
        """
        root = Path(path)
        record = read_record(root)
        if record is None:
            raise UserError(f"'{root}' holds no subkern run: give the --out folder of an analysis")
        if not (root / TABLE).exists():
            raise UserError(f"the run in '{root}' is unfinished: run its command again to go on")
        return cls(
            analysis=record["analysis"],
            config=record["config"],
            inputs=record["inputs"],
            table=read_table(root / TABLE),
            kernels=KernelFolder(root / KERNELS),
            environment=read_json(root / ENVIRONMENT),
            command=record["command"],
            beside={
                name: read_table(root / file)
                for name, file in _BESIDE.items()
                if (root / file).exists()
            },
        )


class RunDirectory:
    """The directory of one run of one analysis.

    Args:
        path: the directory; it need not exist.
        analysis: name of the analysis (``lora``).
        asked: everything that decides the numbers, as JSON values; see
            :func:`subkern.storage.provenance.fingerprint` for what of it counts. Under the key
            ``answer``
            stands what decides only what is said of the numbers: changing that recomputes nothing.
    """

    def __init__(self, path: str | Path, analysis: str, asked: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.analysis = analysis
        self.asked: dict[str, Any] = {"analysis": analysis, **normalize(asked)}

    def _changes(self, record: Mapping[str, Any], *, numbers: bool) -> list[str]:
        """Return how what is asked for differs from what is recorded, or only in ``numbers``."""
        left_out = {"answer"} if numbers else set()
        mine, theirs = (
            {key: value for key, value in asked.items() if key not in left_out}
            for asked in (self.asked, record["asked"])
        )
        return differences(mine, theirs)

    @property
    def record(self) -> dict[str, Any] | None:
        """What `claim` wrote down, of whatever run lies there; None where there is none."""
        return read_record(self.path)

    @property
    def kernels(self) -> KernelFolder:
        """The kernels saved so far, but for damaged ones."""
        return KernelFolder(self.path / KERNELS, unfinished=True)

    def damage(self) -> DamagedError | None:
        """Return what is wrong with the first damaged file or kernel of the finished run."""
        try:
            for kernel in Results.load(self.path).kernels.values():
                del kernel  # it was read
            for path in unsound(self.path / VERIFICATION):
                require_sound(path)
        except DamagedError as error:
            return error
        return None

    @property
    def checkpoint(self) -> Path:
        """Folder for what an interrupted computation needs to go on."""
        return self.path / CHECKPOINT

    @property
    def has_work(self) -> bool:
        """Whether a kernel was saved, or what an interrupted computation goes on from."""
        return any(
            path.is_file()
            for folder in (self.path / KERNELS, self.checkpoint)
            for path in folder.rglob("*")
        )

    def state(self, *, overwrite: bool = False) -> State:
        """Return how far this very run got here; writes nothing.

        ``overwrite`` makes a run of other settings count as none, and a damaged one as unfinished.

        Raises:
            UserError: the directory holds a run of other settings (named, both values shown) and
                ``overwrite`` is false; or it holds something else, which is never overwritten.
            DamagedError: the run is finished, a file of it is damaged (named) and ``overwrite`` is
                false.
        """
        try:
            record = self.record
        except DamagedError:
            finished = (self.path / TABLE).exists() and not overwrite
            if finished or not is_noted(self.path / CONFIG):
                raise
            return "new"  # nobody knows of what
        if record is None:
            refuse_foreign(self.path, "subkern run", "give another --out")
            return "new"
        changes = self._changes(record, numbers=overwrite)
        if not changes:
            if not (self.path / TABLE).exists():
                return "unfinished"
            found = self.damage()
            if found is not None and not overwrite:
                raise found
            return "done" if found is None else "unfinished"
        if not overwrite:
            if self._changes(record, numbers=True):
                refuse_other(self.path, "a run", changes)
            raise UserError(
                f"'{self.path}' holds this run with another answer drawn from it"
                f" ({summary(changes)}): --overwrite draws it anew and computes nothing"
            )
        return "new"

    @property
    def is_current(self) -> bool:
        """Whether the directory holds this very run, the answer drawn from it included."""
        record = self.record
        return record is not None and not self._changes(record, numbers=False)

    def claim(self, config: Mapping[str, Any], inputs: Mapping[str, Any], command: str) -> None:
        """Make the directory this run's: clear a run of other settings, write ``config.yaml``.

        What is damaged of a finished run is removed, and its table first: it is unfinished then.
        """
        from subkern.training.grid_search import TABLE as GRID  # late: torch

        state = self.state(overwrite=True)
        if state == "new":
            self.clear()
        elif state == "unfinished":
            (self.path / TABLE).unlink(missing_ok=True)
            for name in (ENVIRONMENT, *_BESIDE.values()):
                if not is_sound(self.path / name):
                    (self.path / name).unlink(missing_ok=True)
            for path in [*unsound(self.path / VERIFICATION)]:  # it is computed again
                path.unlink(missing_ok=True)
                if path.name != GRID:  # a training without one of its files is none
                    shutil.rmtree(path.parent, ignore_errors=True)
                (self.path / _BESIDE[VERIFICATION]).unlink(missing_ok=True)
        record = {
            "analysis": self.analysis,
            "command": command,
            "config": normalize(config),
            "inputs": normalize(inputs),
            "fingerprint": fingerprint(self.asked),
            "asked": self.asked,
        }
        write_record(self.path, record)

    def rewrite(self, config: Mapping[str, Any], command: str) -> None:
        """Record new settings of the same numbers: another answer, command, device."""
        record = self.record
        if record is None:
            raise ValueError(f"'{self.path}' holds no run")
        self.claim(config, record["inputs"], command)

    def clear(self) -> None:
        """Remove every file of a run, nothing else, and the directory if that leaves it empty."""
        for path in [*(self.path / name for name in _OURS), *self.path.glob(f".*{PART}.*")]:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for folder in (self.path / TRAIN, self.path):  # what a user trained there stays
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def finish(
        self,
        table: pd.DataFrame,
        environment: Mapping[str, Any],
        beside: Mapping[str, pd.DataFrame] | None = None,
    ) -> Results:
        """Write the numbers, drop the checkpoint, and return what `Results.load` then reads."""
        for name, each in (beside or {}).items():
            self.add(name, each)
        write_results(self.path, table, environment)
        self.tidy()
        return Results.load(self.path)

    def tidy(self) -> None:
        """Remove what a finished run needs no more, if it was killed before it could."""
        for left in (self.checkpoint, *(self.path / KERNELS).glob(f"*/.*{STAGE}")):
            shutil.rmtree(left, ignore_errors=True)

    def add(self, name: str, table: pd.DataFrame) -> None:
        """Write a table beside the long one, such as ``predictions`` or ``verification``."""
        with replacing(self.path / _BESIDE[name]) as part:
            table.to_parquet(part, index=False)


def read_table(path: Path) -> pd.DataFrame:
    """Return a table.

    Raises:
        DamagedError: it is not what was written.
    """
    try:
        return pd.read_parquet(require_sound(path))
    except DamagedError:
        raise
    except Exception as error:  # as many ways as there are codecs
        raise DamagedError(f"'{path}' is damaged ({type(error).__name__}): {AGAIN}") from error


def write_record(root: Path, record: Mapping[str, Any]) -> None:
    """Write ``config.yaml``."""
    text = yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True, width=100)
    with replacing(root / CONFIG) as part:
        part.write_text(text, encoding="utf-8")


def write_results(root: Path, table: pd.DataFrame, environment: Mapping[str, Any]) -> None:
    """Write ``environment.json`` and, last, ``results.parquet``."""
    with replacing(root / ENVIRONMENT) as part:
        part.write_text(json.dumps(normalize(environment), indent=2) + "\n", encoding="utf-8")
    with replacing(root / TABLE) as part:
        table.to_parquet(part, index=False)


def read_record(root: Path) -> dict[str, Any] | None:
    """Return the record in ``config.yaml``, or None where there is none of ours.

    Raises:
        DamagedError: there is one that is not what was written, or cannot be read.
    """
    path = root / CONFIG
    if not path.is_file():
        return None
    try:
        record = yaml.safe_load(require_sound(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = type(error).__name__
        raise DamagedError(f"'{path}' is damaged ({why}): {AGAIN}, or remove it") from error
    ours = isinstance(record, dict) and {"analysis", "config", "inputs", "asked"} <= record.keys()
    return record if ours else None
