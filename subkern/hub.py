"""Whether the Hugging Face hub is there: its libraries try each file for half a minute if not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache

_PATIENCE = 10.0  # seconds that the hub has for its first answer


def hub_answers() -> bool:
    """Whether the hub is there, asked at most once a minute.

    False too where ``HF_HUB_OFFLINE`` says so.
    """
    return _answers(int(time.monotonic() // 60))


@lru_cache(maxsize=1)
def _answers(_minute: int) -> bool:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # of many kinds, by what stands between
        return False
    return True


@contextmanager
def cache_only_if_silent() -> Iterator[None]:
    """Inside, a hub that does not answer is not asked: libraries use what their cache has."""
    if hub_answers():
        yield
        return
    from unittest.mock import patch

    import datasets.config
    import huggingface_hub.constants

    with ExitStack() as stack:
        for settings in (huggingface_hub.constants, datasets.config):
            stack.enter_context(patch.object(settings, "HF_HUB_OFFLINE", True))
        yield
