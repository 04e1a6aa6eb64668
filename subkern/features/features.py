"""Sketched features: per-example gradients projected to d dimensions, for kernels of many examples.

A kernel of 10⁵ examples then costs one pass over each and one matrix product. The rows stream to a
Zarr store; a run that was killed goes on after the chunks it had finished.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subkern.cores import heeding_others
from subkern.errors import DamagedError, UserError
from subkern.features.store import FeatureStore, holds_features, is_begun
from subkern.kernels.engines.projected import project_captured, rows_kernels, rows_per_batch
from subkern.kernels.kernel import Kernel
from subkern.kernels.request import Request, RunOptions, kernel_identity, naming_memory
from subkern.kernels.rules import UpdateRule, as_rule
from subkern.kernels.selection import Selection, positions
from subkern.kernels.sides import Sides
from subkern.models.logit_model import LogitModel
from subkern.projections.project import Projection
from subkern.prompts.prompt import label_array
from subkern.storage.claim import refuse_other
from subkern.storage.files import recover
from subkern.storage.lock import only_run
from subkern.storage.provenance import differences, fingerprint, summary
from subkern.subspaces.random import RandomSubspace

if TYPE_CHECKING:
    from subkern.prompts.prompt import EncodedExample


@dataclass(frozen=True)
class Features:
    """Projected gradients of N examples, read from disk when asked for.

    Attributes:
        path: the Zarr store.
        ids: example ids.
        labels: label indices ``[N]``, or real labels; None of completions and preferences.
        logits: initial logits f₀ ``[N, c]``.
        provenance: everything that decided the numbers.
        positions: which rows of the store these are; None for all.
        computed: how many of them were projected now; the others stood there.
        content: digests of what the examples hold, or None in features of 0.2.0 and before.
    """

    path: Path
    ids: tuple[str, ...]
    labels: np.ndarray | None
    logits: np.ndarray
    provenance: dict[str, Any]
    positions: tuple[int, ...] | None = field(default=None, repr=False)
    computed: int = field(default=0, repr=False, compare=False)
    content: tuple[str, ...] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(cls, path: str | Path) -> Features:
        """Open features that `compute_features` finished.

        Raises:
            UserError: no features there, unfinished, or damaged.
        """
        return cls._of(FeatureStore(Path(path)))

    @classmethod
    def _of(cls, store: FeatureStore, computed: int = 0) -> Features:
        chunks = store.chunks
        missing = [k for k in range(len(chunks)) if not store.has(k)]
        if missing:
            raise UserError(
                f"{store.path} lacks {len(missing)} of {len(chunks)} chunks (unfinished or"
                " damaged): run the same `subkern features` again"
            )
        content, labels = store.head.get("content"), store.head["labels"]
        return cls(
            store.path,
            tuple(store.head["ids"]),
            None if labels is None else np.asarray(labels),
            store.logits(),
            store.head["provenance"],
            computed=computed,
            content=None if content is None else tuple(content),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def examples(self) -> str:
        """What identifies the examples: content of all that were projected, and which of them."""
        of: str = self.provenance["examples"]
        return of if self.positions is None else fingerprint({"of": of, "ids": list(self.ids)})

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(N, c, d)``; reads no projected gradient."""
        return (len(self), *FeatureStore(self.path).shape[1:])

    @property
    def values(self) -> np.ndarray:
        """Projected gradients ``[N, c, d]``, float32."""
        picks = slice(None) if self.positions is None else list(self.positions)
        return FeatureStore(self.path).values(picks)

    def select(self, wanted: Selection) -> Features:
        """Some of the examples: ids in the wanted order, or a slice of positions."""
        if wanted is None:
            return self
        at = positions(self.ids, wanted)
        rows = range(len(self)) if self.positions is None else self.positions
        return Features(
            self.path,
            tuple(self.ids[i] for i in at),
            None if self.labels is None else self.labels[at],
            self.logits[at],
            self.provenance,
            tuple(rows[i] for i in at),
            content=None if self.content is None else tuple(self.content[i] for i in at),
        )

    def kernel(self, right: Features | None = None, rule: UpdateRule | str = "sgd") -> Kernel:
        """The kernel of projected gradients: one matrix product, in float64.

        Args:
            right: features of the columns' examples; None means these.
            rule: an `UpdateRule` or its one-line form; it acts on the projection's coordinates.

        Raises:
            UserError: the two were made with other models, projections or code.
        """
        return _kernel(self, self if right is None else right, as_rule(rule))


def compute_features(
    model: LogitModel,
    examples: Sequence[EncodedExample],
    *,
    subspace: RandomSubspace,
    out: str | Path,
    options: RunOptions | None = None,
    overwrite: bool = False,
) -> Features:
    """Project the gradients of `examples` and stream them to `out`.

    Args:
        model: f, in evaluation mode.
        examples: N examples.
        subspace: what to project to; ``srht`` and ``count_sketch`` cost O(P) an example whatever d.
        out: Zarr store to write; finished chunks of the same settings are kept.
        options: batch size, memory and progress (of examples).
        overwrite: replace features of other settings.

    Raises:
        UserError: as `compute_kernel`; `out` holds features of other settings, or something else.
    """
    request = Request(model, Sides.of(examples), subspace=subspace, options=options)
    projection, out = request.coordinates.projection, Path(out)
    assert projection is not None
    with naming_memory(), heeding_others():
        request.validate()
        provenance = features_identity(model, examples, subspace)
        with only_run(out, beside=True):
            store = _open(out, provenance, overwrite)
            if store is None:
                step = rows_per_batch(request.job, examples, projection.projections)
                labeled = model.classifies or model.regresses
                head = {
                    "provenance": provenance,
                    "ids": [e.id for e in examples],
                    "labels": label_array(examples).tolist() if labeled else None,
                    "content": [e.content for e in examples],
                    "chunk": step,
                }
                shape = (len(examples), model.num_logits, subspace.dim)
                FeatureStore.create(out, shape, head)
                store = FeatureStore(out, writable=True)
            return Features._of(store, _fill(store, request, projection))


def features_identity(
    model: LogitModel, examples: Sequence[EncodedExample], subspace: RandomSubspace
) -> dict[str, Any]:
    """Everything that decides the features of `examples`."""
    identity = kernel_identity(model, examples, examples, subspace=subspace)
    examples_of = identity.pop("examples")["left"]
    return {**identity, "examples": examples_of, "stored": "float32"}


def _open(out: Path, provenance: Mapping[str, Any], overwrite: bool) -> FeatureStore | None:
    """The store begun at `out` with these settings, or None where one is to be begun."""
    recover(out)
    if not out.exists():
        return None
    if not holds_features(out):
        if out.is_dir() and _is_ours(out):
            shutil.rmtree(out)
            return None
        raise UserError(f"{out} exists and holds no features: choose another path")
    if overwrite:
        return None
    try:
        store = FeatureStore(out, writable=True)
    except DamagedError:
        if not is_begun(out):
            raise
        return None
    refuse_other(out, "features", differences(provenance, store.head["provenance"]))
    return store


def _is_ours(out: Path) -> bool:
    """Whether a folder holds at most what a killed run of version 0.2 left before its head."""
    known = {"zarr.json", "values", "logits", ".features.part.json"}
    found = {p.name for p in out.iterdir()}
    left = {name for name in found if name.endswith(".partial")}
    if not found - left <= known or (found - left and "zarr.json" not in found):
        return False
    arrays = [out / name for name in ("values", "logits") if name in found]
    return all(
        (a / "zarr.json").exists() or all(p.name.endswith(".partial") for p in a.iterdir())
        for a in arrays
    )


def _fill(store: FeatureStore, request: Request, projection: Projection) -> int:
    """Project the examples of every chunk that is not there; how many that were."""
    examples, progress, capturing = (
        request.sides.left,
        request.options.progress,
        request.capturing(),
    )
    computed, shapes = 0, {n: p.shape for n, p in request.coordinates.parameters.items()}
    for k, picks in enumerate(store.chunks):
        if not store.has(k):
            rows = project_captured(capturing(examples[picks]), shapes, projection.projections)
            store.put(k, rows.values[projection.cell], rows.logits)
            computed += len(rows.logits)
        if progress is not None:
            progress(picks.stop, len(examples))
    return computed


def _kernel(left: Features, right: Features, rule: UpdateRule) -> Kernel:
    sides = [{k: v for k, v in f.provenance.items() if k != "examples"} for f in (left, right)]
    if lines := differences(*sides):
        raise UserError(f"left and right features were made differently: {summary(lines)}")
    rows = [f.values.astype(np.float64) for f in (left, right)]
    values = rows_kernels(rows[0], rows[1], rule)
    names = {"left": left.examples, "right": right.examples}
    used = UpdateRule(rule.name, rule.epsilon, 0.0) if not rule.is_sgd else rule
    return Kernel(
        values[0],
        left.ids,
        right.ids,
        left.labels,
        right.labels,
        {**sides[0], **used.describe(), "examples": names},
        left.logits,
        right.logits,
        values[1] if len(values) == 2 else None,
        left_content=left.content,
        right_content=right.content,
    )
