"""Label words as token ids: one token each, taken with a leading space."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from subkern.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["label_token_ids", "token_id", "tokenizer_name", "tokens_of_labels"]

_NO_SPACE = ("<", "[", ".", ",")  # LM-BFF looks such words up as they are


def label_token_ids(
    task_name: str, words: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """Return the token id of each label word, in order.

    Raises:
        UserError: a word of several tokens, unknown to the tokenizer, or the same as another.
    """
    ids: list[int] = []
    for word in words:
        tokens = _pieces(word, tokenizer)
        if len(tokens) != 1:
            shown = " + ".join(f"'{_shown(t, tokenizer)}'" for t in tokens) or "nothing"
            raise UserError(
                f"label word '{word}' of task {task_name} is {len(tokens)} tokens ({shown}) for "
                f"{tokenizer_name(tokenizer)}, it must be one: {_suggestion(word, tokenizer)}"
            )
        token = token_id(tokenizer, tokens[0])
        if token is None or (token == tokenizer.unk_token_id and word != tokenizer.unk_token):
            raise UserError(
                f"label word '{word}' of task {task_name} is not in the vocabulary of "
                f"{tokenizer_name(tokenizer)}: choose another word"
            )
        if token in ids:
            raise UserError(
                f"label words '{words[ids.index(token)]}' and '{word}' of task {task_name} are the "
                f"same token for {tokenizer_name(tokenizer)}: choose different words"
            )
        ids.append(token)
    return tuple(ids)


def tokens_of_labels(
    task_name: str, labels: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of each label, of any number, as it stands after a space.

    Raises:
        UserError: a label without tokens, or the same as another or as its beginning.
    """
    found = [
        tuple(tokenizer.convert_tokens_to_ids(_pieces(label, tokenizer)))  # type: ignore[arg-type]
        for label in labels
    ]
    for label, ids in zip(labels, found, strict=True):
        if not ids or tokenizer.unk_token_id in ids:
            raise UserError(
                f"label '{label}' of task {task_name} is not in the vocabulary of"
                f" {tokenizer_name(tokenizer)}: choose another"
            )
        if found.count(ids) > 1:
            raise UserError(
                f"label '{label}' of task {task_name} has the tokens of another for"
                f" {tokenizer_name(tokenizer)}: choose different ones"
            )
    return tuple(found)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int | None:
    """Return the id of a vocabulary entry; the unknown token's, or ``None``, if it is not one."""
    found = tokenizer.convert_tokens_to_ids(token)
    return found if isinstance(found, int) else None


def tokenizer_name(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return how errors call a tokenizer: by where it came from, else by its class."""
    return str(getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__)


def _pieces(word: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the tokens of a word, after a space unless it is punctuation or a special token."""
    if word.startswith(_NO_SPACE):
        return [word]
    tokens = tokenizer.tokenize(" " + word)
    if len(tokens) == 2 and tokens[0] == "▁":  # SentencePiece brings its own leading space
        alone = tokenizer.tokenize(word)
        if len(alone) == 1 and alone[0].startswith("▁"):
            return list(alone)
    return list(tokens)


def _shown(token: str, tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.convert_tokens_to_string([token])) or token


def _suggestion(word: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Name words of one token: other casings first, then those spelt most like it."""
    casings = (word.lower(), word.capitalize(), word.upper())
    stems = (token.lstrip("Ġ▁") for token in tokenizer.get_vocab())
    start = word[:2].lower()
    alike = {stem for stem in stems if stem.isalpha() and stem.lower().startswith(start)}
    close = get_close_matches(word.lower(), sorted(alike), n=8, cutoff=0.5)
    found = [w for w in dict.fromkeys((*casings, *close)) if w != word and _is_one(w, tokenizer)]
    if not found:
        return "choose a shorter or more common word"
    return "single-token alternatives: " + ", ".join(f"'{w}'" for w in found[:3])


def _is_one(word: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    tokens = _pieces(word, tokenizer)
    return len(tokens) == 1 and token_id(tokenizer, tokens[0]) not in (None, tokenizer.unk_token_id)
