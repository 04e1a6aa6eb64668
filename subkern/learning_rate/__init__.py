"""The learning rate of a configuration, from the function itself, before training.

    from subkern.learning_rate import suggest

    found = suggest(model, train, subspace="lora:r=8", optimizer="adam", batch_size=8)
    found.suggested, found.spike, found.grid, found.warning

With u what the optimizer's first update subtracts at learning rate 1 and J the Jacobian of the
logits, rate₀ = 1/RMS(J(θ₀)u₀) is the learning rate at which one step changes the function by 1;
rate₁ = 1/RMS(J(θ₁)u₁) is the same after that step, θ₁ = θ₀ − rate₀u₀, on the next batches. Rate₁ is
what training can take: where LoRA starts, at B = 0, half of what it trains does not yet act.
"""

from __future__ import annotations

from subkern.learning_rate.measure import NoSuggestion, check_asked, suggest
from subkern.learning_rate.suggestion import Suggestion

__all__ = ["NoSuggestion", "Suggestion", "check_asked", "suggest"]
