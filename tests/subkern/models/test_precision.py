"""Models in float64 stay there."""

from __future__ import annotations

import pytest
import torch

from subkern.models.precision import KeepDouble


@pytest.mark.parametrize("multiply", [torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__])
def test_products_with_float32_are_in_float64(multiply: object) -> None:
    frequencies, positions = torch.rand(3, 1, dtype=torch.float64), torch.arange(5.0)[None]
    with KeepDouble():
        found = multiply(frequencies.float(), positions)  # type: ignore[operator]
        assert (positions.T @ positions).dtype == torch.float32  # nobody's business
    assert torch.equal(found, frequencies @ positions.double())
