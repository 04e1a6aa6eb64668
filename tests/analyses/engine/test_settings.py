"""Settings that studies share, as YAML gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analyses.behavior import config as behavior_config
from analyses.engine.settings import Settings, number, numbers, rates
from analyses.lora import config as lora_config
from analyses.prompting import config as prompting_config
from subkern.errors import UserError


def read(kind: type[Settings], folder: Path, text: str) -> Any:
    """Return the settings of a YAML file that holds ``text``."""
    path = folder / "settings.yaml"
    path.write_text(f"model: m\ntask: mr\n{text}\n")
    return kind.from_file(path)


@pytest.mark.parametrize("kind", [prompting_config.Config, behavior_config.Config])
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[5e-5, 1e-5, 0.001, 1e-5]", (1e-5, 5e-5, 1e-3)),
        ("1e-5", (1e-5,)),
        ("0.001", (1e-3,)),
        ("1", (1.0,)),
    ],
)
def test_learning_rates_as_people_write_them(
    tmp_path: Path, kind: type[Settings], text: str, found: tuple[float, ...]
) -> None:
    assert read(kind, tmp_path, f"learning_rates: {text}").learning_rates == found


def test_numbers_without_a_point(tmp_path: Path) -> None:
    behavior = read(behavior_config.Config, tmp_path, "optimizer: adam\nepsilon: 1e-8\ncka: 9e-1")
    assert (behavior.epsilon, behavior.cka) == (1e-8, 0.9)
    assert behavior.rule == "asymmetric_adam:eps=1e-08"
    lora = read(lora_config.Config, tmp_path, "max_drop: 1e-2\nalpha: 16\nconfidence: 9e-1")
    assert (lora.max_drop, lora.alpha, lora.confidence) == (0.01, 16.0, 0.9)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (prompting_config.Config, "learning_rates: fast", "learning_rates holds 'fast': give a"),
        (prompting_config.Config, "learning_rates: [1e-5, -1]", "learning_rates holds -1.0"),
        (prompting_config.Config, "learning_rates: [.inf]", "learning_rates holds inf"),
        (prompting_config.Config, "learning_rates: yes", "learning_rates holds True"),
        (prompting_config.Config, "learning_rates: []", "learning_rates is empty"),
        (prompting_config.Config, "steps: 2e2", "steps holds '2e2': give whole numbers"),
        (prompting_config.Config, "batch_sizes: 8.5", "batch_sizes holds 8.5: give whole numbers"),
        (behavior_config.Config, "epsilon: small", "epsilon holds 'small'"),
        (lora_config.Config, "alpha: .nan", "alpha holds nan"),
        (lora_config.Config, "max_drop: [0.1]", r"max_drop holds \[0.1\]"),
    ],
)
def test_what_is_no_number_gets_one_line(
    tmp_path: Path, kind: type[Settings], text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        read(kind, tmp_path, text)
    assert "\n" not in str(error.value)


def test_the_parsers_alone() -> None:
    assert number("alpha", "1e-3") == 1e-3
    assert numbers("rates", ["1e-3", 1]) == (1e-3, 1.0)
    assert numbers("rates", "1e-3") == (1e-3,)
    assert rates("rates", (2, "1", 2.0)) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (behavior_config.Config, "optimizer: adam\nepsilon: .inf", "^epsilon holds inf"),
        (behavior_config.Config, "optimizer: adam\nepsilon: -1", "^epsilon is -1.0"),
        (behavior_config.Config, "rule: 1", "^rule holds 1: give text"),
        (prompting_config.Config, "steps: ten", "^steps holds 'ten'"),
        (prompting_config.Config, "finetune: [[1]]", r"^finetune holds \[\[1\]\]: give true"),
        (lora_config.Config, "rslora: '!!'", "^rslora holds '!!': give true or false"),
        (lora_config.Config, "ranks: [[1]]", r"^ranks holds \[\[1\]\]"),
        (lora_config.Config, "data_seeds: [-1]", "^data_seeds holds -1"),
        (lora_config.Config, "adapter_seeds: 1000000", "^adapter_seeds is 1000000"),
        (lora_config.Config, "memory: lots", "^memory 'lots' is not a size"),
        (lora_config.Config, "batch_size: 0", "^batch size 0 is not positive"),
        (lora_config.Config, "data: ''", "^data is ''"),
    ],
)
def test_loose_settings_are_one_line(
    tmp_path: Path, kind: type[Settings], text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read(kind, tmp_path, text)
    assert "\n" not in str(caught.value)


def test_label_words_may_be_one_text(tmp_path: Path) -> None:
    found = read(lora_config.Config, tmp_path, "label_words: bad,good")
    assert found.label_words == ("bad", "good")
