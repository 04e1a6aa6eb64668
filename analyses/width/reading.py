"""What models of every width read: the training examples, in a vocabulary of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    """What is read, and by which models.

    Attributes:
        examples: of training, by data seed; their ids are rows of `tokens`, plus 1.
        tokens: that occur, of the `known`.
        known: how many the tokenizer knows.
        classes: logits.
    """

    examples: Mapping[int, Sequence[EncodedExample]]
    tokens: Sequence[int]
    known: int
    classes: int

    def family(self, config: Config) -> Family:
        """Return the models of every width.

        The MLP reads every token by fixed features of its own. Transformers have rows for the
        tokens that occur, and row 0 for padding: others would get no gradient.

        Raises:
            UserError: there is no such family or width.
        """
        dtype = DTYPES[config.dtype]
        if config.family == MLP:
            generator = torch.Generator().manual_seed(0)
            table = torch.randn(self.known, _FEATURES, generator=generator, dtype=torch.float64)
            own = torch.cat([torch.zeros(1, _FEATURES).to(table), table[list(self.tokens)]])
            gain = math.sqrt(2) if config.activation == "relu" else 1.0
            shape = (self.classes, config.depth, config.activation, gain, BASE)
            return Perceptrons(own.to(dtype), *shape)
        lengths = (len(e.input_ids) for each in self.examples.values() for e in each)
        longest = max(4, *lengths)  # models are asked at up to four positions what they take
        found = transformers_of(
            config.family, self.classes, longest, vocab_size=len(self.tokens) + 1,
            pad_token_id=0, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        for width in config.widths:
            found.at(width)
        return replace(found, dtype=dtype)


def read_all(config: Config, inputs: Inputs) -> Reading:
    """Encode the training examples; a bag for the MLP, else read at the last token.

    Raises:
        UserError: there is no such tokenizer.
    """
    classes = 1 if inputs.logits == "binary" else len(inputs.task.labels)
    if config.task == SYNTHETIC:
        known, found = TOKENS, {s: _synthetic(e["train"]) for s, e in inputs.splits.items()}
    else:
        task = replace(inputs.task, max_length=min(inputs.task.max_length, config.max_length))
        prompt = load_prompt(config.model, task=task, head="linear", revision=config.revision)
        known = len(prompt.tokenizer)
        found = {s: prompt.encode_all(e["train"]) for s, e in inputs.splits.items()}
    tokens = sorted({token for each in found.values() for e in each for token in e.input_ids})
    rows = {token: row for row, token in enumerate(tokens, start=1)}

    def by_row(example: EncodedExample) -> EncodedExample:
        ids = tuple(rows[token] for token in example.input_ids)
        return replace(example, input_ids=ids, read=0 if config.family == MLP else len(ids) - 1)

    examples = {seed: [by_row(each) for each in own] for seed, own in found.items()}
    return Reading(examples, tokens, known, classes)


def _synthetic(examples: Sequence[Example]) -> list[EncodedExample]:
    return [EncodedExample(e.id, e.label, tokens_of(e), 0) for e in examples]
