"""Every question that ``subkern analyze`` asks of one task, by its name."""

from __future__ import annotations

from typing import Any

from .behavior.study import BehaviorStudy
from .learning_rate.study import LearningRateStudy
from .lora.study import LoraStudy
from .prompting.study import PromptingStudy
from .study import Study
from .subspace.study import SubspaceStudy
from .width.study import WidthStudy

STUDIES: dict[str, type[Study[Any, Any]]] = {
    study.name: study
    for study in (
        LoraStudy,
        SubspaceStudy,
        PromptingStudy,
        BehaviorStudy,
        LearningRateStudy,
        WidthStudy,
    )
}
