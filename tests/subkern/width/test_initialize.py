"""Models of a family at a width: roles, initial scales, sizes, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from subkern.errors import UserError
from subkern.models.logit_model import named_parameters
from subkern.prompts.prompt import EncodedExample
from subkern.width import PARAMETRIZATIONS, Perceptrons, Transformers, initialize, transformers_of
from subkern.width.families import TRANSFORMERS, Family
from tests.support.vectors import batch_of

FEATURES = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
SMALL = {"vocab_size": 30, "max_position_embeddings": 8}
CONFIG = {"model_type": "llama", **TRANSFORMERS["llama"], **SMALL, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("bert", {"input": 3, "hidden": 12, "output": 1, "vector": 22, "fixed": 1}),
        ("gpt2", {"input": 2, "hidden": 8, "output": 1, "vector": 18, "fixed": 1}),
        ("llama", {"input": 1, "hidden": 14, "output": 1, "vector": 5, "fixed": 1}),
    ],
)
def test_roles_of_transformers(name: str, counts: dict[str, int]) -> None:
    wide = initialize(transformers_of(name, 2, **SMALL), 64, "standard")
    assert Counter(wide.roles.values()) == counts
    assert wide.roles["readout.weight"] == "output"
    embeddings = [role for name, role in wide.roles.items() if "embed" in name or "wte" in name]
    assert {role for role in embeddings if role != "vector"} <= {"input"}


def families() -> list[Family]:
    return [
        Perceptrons(FEATURES, 2, gain=2**0.5, base=64),
        *(transformers_of(name, 2, **SMALL) for name in TRANSFORMERS),
    ]


@pytest.mark.parametrize("family", families(), ids=["mlp", *TRANSFORMERS])
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_weights_start_at_the_scale_of_the_base_width(family: Family, parametrization: str) -> None:
    wide, spreads = initialize(family, 256, parametrization, seed=1), family.spreads()
    power = {"hidden": -0.5, "output": -1.0 if parametrization == "mup" else -0.5}
    for name, weight in named_parameters(wide.model).items():
        wanted = spreads[name] * wide.scale ** power.get(wide.roles[name], 0.0)
        if not spreads[name]:
            assert (weight == weight.flatten()[0]).all()
        else:
            noise = 5 * (2 * weight.numel()) ** -0.5
            assert float(weight.detach().square().mean().sqrt()) == pytest.approx(wanted, rel=noise)


def test_a_seed_is_a_model_and_nothing_else_decides() -> None:
    family = transformers_of("gpt2", 2, **SMALL)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second, other = (initialize(family, 32, "ntp", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    weights = [
        named_parameters(wide.model)["h.0.mlp.c_fc.weight"] for wide in (first, second, other)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_heads_grow_and_mup_divides_scores_by_their_size(name: str) -> None:
    family = transformers_of(name, 2, **SMALL)
    for parametrization, factor in (("ntp", 0.25), ("mup", 1 / 16)):
        module = initialize(family, 128, parametrization).model.module
        assert module.config.num_attention_heads == 8
        found = [m.scaling for m in module.modules() if hasattr(m, "scaling")]
        assert found == [factor] * 2


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_scores_are_what_the_factor_is_of(name: str) -> None:
    """The function with scores over d is that with queries over √d: no forward was touched."""
    family = transformers_of(name, 2, **SMALL)
    wide = initialize(family, 64, "mup")
    ids = batch_of(8)
    ids.input_ids[:] = torch.arange(8)[:, None]
    tokens = type(ids)(ids.input_ids.T, ids.attention_mask.T, torch.tensor([7]))
    wanted = wide.model(tokens)
    with torch.no_grad():
        for module in wide.model.module.modules():
            if hasattr(module, "scaling"):
                module.scaling = 0.25
        for parameter, weight in named_parameters(wide.model).items():
            if "query.weight" in parameter or "q_proj.weight" in parameter:
                weight /= 4
            if "c_attn.weight" in parameter:
                weight[:, :64] /= 4
    torch.testing.assert_close(wide.model(tokens), wanted)


def test_a_config_file_gives_its_own_family(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG), encoding="utf-8")
    family = transformers_of(str(tmp_path), 3)
    assert (family.base, family.head_size) == (64, 16)
    config = initialize(family, 96, "ntp").model.module.config
    assert (config.num_attention_heads, config.num_key_value_heads) == (6, 3)
    assert config.intermediate_size == 384
    assert transformers_of(str(path), 3) == family


@pytest.mark.parametrize(
    ("change", "width", "message"),
    [
        ({}, 72, "width 72 is no multiple of the head size 16: use 64"),
        ({}, 0, "width 0 is no multiple of the head size 16: use 16"),
        ({}, 80, "width 80 makes num_key_value_heads 2.5: use a width that is a multiple of 32"),
        ({"model_type": "t5"}, 64, "cannot be widened: it has no one hidden_size"),
        ({"model_type": "no-such"}, 64, "is no config that transformers knows"),
        ({"model_type": None}, 64, "names no model_type"),
    ],
)
def test_what_cannot_be_built_is_one_line(
    tmp_path: Path, change: dict[str, Any], width: int, message: str
) -> None:
    values = {k: v for k, v in {**CONFIG, **change}.items() if v is not None}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        initialize(transformers_of(str(tmp_path), 2), width, "ntp")
    assert "\n" not in str(error.value)


def test_unknown_families_and_broken_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="family 'gpt5' is unknown: use mlp, bert, gpt2, llama or"):
        transformers_of("gpt5", 2)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot read"):
        transformers_of(str(tmp_path), 2)
    with pytest.raises(UserError, match="width 0 is not positive"):
        initialize(Perceptrons(FEATURES), 0, "ntp")
    with pytest.raises(UserError, match="unknown activation 'gelu'"):
        initialize(Perceptrons(FEATURES, activation="gelu"), 8, "ntp")


def test_a_model_that_does_not_grow_is_refused() -> None:
    class Stubborn(Transformers):
        def at(self, width: int) -> Any:
            return super().at(self.base)

    with pytest.raises(UserError, match="no matrix of it gives more outputs"):
        initialize(Stubborn(CONFIG), 64, "ntp")


def test_a_perceptron_reads_bags_of_tokens() -> None:
    model = initialize(Perceptrons(FEATURES, base=8), 8, "ntp").model
    bag = torch.cat([FEATURES, (FEATURES[[1]] + FEATURES[[3]]) / 2**0.5])
    wanted = initialize(Perceptrons(bag, base=8), 8, "ntp").model(batch_of(6))
    one, two = EncodedExample("a", 0, (2,), 0), EncodedExample("b", 0, (1, 3), 0)
    found = model(model.collate([one, two]))  # the first one is padded
    torch.testing.assert_close(found, wanted[[2, 5]])
