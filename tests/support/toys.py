"""Models of a few lines: one operation between fixed features and logits that mix positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from subkern.models.logit_model import LogitModel, WordReadout
from subkern.prompts.prompt import EncodedExample

VOCAB, WIDTH, CLASSES = 40, 6, 3

Use = Callable[[nn.ParameterDict, Tensor, Tensor], Tensor]
"""(parameters, features ``[b, t, WIDTH]``, ids ``[b, t]``) to ``[b, t, CLASSES or more]``."""


class Toy(nn.Module):
    """f = Σ over the tokens up to the one read of tanh(use(parameters, features, ids)).

    Args:
        use: the operation on trial.
        shapes: names and shapes of its parameters.
    """

    def __init__(self, use: Use, **shapes: Sequence[int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.use = use
        self.register_buffer("features", draw(VOCAB, WIDTH))
        self.p = nn.ParameterDict({n: nn.Parameter(0.4 * draw(*s)) for n, s in shapes.items()})

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SimpleNamespace:
        """Return logits ``[b, t, …]``: those of a position do not depend on later ones."""
        y = self.use(self.p, self.features[input_ids], input_ids)
        return SimpleNamespace(logits=torch.tanh(y).cumsum(1))


def toy(use: Use, **shapes: Sequence[int]) -> LogitModel:
    """Return f with `CLASSES` logits."""
    return LogitModel(Toy(use, **shapes), WordReadout(range(CLASSES))).eval()


def toy_examples(lengths: Sequence[int] = (5, 3, 4)) -> list[EncodedExample]:
    """Return examples that read their last token; ids repeat inside an example."""
    generator = torch.Generator().manual_seed(1)
    examples = []
    for i, n in enumerate(lengths):
        ids = torch.randint(2, 9, (n,), generator=generator).tolist()
        examples.append(EncodedExample(f"e{i}", i % 2, tuple(ids), n - 1))
    return examples
