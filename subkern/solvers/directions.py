"""The two directions of a kernel whose sides are treated differently.

A rule such as ``asymmetric_signgd`` has one feature map for the left side and another for the
right: ``K[i,a,j,b] = <u(g_ia), g_jb>``. The *reverse* of such a kernel is ``[n, c, m, c]`` again,
training examples on the left: ``R[i,a,j,b] = <g_ia, u(g_jb)>``. For train against train it is the
transpose, so only prediction ever needs it.
"""

from __future__ import annotations

from subkern.agreement.blocks import Array, KernelLike, as_blocks
from subkern.errors import UserError

__all__ = ["reverse_of"]


def reverse_of(kernel: KernelLike, given: KernelLike | None = None) -> Array | None:
    """Return the reverse ``[n, c, m, c]`` of ``kernel``, or None where it has one direction only.

    ``given`` comes first, then the ``reverse`` that a `Kernel` carries, then the
    transpose of a kernel of examples with themselves (equal ids on both sides).

    Raises `UserError` if the reverse has another shape than the kernel.
    """
    blocks = as_blocks(kernel, "evaluation kernel")
    found = getattr(kernel, "reverse", None) if given is None else given
    if found is None or callable(found):  # a list has a method of that name
        ids = getattr(kernel, "left_ids", None)
        same = ids is not None and ids == getattr(kernel, "right_ids", None)
        return blocks.transpose(2, 3, 0, 1) if same else None
    reverse = as_blocks(found, "reverse kernel")
    if reverse.shape != blocks.shape:
        raise UserError(
            f"reverse kernel has shape {list(reverse.shape)}, the kernel {list(blocks.shape)}: "
            "train goes on the left of both; transpose(2, 3, 0, 1) turns K(X, train)"
        )
    return reverse
