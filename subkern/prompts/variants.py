"""Alternative prompts of the 14 tasks as data: what else one might ask, better and worse.

A variant is ``(name, template, label words)``; None stands for the task's own. Labels are in the
task's order. Variants of the pair templates and of the label words are those that Gao, Fisch and
Chen (ACL 2021, their table of manual prompts) compare, ``cat/dog`` and swapped words included:
prompts known to be worse show whether a prediction can tell.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["VARIANTS", "Variant"]

Words = tuple[str, ...]
Variant = tuple[str, str | None, Words | None]
Variants = Mapping[str, tuple[Variant, ...]]

_THIS_IS = "*cls**sent_0*_This_is*mask*.*sep+*"
_ALL_IN_ALL = "*cls**sent_0*_All_in_all,_it_was*mask*.*sep+*"
_MASK_FIRST = "*cls**mask*:*+sent_0**sep+*"

_SENTIMENT: Variants = {
    "masked": (
        ("this-is", _THIS_IS, None),
        ("all-in-all", _ALL_IN_ALL, None),
        ("mask-first", _MASK_FIRST, None),
        ("bad/good", None, ("bad", "good")),
        ("cat/dog", None, ("cat", "dog")),
        ("swapped", None, ("great", "terrible")),
    ),
    "causal": (
        ("it-was", "*sent_0*_It_was", ("terrible", "great")),
        ("this-is", "*sent_0*_This_is", ("bad", "good")),
        ("question", "*sent_0*_Is_it_good_or_bad?_It_is", ("bad", "good")),
        ("bad/good", None, ("bad", "good")),
        ("cat/dog", None, ("cat", "dog")),
        ("swapped", None, ("positive", "negative")),
    ),
}

_FIVE_ANIMALS = ("cat", "dog", "bird", "fish", "horse")
_FIVE_STARS: Variants = {
    "masked": (
        ("this-is", _THIS_IS, None),
        ("all-in-all", _ALL_IN_ALL, None),
        ("mask-first", _MASK_FIRST, None),
        ("awful/.../superb", None, ("awful", "poor", "fair", "nice", "superb")),
        ("animals", None, _FIVE_ANIMALS),
        ("swapped", None, ("great", "good", "okay", "bad", "terrible")),
    ),
    "causal": (
        ("it-was", "*sent_0*_It_was", None),
        ("sentiment", "Review:*+sent_0*_Sentiment:", None),
        ("awful/.../superb", None, ("awful", "poor", "fair", "nice", "superb")),
        ("animals", None, _FIVE_ANIMALS),
        ("swapped", None, ("great", "good", "okay", "bad", "terrible")),
    ),
}

_SUBJECTIVE: Variants = {
    "masked": (
        ("it-is", "*cls**sent_0*_It_is*mask*.*sep+*", None),
        ("sentence", "*cls*A*mask*_sentence:*+sent_0**sep+*", None),
        ("mask-first", _MASK_FIRST, None),
        ("opinion/fact", None, ("opinion", "fact")),
        ("cat/dog", None, ("cat", "dog")),
        ("swapped", None, ("objective", "subjective")),
    ),
    "causal": (
        ("this-is", "*sent_0*_This_is", None),
        ("question", "*sent_0*_Is_this_an_opinion_or_a_fact?_It_is_a", ("opinion", "fact")),
        ("opinion/fact", None, ("opinion", "fact")),
        ("cat/dog", None, ("cat", "dog")),
        ("swapped", None, ("objective", "subjective")),
    ),
}

_PLAIN_TYPES = ("description", "thing", "word", "person", "place", "number")
_SIX_ANIMALS = ("cat", "dog", "bird", "fish", "horse", "cow")
_QUESTION_TYPE: Variants = {
    "masked": (
        ("question", "*cls**mask*_question:*+sent_0**sep+*", None),
        ("asks-for", "*cls**sent_0*_This_asks_for*mask*.*sep+*", None),
        ("answer", "*cls**sent_0*_Answer:*mask*.*sep+*", None),
        ("plain-words", None, _PLAIN_TYPES),
        ("animals", None, _SIX_ANIMALS),
        (
            "swapped",
            None,
            ("Number", "Description", "Entity", "Expression", "Human", "Location"),
        ),
    ),
    "causal": (
        ("asks-for", "*sent_0*_This_asks_for_a", None),
        ("answer", "*sent_0*_The_answer_is_a", _PLAIN_TYPES),
        ("plain-words", None, _PLAIN_TYPES),
        ("animals", None, _SIX_ANIMALS),
        (
            "swapped",
            None,
            ("number", "description", "entity", "expression", "person", "location"),
        ),
    ),
}

_OTHER_TOPICS = ("international", "sport", "finance", "science")
_FOUR_ANIMALS = ("cat", "dog", "bird", "fish")
_NEWS: Variants = {
    "masked": (
        ("topic", "*cls**sent_0*_Topic:*mask*.*sep+*", None),
        ("news-first", "*cls**mask*_News:*+sent_0**sep+*", None),
        ("this-is", _THIS_IS, None),
        ("international/...", None, _OTHER_TOPICS),
        ("animals", None, _FOUR_ANIMALS),
        ("swapped", None, ("tech", "world", "sports", "business")),
    ),
    "causal": (
        ("about", "*sent_0*_This_article_is_about", None),
        ("section", "*sent_0*_Section:", None),
        ("international/...", None, _OTHER_TOPICS),
        ("animals", None, _FOUR_ANIMALS),
        ("swapped", None, ("technology", "world", "sports", "business")),
    ),
}


def _pair_templates(last: str) -> tuple[Variant, ...]:
    """Return other templates for two texts; ``last`` ends the first text in the task's own."""
    return (
        ("full-stop", "*cls**sent-_0*.*mask*,*+sentl_1**sep+*", None),
        ("no-comma", f"*cls*{last}*mask**+sentl_1**sep+*", None),
        ("mask-last", "*cls**sent_0**+sent_1**mask**sep+*", None),
        ("reversed", f"*cls*{last.replace('_0', '_1')}*mask*,*+sentl_0**sep+*", None),
    )


_THREE_ANIMALS = ("cat", "dog", "bird")
_NLI: Variants = {
    "masked": (
        *_pair_templates("*sent-_0*?"),
        ("wrong/right", None, ("Wrong", "Right", "Perhaps")),
        ("animals", None, _THREE_ANIMALS),
        ("swapped", None, ("Yes", "No", "Maybe")),
    ),
    "causal": (
        ("does-it-mean", "*sent_0*_Does_it_mean_that*+sentl_1*_Answer:", ("no", "yes", "maybe")),
        ("therefore", "*sent_0*_Therefore:*+sent_1*_This_is", None),
        ("no/yes", None, ("no", "yes", "maybe")),
        ("animals", None, _THREE_ANIMALS),
        ("swapped", None, ("true", "false", "unknown")),
    ),
}


def _two_way(
    last: str, words: Words, causal: tuple[Variant, ...], causal_swapped: Words
) -> Variants:
    """Return the variants of a two-way task on two texts; ``words`` are the masked ones."""
    right = {"No": "Wrong", "Yes": "Right"}
    return {
        "masked": (
            *_pair_templates(last),
            ("wrong/right", None, tuple(right[word] for word in words)),
            ("cat/dog", None, ("cat", "dog")),
            ("swapped", None, words[::-1]),
        ),
        "causal": (
            *causal,
            ("cat/dog", None, ("cat", "dog")),
            ("swapped", None, causal_swapped),
        ),
    }


_ANSWERED = _two_way(
    "*sent-_0*?",
    ("Yes", "No"),
    (
        ("text-first", "*sent_1*_Does_this_answer:*+sentl_0*_Answer:", None),
        ("true/false", None, ("true", "false")),
    ),
    ("No", "Yes"),
)
_ENTAILED = _two_way(
    "*sent-_0*?",
    ("Yes", "No"),
    (
        ("does-it-mean", "*sent_0*_Does_it_mean_that*+sentl_1*_Answer:", ("yes", "no")),
        ("therefore", "*sent_0*_Therefore:*+sent_1*_This_is", None),
        ("yes/no", None, ("yes", "no")),
    ),
    ("false", "true"),
)
_SAME = _two_way(
    "*sent_0*",
    ("No", "Yes"),
    (
        ("in-other-words", "*sent_0*_In_other_words:*+sent_1*_Right?_Answer:", None),
        ("false/true", None, ("false", "true")),
    ),
    ("Yes", "No"),
)

VARIANTS: Mapping[str, Variants] = {
    **dict.fromkeys(("SST-2", "mr", "cr", "mpqa"), _SENTIMENT),
    "sst-5": _FIVE_STARS,
    "subj": _SUBJECTIVE,
    "trec": _QUESTION_TYPE,
    "ag_news": _NEWS,
    **dict.fromkeys(("MNLI", "SNLI"), _NLI),
    "QNLI": _ANSWERED,
    "RTE": _ENTAILED,
    **dict.fromkeys(("MRPC", "QQP"), _SAME),
}
"""Task name -> prompt style (``masked``, ``causal``) -> variants beside the task's own prompt."""
