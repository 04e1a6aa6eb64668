"""Every PEFT method on every kind of model: the kernel at its start equals autograd's.

The oracle wraps a second copy of the model with PEFT alone and differentiates one example at a
time. Methods that take their start out of a float64 weight (PiSSA, OLoRA) are held to what
defines them: f does not change, and A and B are those that PEFT finds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer

from subkern import UserError
from subkern.features.features import compute_features
from subkern.kernels.compute import compute_kernel
from subkern.kernels.request import RunOptions
from subkern.kernels.sweeps.dimensions import sweep_dimensions
from subkern.kernels.sweeps.lora import LoraGrid, sweep_lora, sweep_targets
from subkern.models.logit_model import LogitModel
from subkern.subspaces.base import ParameterSubset, Peft
from subkern.subspaces.parameter_groups import ParameterGroup
from subkern.subspaces.random import RandomSubspace
from subkern.subspaces.text import parse_subspace
from tests.support import oracles
from tests.support.families import FAMILIES, Family, case_id, random_examples

BY_NAME = {(f.name, f.kind): f for f in FAMILIES}
MODELS = [
    BY_NAME[key]
    for key in (("bert", "masked"), ("roberta", "encoder"), ("gpt2", "causal"), ("llama", "causal"))
]
LLAMA, GPT2 = BY_NAME["llama", "causal"], BY_NAME["gpt2", "causal"]
ALL = {"target_modules": "all-linear"}
NO_CONV1D = ("loha", "lokr", "oft", "boft")  # PEFT has no such layer for GPT-2

METHODS: dict[str, Callable[[], peft.PeftConfig]] = {
    "rslora": lambda: peft.LoraConfig(r=3, lora_alpha=5, use_rslora=True, **ALL),
    "dora": lambda: peft.LoraConfig(r=3, use_dora=True, **ALL),
    "ia3": lambda: peft.IA3Config(),
    "vera": lambda: peft.VeraConfig(r=4, **ALL),
    "loha": lambda: peft.LoHaConfig(r=2, **ALL),
    "lokr": lambda: peft.LoKrConfig(r=2, decompose_factor=2, **ALL),
    "oft": lambda: peft.OFTConfig(oft_block_size=4, **ALL),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, **ALL),
}
each_model = pytest.mark.parametrize("family", MODELS, ids=case_id)


def sides(family: Family) -> tuple[list, list]:
    """Return left and right examples; one stands on both sides."""
    batch = random_examples(4, read=family.read)
    return batch[:3], batch[2:]


@each_model
@pytest.mark.parametrize("method", METHODS)
def test_a_method_equals_autograd_on_the_wrapped_model(method: str, family: Family) -> None:
    model, (left, right), subspace = (
        oracles.logit_model(family),
        sides(family),
        Peft(METHODS[method](), 5),
    )
    if method in NO_CONV1D and family is GPT2:
        with pytest.raises(
            UserError, match=r"^PEFT's \w+ adapts no Conv1D, as this model has: use"
        ):
            subspace.attach(model)
        return
    reference = oracles.peft_model(family, METHODS[method](), seed=5)
    kernel = compute_kernel(model, left, right, subspace=subspace)
    assert oracles.error(kernel.values, oracles.trained_kernel(reference, left, right)) <= 1e-8


@each_model
def test_ln_tuning_is_the_norms_of_the_model(family: Family) -> None:
    model, (left, right) = oracles.logit_model(family), sides(family)
    group = ParameterGroup("norm").attach(model)
    tuned = Peft(peft.LNTuningConfig()).attach(model)
    beside = sum(tuned.parameters[n].numel() for n in tuned.beside)
    assert tuned.size == group.size + beside
    kernel = compute_kernel(model, left, right, subspace="ln").values
    parts = [compute_kernel(model, left, right, subspace=ParameterGroup("norm")).values]
    if beside:
        readout = ParameterSubset(r"^readout\.")
        parts.append(compute_kernel(model, left, right, subspace=readout).values)
    assert oracles.error(kernel, np.sum(parts, axis=0)) <= 1e-10


def factors(model: LogitModel) -> dict[str, torch.Tensor]:
    """Return A and B of every adapted layer."""
    found = {}
    for name, layer in model.module.named_modules():
        if isinstance(layer, LoraLayer):
            found[name + ".A"] = layer.lora_A["default"].weight.detach()
            found[name + ".B"] = layer.lora_B["default"].weight.detach()
    return found


@each_model
@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_inits_from_the_weights_keep_f_in_float64(init: str, family: Family) -> None:
    config = peft.LoraConfig(r=3, lora_alpha=5, init_lora_weights=init, **ALL)  # type: ignore[arg-type]
    model, (left, right) = oracles.logit_model(family), sides(family)
    if init == "olora" and family is GPT2:
        with pytest.raises(
            UserError, match=r"^PEFT's OLoRA .* Conv1D 'transformer.h.0.attn.c_attn'"
        ):
            Peft(config).attach(model)
        return
    kernel = compute_kernel(model, left, right, subspace=Peft(config))
    with torch.no_grad():
        start = model(model.collate(left)).numpy()
    np.testing.assert_allclose(kernel.left_logits, start, rtol=1e-12, atol=1e-13)

    attached = Peft(config).attach(model).model
    assert oracles.error(kernel.values, oracles.trained_kernel(attached, left, right)) <= 1e-8
    theirs = oracles.logit_model(family, dtype=torch.float32)
    peft.get_peft_model(theirs.module, config)
    for name, value in factors(attached).items():
        assert float(value.abs().max()) > 0.01
        torch.testing.assert_close(value.float(), factors(theirs)[name], rtol=1e-5, atol=1e-6)


def vera_of_zero() -> peft.PeftConfig:
    return peft.VeraConfig(r=4, d_initial=0.0, **ALL)


def ia3_of_nothing_read() -> peft.PeftConfig:
    """Adapt BERT's pooler, which no readout sees."""
    return peft.IA3Config(target_modules=["pooler.dense"], feedforward_modules=[])


DEAD = [
    (LLAMA, vera_of_zero, "VERA"),
    (BY_NAME["bert", "encoder"], vera_of_zero, "VERA"),  # the readout beside it has a gradient
    (BY_NAME["bert", "encoder"], ia3_of_nothing_read, "IA3"),
]


@pytest.mark.parametrize(("family", "config", "name"), DEAD)
@pytest.mark.parametrize("engine", ["factors", "reference"])
def test_a_method_dead_at_its_start_says_so(
    family: Family, config: Callable[[], peft.PeftConfig], name: str, engine: str
) -> None:
    message = rf"^kernel of {name} at its initialization is identically zero: no logit moves with "
    with pytest.raises(UserError, match=message) as caught:
        compute_kernel(
            oracles.logit_model(family), sides(family)[0], subspace=Peft(config()), engine=engine
        )
    assert "\n" not in str(caught.value)


def test_a_subset_that_no_logit_depends_on_says_so() -> None:
    model = oracles.logit_model(BY_NAME["bert", "encoder"])
    with pytest.raises(UserError, match=r"^kernel of subset 'pooler' .* identically zero"):
        compute_kernel(model, sides(BY_NAME["bert", "encoder"])[0], subspace="params:pooler")


def of_the_pooler(model: LogitModel, batch: list, out: Path) -> list[Callable[[], object]]:
    """Return the other ways to a kernel over BERT's pooler, which no readout sees."""
    pooler, subset = ("pooler.dense",), "params:pooler"
    random = RandomSubspace(4, inner=parse_subspace(subset))
    return [
        lambda: compute_kernel(model, batch, subspace=random),
        lambda: sweep_dimensions(model, batch, dims=(4,), inner=subset),
        lambda: compute_features(model, batch, subspace=random, out=out),
        lambda: sweep_lora(model, batch, grid=LoraGrid((1,), (0,), pooler)),
        lambda: sweep_targets(model, batch, sets={"a": "qv", "b": pooler}, grid=LoraGrid((1,))),
    ]


def test_sweeps_and_features_that_are_dead_say_so_too(tmp_path: Path) -> None:
    family = BY_NAME["bert", "encoder"]
    ways = of_the_pooler(oracles.logit_model(family), sides(family)[0], tmp_path / "features")
    names = [
        *3 * ["^kernel of subset 'pooler'"],
        "^kernel of LORA",
        "^target set 'b': kernel of LO",
    ]
    for way, name in zip(ways, names, strict=True):
        with pytest.raises(UserError, match=rf"{name}.* at its initialization is identically zero"):
            way()
    assert not (tmp_path / "features").exists()


def test_one_example_with_a_gradient_is_enough() -> None:
    """Only the longest example reaches the last position, so others have a gradient of zero."""
    model = oracles.logit_model(GPT2)
    batch = random_examples(3, lengths=(3, 3, 8))

    mask = torch.zeros(40, 1, dtype=torch.float64)
    mask[7] = 1
    table = model.module.transformer.wpe
    table.register_forward_hook(
        lambda _, args, out: out.detach() + mask[args[0]] * (out - out.detach())
    )
    kernel = compute_kernel(model, batch, subspace="params:wpe", options=RunOptions(1))
    norms = np.einsum("icic->i", kernel.values)
    assert norms[2] > 0
    assert (norms[:2] == 0).all()


def test_an_undefined_gradient_is_refused() -> None:
    """A root of 0 is 0, and its slope is infinite."""
    model, batch = oracles.logit_model(LLAMA), sides(LLAMA)[0]
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    model.module.root = weight
    norm = model.module.model.norm
    norm.register_forward_hook(lambda _, args, out: out + weight.sqrt())
    with pytest.raises(
        UserError, match=r"^kernel of subset 'root' .* is undefined: the gradient of"
    ):
        compute_kernel(model, batch, subspace="params:root")


@pytest.mark.filterwarnings("default")
def test_a_block_is_what_it_is_called_and_peft_is_quiet(recwarn: pytest.WarningsRecorder) -> None:
    """PEFT takes another block where this one does not divide a width, with a warning."""
    model = oracles.logit_model(LLAMA)
    wide = peft.OFTConfig(oft_block_size=3, **ALL)
    refused = r"^PEFT refuses this OFT: Invalid `oft_block_size` \(3\), it must divide the width"
    with pytest.raises(UserError, match=refused):
        Peft(wide).attach(model)
    for method in ("boft", "oft"):
        Peft(METHODS[method]()).attach(model)
    Peft(peft.LNTuningConfig()).attach(model)
    assert [str(w.message) for w in recwarn if w.category is UserWarning] == []
