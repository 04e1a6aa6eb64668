"""The digest of a model's weights: by their bytes, and never that of weights before a change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from subkern.models import digest
from subkern.models.digest import weights_digest
from subkern.models.logit_model import LogitModel
from tests.support.toys import toy


def model(**weights: Tensor) -> LogitModel:
    """A model with these weights, the first ones where there are several."""
    found = toy(lambda p, features, ids: features, **{n: t.shape for n, t in weights.items()})
    for name, each in weights.items():
        found.module.p[name] = torch.nn.Parameter(each)  # type: ignore[index, operator, union-attr]
    return found


def weights(found: LogitModel, name: str = "w") -> Tensor:
    tensor = found.module.p[name]  # type: ignore[index, union-attr]
    assert isinstance(tensor, Tensor)
    return tensor


MANY = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))


def test_threads_do_not_count() -> None:
    before, found = torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.add(weights_digest(model(w=MANY.clone())))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


@pytest.mark.parametrize("chunk", [1, 64, 2**10, 2**24])
@pytest.mark.parametrize("shape", [(), (7,), (0,), (12, 30), (4, 3, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_how_much_is_read_at_a_time_does_not_count(
    shape: tuple[int, ...], dtype: torch.dtype, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.arange(360).sin()[: torch.Size(shape).numel()].reshape(shape).to(dtype)
    whole = weights_digest(model(w=values))
    monkeypatch.setattr(digest, "_CHUNK", chunk)
    assert weights_digest(model(w=values.clone())) == whole


def test_memory_layout_does_not_count() -> None:
    values = MANY[:600].reshape(20, 30)
    turned = values.t().contiguous().t()
    assert not turned.is_contiguous()
    assert weights_digest(model(w=turned)) == weights_digest(model(w=values))


def test_what_it_sees() -> None:
    """Names, shapes, types, permutations, the sign of a zero, and one unit in the last place."""
    plain, last = MANY[:600], MANY[:600].clone()
    last[333] = torch.nextafter(last[333], torch.tensor(9.0))
    zero = torch.zeros(600)
    found = [
        *(model(w=w) for w in (plain, plain.flip(0), plain.reshape(20, 30), plain.double(), last)),
        *(model(w=w) for w in (plain.bfloat16(), plain.half(), zero, -zero)),
        model(v=plain),
        model(w=plain, v=plain),
    ]
    assert len({weights_digest(each) for each in found}) == len(found)


def test_tied_weights_count_once() -> None:
    found = model(w=MANY[:600], v=MANY[:600])
    apart = weights_digest(found)
    found.module.p["v"] = found.module.p["w"]  # type: ignore[index, operator, union-attr]
    assert weights_digest(found) == weights_digest(model(v=MANY[:600])) != apart


CHANGES: dict[str, Callable[[Tensor], object]] = {
    "one weight": lambda w: w[77].add_(1e-3),
    "one weight behind torch's counter": lambda w: w.data[77].add_(1e-3),
    "one weight through numpy": lambda w: w.detach().numpy().__setitem__(77, 5.0),
    "a permutation": lambda w: w.copy_(w.flip(0).clone()),
    "other data": lambda w: setattr(w, "data", w.data.flip(0)),
    "the last byte": lambda w: w.data.view(torch.uint8)[-1].bitwise_xor_(1),
    "another type": lambda w: setattr(w, "data", w.data.bfloat16()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_changed_are_hashed_again(change: str) -> None:
    found = model(w=MANY[:601].clone())
    before = weights_digest(found)
    with torch.no_grad():
        CHANGES[change](weights(found))
    assert weights_digest(found) != before
    assert weights_digest(found) == weights_digest(model(w=weights(found).detach().clone()))


def test_a_model_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, real, hashed = model(w=MANY[:600].clone()), digest._hash, []
    monkeypatch.setattr(digest, "_hash", lambda p: hashed.append(p) or real(p))  # type: ignore[func-returns-value]
    one = weights_digest(found)
    weights(found).data[:2] = weights(found)[:2].clone()  # the same values once more
    assert weights_digest(found) == one
    assert len(hashed) == 1
    with torch.inference_mode():  # tensors made here have no counter
        other = model(w=MANY[:600].clone())
        assert weights_digest(other) == weights_digest(other) == one
