"""What models of every width read: the training examples, in a vocabulary of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from subkern.models.load import DTYPES, load_prompt
from subkern.prompts.prompt import EncodedExample
from subkern.tasks.examples import Example
from subkern.width import Perceptrons, transformers_of
from subkern.width.families import Family

from ..engine.inputs import Inputs
from .config import MLP, SYNTHETIC, Config
from .synthetic import TOKENS, tokens_of

__all__ = ["BASE", "Reading", "read_all"]

BASE = 64
"""Base width of the MLP, as of the named transformers."""

_FEATURES = 32  # numbers a token that the MLP reads


@dataclass(frozen=True)
class Reading:
    """Models, and what they read.

    Attributes:
        family: the models of every width.
        examples: of training, by data seed.
    """

    family: Family
    examples: Mapping[int, Sequence[EncodedExample]]


def read_all(config: Config, inputs: Inputs) -> Reading:
    """Encode the training examples, and refuse families and widths that there are not.

    The MLP reads every token by fixed features of its own. Transformers have rows for the tokens
    that occur, and one for padding: others would get no gradient.

    Raises:
        UserError: no such family, width or tokenizer.
    """
    classes = 1 if inputs.logits == "binary" else len(inputs.task.labels)
    if config.task == SYNTHETIC:
        tokens, found = TOKENS, {s: _synthetic(e["train"]) for s, e in inputs.splits.items()}
    else:
        task = replace(inputs.task, max_length=min(inputs.task.max_length, config.max_length))
        prompt = load_prompt(config.model, task=task, head="linear", revision=config.revision)
        tokens = len(prompt.tokenizer)
        found = {s: prompt.encode_all(e["train"]) for s, e in inputs.splits.items()}
    if config.family == MLP:
        return Reading(_perceptrons(config, tokens, classes), _map(found, _in_one))
    used = sorted({token for each in found.values() for e in each for token in e.input_ids})
    rows = {token: row for row, token in enumerate(used, start=1)}
    longest = max(len(e.input_ids) for each in found.values() for e in each)
    family = transformers_of(
        config.family, classes, longest, vocab_size=len(rows) + 1, pad_token_id=0, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    for width in config.widths:
        family.at(width)
    family = replace(family, dtype=DTYPES[config.dtype])
    return Reading(family, _map(found, lambda e: _in_rows(e, rows)))


def _perceptrons(config: Config, tokens: int, classes: int) -> Perceptrons:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(tokens, _FEATURES, generator=generator, dtype=torch.float64)
    gain = math.sqrt(2) if config.activation == "relu" else 1.0
    features = table.to(DTYPES[config.dtype])
    return Perceptrons(features, classes, config.depth, config.activation, gain, BASE)


def _synthetic(examples: Sequence[Example]) -> list[EncodedExample]:
    return [EncodedExample(e.id, e.label, tokens_of(e), 0) for e in examples]


def _in_one(example: EncodedExample) -> EncodedExample:
    """Return the bag that the MLP reads."""
    return replace(example, read=0)


def _in_rows(example: EncodedExample, rows: Mapping[int, int]) -> EncodedExample:
    """Return an example by the rows of its tokens, read at the last."""
    ids = tuple(rows[token] for token in example.input_ids)
    return replace(example, input_ids=ids, read=len(ids) - 1)


def _map(
    examples: Mapping[int, Sequence[EncodedExample]],
    change: Callable[[EncodedExample], EncodedExample],
) -> dict[int, list[EncodedExample]]:
    return {seed: [change(each) for each in own] for seed, own in examples.items()}
