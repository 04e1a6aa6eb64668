"""The type that flows: a labeled kernel ``[n, c, m, c]`` that knows where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from subkern.errors import UserError
from subkern.kernels import kernel_checks, kernel_store
from subkern.kernels.selection import Selection, positions
from subkern.storage.claim import refuse_other
from subkern.storage.provenance import canonical_json, differences, fingerprint

__all__ = ["Kernel"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_DIMS = ("left", "left_logit", "right", "right_logit")


class Kernel:
    """Inner products of gradients, ``values[i, a, j, b]`` of logit a of left i, logit b of right j.

    A kernel is immutable: it copies what it is given, and its arrays are read-only.

    Args:
        values: kernel ``[n, c, m, c]``, stored as float64.
        left_ids: n unique example ids.
        right_ids: m unique example ids; equal to ``left_ids`` for a kernel of a set with itself.
        left_labels: label indices ``[n]``, 0 .. c-1 (0 or 1 where c = 1), or None where unknown.
        right_labels: label indices ``[m]``, or None.
        provenance: JSON-able dict of everything that decided the numbers.
        left_logits: initial logits f0 ``[n, c]``, or None.
        right_logits: initial logits f0 ``[m, c]``, or None.
        reverse: of a rule whose update u acts on one side only, the other direction
            ``reverse[i, a, j, b] = ⟨g_ia, u(g_jb)⟩`` ``[n, c, m, c]``; `values` has u on the left.
        asymmetric: the rule treats the two sides differently, so a kernel of a set with itself need
            not be symmetric; given with `reverse`, or alone where the other direction is unknown.
        left_content: digests of what the n rows' examples hold, or None where unknown.
        right_content: of the m columns' examples.

    Raises:
        UserError: shapes disagree, an id repeats, a value is not finite, a label is out of range,
            an id names other content left than right, or rows are columns and the kernel is not
            symmetric (to `subkern.symmetry.SYMMETRY_RTOL` of its largest entry), or `reverse` not
            its transpose.
    """

    def __init__(
        self,
        values: npt.ArrayLike,
        left_ids: Sequence[str],
        right_ids: Sequence[str],
        left_labels: npt.ArrayLike | None = None,
        right_labels: npt.ArrayLike | None = None,
        provenance: Mapping[str, Any] | None = None,
        left_logits: npt.ArrayLike | None = None,
        right_logits: npt.ArrayLike | None = None,
        reverse: npt.ArrayLike | None = None,
        asymmetric: bool = False,
        left_content: Sequence[str] | None = None,
        right_content: Sequence[str] | None = None,
    ) -> None:
        array = kernel_checks.floats(values)
        if array.ndim != 4 or array.shape[1] != array.shape[3] or 0 in array.shape:
            raise UserError(
                f"a kernel is [n, c, m, c] with n, c, m >= 1, not {list(array.shape)}: reshape it"
            )
        num_logits = array.shape[1]
        data: dict[str, Any] = {"kernel": (_DIMS, array)}
        coords: dict[str, Any] = {}
        sides = (
            ("left", array.shape[0], left_ids, left_labels, left_logits, left_content),
            ("right", array.shape[2], right_ids, right_labels, right_logits, right_content),
        )
        for side, count, ids, labels, logits, content in sides:
            coords[side] = kernel_checks.ids(side, ids, count)
            if labels is not None:
                indices = kernel_checks.labels(side, labels, count, num_logits)
                coords[f"{side}_label"] = (side, indices)
            if content is not None:
                digests = kernel_checks.content(side, content, count)
                coords[f"{side}_content"] = (side, digests)
            if logits is not None:
                f0 = kernel_checks.logits(side, logits, (count, num_logits))
                data[f"{side}_logits"] = ((side, f"{side}_logit"), f0)
        if reverse is not None:
            data["reverse"] = (_DIMS, kernel_checks.reverse(reverse, array.shape))
        self._data = xr.Dataset(data, coords)
        kernel_checks.one_content(*(self._named(side) for side in ("left", "right")))
        self._provenance = canonical_json({} if provenance is None else provenance)
        self._asymmetric = asymmetric or reverse is not None
        kernel_checks.finite(array, self.left_ids, self.right_ids)
        other = self.reverse
        if other is not None:
            kernel_checks.finite(other, self.left_ids, self.right_ids)
        if self.is_symmetric:
            kernel_checks.symmetric(array, array, self.left_ids)
        elif other is not None and self.left_ids == self.right_ids:
            kernel_checks.symmetric(array, other, self.left_ids)

    @property
    def values(self) -> Floats:
        """Kernel ``[n, c, m, c]``, float64, read-only."""
        return _read_only(self._data["kernel"].values)

    @property
    def reverse(self) -> Floats | None:
        """The other direction ⟨g_ia, u(g_jb)⟩ ``[n, c, m, c]`` of an asymmetric rule, or None."""
        return self._optional("reverse")

    @property
    def array(self) -> xr.DataArray:
        """The kernel as a labeled array, dims left, left_logit, right, right_logit (a copy)."""
        return self._data["kernel"].copy()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(n, c, m, c)``."""
        n, c, m, _ = self._data["kernel"].shape
        return n, c, m, c

    @property
    def num_logits(self) -> int:
        """Logits per example, c."""
        return self.shape[1]

    @property
    def left_ids(self) -> tuple[str, ...]:
        """Ids of the n rows' examples."""
        return tuple(self._data["left"].values.tolist())

    @property
    def right_ids(self) -> tuple[str, ...]:
        """Ids of the m columns' examples."""
        return tuple(self._data["right"].values.tolist())

    @property
    def left_labels(self) -> Integers | None:
        """Label indices ``[n]`` of the rows' examples, or None where unknown."""
        return self._optional("left_label")

    @property
    def right_labels(self) -> Integers | None:
        """Label indices ``[m]`` of the columns' examples, or None where unknown."""
        return self._optional("right_label")

    @property
    def left_logits(self) -> Floats | None:
        """Initial logits f0 ``[n, c]`` of the rows' examples, or None."""
        return self._optional("left_logits")

    @property
    def right_logits(self) -> Floats | None:
        """Initial logits f0 ``[m, c]`` of the columns' examples, or None."""
        return self._optional("right_logits")

    @property
    def left_content(self) -> tuple[str, ...] | None:
        """Digests of what the rows' examples hold, or None where unknown."""
        return self._content("left")

    @property
    def right_content(self) -> tuple[str, ...] | None:
        """Digests of what the columns' examples hold, or None where unknown."""
        return self._content("right")

    def _named(self, side: str) -> dict[str, str]:
        ids = self._data[side].values.tolist()
        return dict(zip(ids, self._content(side) or (), strict=False))

    def _content(self, side: str) -> tuple[str, ...] | None:
        name = f"{side}_content"
        return tuple(self._data[name].values.tolist()) if name in self._data else None

    def _optional(self, name: str) -> Any:
        return _read_only(self._data[name].values) if name in self._data else None

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything that decided the numbers, as plain JSON (a fresh copy)."""
        loaded: dict[str, Any] = json.loads(self._provenance)
        return loaded

    @property
    def _identity(self) -> dict[str, Any]:
        """What the fingerprint hashes: the provenance and the examples' ids."""
        return {
            **self.provenance,
            "left_ids": list(self.left_ids),
            "right_ids": list(self.right_ids),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of provenance and ids: equal fingerprints, interchangeable kernels."""
        return fingerprint(self._identity)

    @property
    def is_asymmetric(self) -> bool:
        """Whether the rule's update acts on one side only; `reverse` is the other direction."""
        return self._asymmetric

    @property
    def is_symmetric(self) -> bool:
        """Whether rows are columns (same ids, same order) and the rule treats both sides alike."""
        return not self.is_asymmetric and self.left_ids == self.right_ids

    def matrix(self) -> Floats:
        """Return the plain reshape ``[n*c, m*c]``: row i*c + a is logit a of left example i."""
        n, c, m, _ = self.shape
        return self.values.reshape(n * c, m * c)

    def select(self, left: Selection = None, right: Selection = None) -> Kernel:
        """Return the kernel of some of the examples; labels, logits and provenance go with it.

        Args:
            left: ids in the wanted order, a slice of positions, or None for all rows.
            right: the same for columns.

        Raises:
            UserError: an id is not there, an id repeats, or nothing is left.
        """
        data = _pick(_pick(self._data, "left", left), "right", right)
        return _from_dataset(data, self.provenance, self.is_asymmetric)

    def __eq__(self, other: object) -> bool:
        """Whether provenance, ids, labels, logits and every value are the same."""
        if not isinstance(other, Kernel):
            return NotImplemented
        # Older kernels carry no content: that of equal fingerprints is equal.
        known = [
            each._data.drop_vars(["left_content", "right_content"], errors="ignore")
            for each in (self, other)
        ]
        return self.fingerprint == other.fingerprint and known[0].equals(known[1])

    __hash__ = None  # type: ignore[assignment]  # compared by value

    def allclose(self, other: Kernel, rtol: float = 1e-5, atol: float = 0.0) -> bool:
        """Whether ids agree and values differ by at most ``atol + rtol * max|self|`` anywhere.

        The scale is the largest entry: a kernel's small entries are sums of large terms.
        """
        same = (self.left_ids, self.right_ids, self.shape)
        if same != (other.left_ids, other.right_ids, other.shape):
            return False
        pairs = [(self.values, other.values)]
        if self.reverse is not None and other.reverse is not None:
            pairs.append((self.reverse, other.reverse))
        return self.is_asymmetric == other.is_asymmetric and all(
            np.abs(a - b).max() <= atol + rtol * float(np.abs(a).max()) for a, b in pairs
        )

    def __repr__(self) -> str:
        """Shape, rule, examples and fingerprint on one line."""
        rule = self.provenance.get("rule", "unknown rule")
        left, right = (_span(ids) for ids in (self.left_ids, self.right_ids))
        shape = list(self.shape)
        return f"<Kernel {shape} {rule}: {left} x {right}, fingerprint {self.fingerprint[:12]}>"

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the kernel as a Zarr store, whole or not at all, and return its path.

        A kernel with the same fingerprint is replaced; another only with ``overwrite``, and what is
        not a kernel never.

        Raises:
            UserError: the path holds a kernel of other settings (names them), or no kernel.
        """
        path = Path(path)
        attributes: dict[str, Any] = {
            "provenance": self._provenance,
            "fingerprint": self.fingerprint,
            "asymmetric": self.is_asymmetric,
        }
        if kernel_store.holds_kernel(path) and not overwrite:
            refuse_other(path, "a kernel", differences(self._identity, Kernel.load(path)._identity))
        kernel_store.write(path, self._data, attributes)
        return path

    @classmethod
    def load(cls, path: str | Path, expect: Mapping[str, Any] | None = None) -> Kernel:
        """Read a kernel that `save` wrote.

        Args:
            path: the Zarr store.
            expect: fields of the provenance, ``left_ids`` or ``right_ids`` that must be as given;
                fields it does not name are not compared.

        Raises:
            UserError: no such kernel, damaged, or a field differs (says which, with both values).
        """
        path = Path(path)
        data = kernel_store.read(path)
        try:
            provenance = json.loads(data.attrs["provenance"])
            asymmetric = data.attrs.get("asymmetric")
            if asymmetric is None:  # stored before 0.2: the rule's name says it
                asymmetric = str(provenance.get("rule", "")).startswith("asymmetric")
            kernel = _from_dataset(data, provenance, bool(asymmetric))
        except (KeyError, ValueError) as error:
            raise kernel_store.damaged(path, str(error)) from error
        if kernel.fingerprint != data.attrs.get("fingerprint"):
            raise kernel_store.damaged(path, "its fingerprint does not match its contents")
        changes = differences(expect or {}, kernel._identity, only_asked=True)
        refuse_other(path, "a kernel", changes, "give another path")
        return kernel


def _from_dataset(data: xr.Dataset, provenance: Mapping[str, Any], asymmetric: bool) -> Kernel:
    """Return the kernel of a dataset laid out as `Kernel` lays it out."""
    optional = {
        name: data[name].values if name in data else None
        for name in ("left_label", "right_label", "left_logits", "right_logits", "reverse")
    }
    content = {
        side: data[f"{side}_content"].values.tolist() if f"{side}_content" in data else None
        for side in ("left", "right")
    }
    return Kernel(
        data["kernel"].values,
        data["left"].values.tolist(),
        data["right"].values.tolist(),
        optional["left_label"],
        optional["right_label"],
        provenance,
        optional["left_logits"],
        optional["right_logits"],
        optional["reverse"],
        asymmetric,
        content["left"],
        content["right"],
    )


def _pick(data: xr.Dataset, side: str, wanted: Selection) -> xr.Dataset:
    """Return ``data`` with the wanted examples of one side."""
    if wanted is None:
        return data
    return data.isel({side: positions(data[side].values.tolist(), wanted, f"{side} example")})


def _read_only(array: npt.NDArray[Any]) -> Any:
    view = array.view()
    view.flags.writeable = False
    return view


def _span(ids: tuple[str, ...]) -> str:
    """Return ids as ``first..last`` or the single id."""
    return ids[0] if len(ids) == 1 else f"{ids[0]}..{ids[-1]}"
