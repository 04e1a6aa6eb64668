"""One-line forms of subspaces, and that the command line lists every one."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import cli
from subkern import UserError
from subkern.subspaces.base import AtCheckpoint, Full, ParameterSubset, Peft, Subspace
from subkern.subspaces.lora import Lora
from subkern.subspaces.parameter_groups import GROUPS, LastLayers, ParameterGroup
from subkern.subspaces.text import FORMS, PARSERS, parse_subspace

LORA = peft.LoraConfig(r=4, lora_alpha=8.0, target_modules="all-linear", use_rslora=False)


def lora_with(**changes: object) -> peft.LoraConfig:
    config = peft.LoraConfig(**{**LORA.to_dict(), **changes})  # type: ignore[arg-type]
    config.lora_alpha = changes.get("lora_alpha", 8.0)  # type: ignore[assignment]
    return config


FORMS_OF: dict[str, Subspace] = {
    **{group: ParameterGroup(group) for group in GROUPS},
    "last:2": LastLayers(2),
    "lora:r=4,dora=true": Peft(lora_with(use_dora=True), 0, "lora"),
    "lora:r=4,init=pissa,seed=3": Peft(lora_with(init_lora_weights="pissa"), 3, "lora"),
    "ia3": Peft(peft.IA3Config(), 0, "ia3"),
    "ia3:targets=k+v+o,feedforward=o": Peft(
        peft.IA3Config(target_modules=["k", "v", "o"], feedforward_modules=["o"]), 0, "ia3"
    ),
    "vera:r=16,seed=2": Peft(
        peft.VeraConfig(r=16, target_modules="all-linear", projection_prng_key=2), 2, "vera"
    ),
    "loha:r=3,alpha=6": Peft(
        peft.LoHaConfig(r=3, alpha=6.0, target_modules="all-linear"),  # type: ignore[arg-type]
        0,
        "loha",
    ),
    "lokr:factor=4,targets=.*q_proj": Peft(
        peft.LoKrConfig(decompose_factor=4, target_modules=".*q_proj"), 0, "lokr"
    ),
    "oft:block=16": Peft(peft.OFTConfig(oft_block_size=16, target_modules="all-linear"), 0, "oft"),
    "boft:block=8,factors=2": Peft(
        peft.BOFTConfig(boft_block_size=8, boft_n_butterfly_factor=2, target_modules="all-linear"),
        0,
        "boft",
    ),
    "prompt:n=5": Peft(peft.PromptTuningConfig(num_virtual_tokens=5), 0, "prompt"),
    "prefix:n=5,projection=true,seed=1": Peft(
        peft.PrefixTuningConfig(num_virtual_tokens=5, prefix_projection=True), 1, "prefix"
    ),
    "ln": Peft(peft.LNTuningConfig(), 0, "ln"),
}


@pytest.mark.parametrize("text", FORMS_OF)
def test_one_line_forms(text: str) -> None:
    assert parse_subspace(text) == FORMS_OF[text]
    assert json.loads(json.dumps(FORMS_OF[text].describe())) == FORMS_OF[text].describe()


def test_every_kind_has_a_form_that_parses() -> None:
    assert FORMS.keys() == PARSERS.keys()
    assert set(GROUPS) < set(FORMS)
    for kind, form in FORMS.items():
        text = {"last:N": "last:1", "params:REGEX": "params:q"}.get(form, form)
        assert isinstance(parse_subspace(text), Subspace), kind


def test_the_command_line_lists_every_kind() -> None:
    shown = CliRunner().invoke(cli.cli, ["kernel", "--help"]).output
    for form in FORMS.values():
        assert form in "".join(shown.split())


@pytest.mark.parametrize(
    ("line", "subspace"),
    [
        ("full", Full()),
        ("lora:r=2,targets=q_proj+v_proj", Lora(2, targets=("q_proj", "v_proj"))),
        (r"params:layer\.1", ParameterSubset(r"layer\.1")),
    ],
)
def test_a_checkpoint_follows_the_first_at_sign(
    line: str, subspace: Subspace, tmp_path: Path
) -> None:
    file = tmp_path / "step@50.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    assert parse_subspace(f"{line}@{file}") == AtCheckpoint(subspace, str(file))


WRONG = {
    "full@": r"^'full@' names no checkpoint: write full@path/to/checkpoint$",
    "full@/no/such/place": r"^there is no checkpoint '/no/such/place'$",
    "norm:1": r"^unknown subspace 'norm:1': norm takes no argument$",
    "last": r"^last:'' is not a number of layers: write last:2$",
    "last:two": r"^last:'two' is not a number",
    "last:-1": r"^last -1 layers is not positive",
    "params:": r"^unknown subspace 'params:': give a regular expression",
    "vera:rank=2": r"^unknown option .rank=2. of vera: write key=value with r, d_initial, targets",
    "prompt:n=many": r"^option n='many' of prompt is not a whole number from 1$",
    "prompt:n=0": r"^option n='0' of prompt is not a whole number from 1$",
    "vera:r=0": r"^option r='0' of vera is not a whole number from 1$",
    "boft:factors=-1": r"^option factors='-1' of boft is not a whole number from 1$",
    "prefix:projection=1": r"^option projection='1' of prefix is not true or false$",
    "ia3:targets=k,feedforward=o": r"^PEFT refuses 'ia3:.*subset",
    "vera:targets=qv": r"^targets=qv is for plain lora: name layers here, or all-linear$",
    "lora:targets=mlp,dora=true": r"^targets=mlp is for plain lora",
    "lora:r=4,r=2": r"^option r of LoRA stands twice in 'r=4,r=2': give it once$",
    "lora:seed=-1": r"^option seed='-1' of LoRA is not a whole number from 0 to",
    "lora:seed=4294967296": r"^option seed='4294967296' of LoRA is not a whole number",
    "vera:seed=-1": r"^option seed='-1' of vera",
    "lora:alpha=nan": r"^option alpha='nan' of LoRA is not a finite number above 0$",
    "lora:alpha=inf": r"^option alpha='inf' of LoRA",
    "loha:alpha=1e999": r"^option alpha='1e999' of loha",
    "lora:alpha=0": r"^option alpha='0' of LoRA is not a finite number above 0$",
    "lora:init=loftq": r"^init 'loftq' of LoRA is unknown here: use gaussian",
    "lora:init=": r"^init '' of LoRA is unknown here",
    "lora:": r"^'lora:' has nothing after its colon",
    "random:dim=10,seed=-1": r"^option seed='-1' of random",
    "random:dim=10,dim=20": r"^option dim of random stands twice",
    "oft:block=0": r"^option block='0' of oft is not a whole number from 1$",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_subspace_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=WRONG[text]) as caught:
        parse_subspace(text)
    assert "\n" not in str(caught.value)
