"""Load a `LogitModel`: a hub id, a local directory, or one of the demo models.

Nothing random is ever left in a language model in silence: a checkpoint without a decoder weight
is refused. Remote code is never run.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subkern.errors import UserError, check_choice
from subkern.hub import hub_answers
from subkern.models.demo import DEMO_MODELS
from subkern.models.limits import output_width, sees_later, tokens_told, vocabulary
from subkern.models.logit_model import (
    LinearReadout,
    LogitModel,
    Readout,
    SequenceReadout,
    WordReadout,
    untie,
)
from subkern.models.precision import cast, tensors
from subkern.models.pretrained import Source, cached, few, is_local, load_weights
from subkern.one_line import check_seed
from subkern.prompts.prompt import Prompt
from subkern.storage.provenance import versions
from subkern.tasks.catalogue import Task

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
HEADS = ("prompt", "linear")
TIES = ("model", "untied")
WEIGHTS = ("pretrained", "random")


def load_model(
    spec: str | Path,
    *,
    task: Task,
    head: str = "prompt",
    tie: str = "model",
    logits: str = "all",
    dtype: str = "float32",
    device: str = "cpu",
    seed: int = 0,
    revision: str | None = None,
    pooling: str = "read",
    weights: str = "pretrained",
) -> LogitModel:
    """The model of `spec` as a function from examples of `task` to class logits.

    Args:
        spec: hub id, local directory, ``"demo:smollm2"`` or ``"demo:minilm"``.
        task: gives the prompt, the label words and the number of classes.
        head: ``"prompt"`` reads label words at the mask (masked LM) or after the prompt (causal
            LM); ``"linear"`` puts a linear layer on the encoder.
        tie: ``"model"`` keeps the model's own tying of decoder and embedding; ``"untied"`` gives
            the decoder a copy, as the paper's code does.
        logits: ``"all"`` (c label logits), ``"binary"`` (the one logit f₁ − f₀), or ``"auto"``
            (binary for two classes).
        dtype: ``"float32"``, ``"float64"`` or ``"bfloat16"``.
        device: torch device.
        seed: seed of a linear head's weights, and of random ones.
        revision: hub revision (branch, tag or commit); None takes the commit in the cache, of the
            main branch if there is none.
        pooling: what a linear head reads: ``"read"`` ([CLS], or the last token) or ``"mean"``.
        weights: ``"pretrained"``, or ``"random"``: the same architecture as transformers
            initializes it before any training, drawn in float32 with `seed`.

    Raises:
        UserError: unknown choice, model not found, weights missing, or a prompt that does not fit.
    """
    on = check_reading(spec, head, tie, logits, dtype, device, revision)
    check_choice("weights", weights, WEIGHTS)
    check_seed("seed of the model", seed)
    source = _source(spec, revision)
    tokenizer = _tokenizer(source)
    kind = _style(source, tokenizer, head)
    Prompt.for_task(task, tokenizer, kind)  # a mistake is said before the weights are read
    if weights == "random":
        module = _random_module(source, kind, DTYPES[dtype], seed)
    else:
        module = load_module(source, kind, DTYPES[dtype])
    _check_kind(source, module, kind)
    if tie == "untied" and kind != "plain":
        untie(module)
    told = None if kind == "plain" else tokens_told(module)
    prompt = Prompt.for_task(task, tokenizer, kind, vocabulary(module), told)
    readout = _readout(module, prompt, task.num_logits, pooling, seed)
    model = LogitModel(
        module,
        readout,
        binary=logits == "binary" or (logits == "auto" and readout.num_logits == 2),
        tokenizer=tokenizer,
        prompt=prompt,
    )
    model.readout.to(DTYPES[dtype])
    model = model.to(device=on).eval()
    model.description = {
        "name": str(spec),
        "revision": source.revision,
        "class": type(module).__name__,
        "head": head,
        "tie": tie,
        "prompt": prompt.description,
        **({"pooling": pooling, "head_seed": seed} if kind == "plain" else {}),
        **({"weights": "random", "weights_seed": seed} if weights == "random" else {}),
        **_kept_in_float32(module, DTYPES[dtype]),
    }
    return model


def check_reading(
    spec: str | Path,
    head: str = "prompt",
    tie: str = "model",
    logits: str = "all",
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> torch.device:
    """Refuse how a model is to be read where `load_model` would, and load nothing.

    Returns:
        The device.

    Raises:
        UserError: an unknown choice or device, or a revision of what is not on the hub.
    """
    for what, value, known in (
        ("head", head, HEADS),
        ("tie", tie, TIES),
        ("dtype", dtype, tuple(DTYPES)),
        ("logits", logits, ("all", "binary", "auto")),
    ):
        check_choice(what, value, known)
    if not str(spec).strip() or "\0" in str(spec):
        raise UserError(f"model {str(spec)!r} is no name: give a hub id, a folder or demo:minilm")
    if revision is not None and is_local(spec):
        raise UserError(
            f"revision '{revision}' is of a model on the hub and '{spec}' is none: leave it out"
        )
    return check_device(device)


def with_prompt(model: LogitModel, task: Task) -> LogitModel:
    """The same language model, asked with the prompt of `task`: it shares every weight.

    Raises:
        UserError: the prompt does not fit the tokenizer, or the model has a linear head.
    """
    if model.prompt is None or not isinstance(model.readout, WordReadout):
        raise UserError("a linear head reads no label words: load the model with head='prompt'")
    known, told = vocabulary(model.module), tokens_told(model.module)
    prompt = Prompt.for_task(task, model.tokenizer, model.prompt.style, known, told)
    return LogitModel(
        model.module,
        WordReadout(prompt.label_ids),
        binary=model.binary,
        tokenizer=model.tokenizer,
        prompt=prompt,
        description={**model.description, "prompt": prompt.description},
    ).eval()


def load_prompt(
    spec: str | Path, *, task: Task, head: str = "prompt", revision: str | None = None
) -> Prompt:
    """The prompt that `load_model` would use, without loading any weight.

    For a linear head a folder with a tokenizer alone will do.
    """
    tokenizer, kind = load_tokenizer(spec, head=head, revision=revision)
    return Prompt.for_task(task, tokenizer, kind)


def load_tokenizer(
    spec: str | Path, *, head: str = "prompt", revision: str | None = None
) -> tuple[Any, str]:
    """The tokenizer of a model and the style of its prompts, without loading any weight."""
    source = _source(spec, revision)
    tokenizer = _tokenizer(source)
    folder = None if source.hub else source.folder
    bare = head == "linear" and folder is not None and not (folder / "config.json").exists()
    return tokenizer, "plain" if bare else _style(source, tokenizer, head)


def origin(spec: str, revision: str | None = None) -> str | None:
    """Where the weights of a model that is no folder come from, without loading any.

    ``"commit <hash>"`` of a hub id, ``"<package> <version>"`` of a demo model; None if the hub does
    not answer and nothing of the model is in its cache.
    """
    if spec in DEMO_MODELS:
        package = DEMO_MODELS[spec]
        return f"{package} {versions(package)[package]}"
    commit = _commit(spec, revision)
    return None if commit is None else f"commit {commit}"


@cache
def _commit(spec: str, revision: str | None) -> str | None:
    """The hub's commit of a model: what its cache calls the folder of the model's files.

    The one in the cache if there is one, so that a model does not change under a study when its
    authors add to it; another is asked for by its revision.
    """
    from huggingface_hub import hf_hub_download

    if snapshot := cached(spec, revision):
        return snapshot.name
    if not hub_answers():
        return None
    try:
        return Path(hf_hub_download(spec, "config.json", revision=revision)).parent.name
    except Exception:  # of many kinds: who loads the model says why
        return None


def _source(spec: str | Path, revision: str | None) -> Source:
    """Where the model is; one of the hub is at a commit from the first file on."""
    source = Source.of(spec, revision)
    if source.folder is not None:
        return source
    return replace(source, revision=_commit(source.spec, revision) or revision)


def _tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    tokenizer = source.load(AutoTokenizer, "tokenizer")
    tokenizer.name_or_path = source.spec  # not the folder of the cache
    return tokenizer


def _style(source: Source, tokenizer: Any, head: str) -> str:
    """How a model is asked: ``"masked"``, ``"causal"``, or ``"plain"`` for a linear head.

    Raises:
        UserError: it reads no text, or a prompt is no way to ask it.
    """
    import transformers

    config = source.load(transformers.AutoConfig, "config")
    maker = transformers.MODEL_MAPPING.get(type(config), None)
    reads = getattr(maker, "main_input_name", "input_ids")
    if reads != "input_ids":
        raise UserError(
            f"'{source.spec}' ({config.model_type}) reads {reads}, no text: use a language model"
        )
    return model_kind(source, tokenizer) if head == "prompt" else "plain"


def model_kind(source: Source, tokenizer: Any) -> str:
    """``"masked"`` or ``"causal"``: what kind of language model a checkpoint is.

    Where transformers has both (BERT), its configuration says whether it sees later tokens; that
    it is so is seen once it is loaded (`_check_kind`).

    Raises:
        UserError: neither.
    """
    import transformers
    import transformers.models.auto.modeling_auto as auto

    config = source.load(transformers.AutoConfig, "config")
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"'{source.spec}' ({config.model_type}) is an encoder-decoder, and prompts are for"
            " masked and causal models: use --head linear, which reads its encoder"
        )
    masked = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        decoder = getattr(config, "is_decoder", False) or getattr(config, "causal", False)
        return "masked" if masked and not decoder else "causal"
    if not masked:
        raise UserError(
            f"'{source.spec}' ({config.model_type}) is no language model: use --head linear"
        )
    return "masked"


def _check_kind(source: Source, module: nn.Module, kind: str) -> None:
    """Refuse a model that looks ahead though causal, or does not though masked."""
    if kind != "plain" and sees_later(module) is (kind == "causal"):
        what = "also sees what comes after" if kind == "causal" else "sees only what stands before"
        raise UserError(
            f"'{source.spec}' is no {kind} language model: at a token, {type(module).__name__}"
            f" {what}: use --head linear"
        )


_AUTO = {
    "masked": "AutoModelForMaskedLM",
    "causal": "AutoModelForCausalLM",
    "plain": "AutoModel",
}


def _random_module(source: Source, kind: str, dtype: torch.dtype, seed: int) -> nn.Module:
    """The architecture of a checkpoint with the weights transformers starts training from."""
    import transformers

    config = source.load(transformers.AutoConfig, "config")
    make = getattr(transformers, _AUTO[kind]).from_config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _text(make(config, dtype=torch.float32), kind)
    with torch.device("meta"):
        made = _text(make(config, dtype=dtype), kind)
    cast(module, dtype, kept=_kept(module, made, dtype))
    return module


def _kept(module: nn.Module, made: nn.Module, dtype: torch.dtype) -> list[Tensor]:
    """What of `module` stays in float32 where transformers loads it in `dtype`, as in `made`."""
    names = getattr(made, "_keep_in_fp32_modules_strict", None) or ()
    strict = re.compile("|".join(rf"(^|\.){name}(\.|$)" for name in names) or "(?!)")
    types = {n: t.dtype for n, t in _named(made).items()}
    return [t for n, t in _named(module).items() if types[n] != dtype or strict.search(n)]


def _kept_in_float32(module: nn.Module, dtype: torch.dtype) -> dict[str, int]:
    """How many tensors are not in `dtype`, for provenance: bfloat16 was not always exact there."""
    kept = sum(t.dtype == torch.float32 for t in tensors(module)) if dtype != torch.float32 else 0
    return {"kept_in_float32": kept} if kept else {}


def _named(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _text(module: nn.Module, kind: str) -> nn.Module:
    """What a linear head reads: the encoder of an encoder-decoder, else the whole model."""
    pair = kind == "plain" and getattr(module.config, "is_encoder_decoder", False)
    encoder: nn.Module = module.get_encoder() if pair else module  # type: ignore[operator]
    return encoder


def load_module(source: Source, kind: str, dtype: torch.dtype) -> nn.Module:
    """The language model, or the encoder (``"plain"``), with its weights in `dtype`.

    Raises:
        UserError: it does not load, or lacks a weight.
    """
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a pooler that the checkpoint lacks is drawn, the same every time
        module, missing = load_weights(getattr(transformers, _AUTO[kind]), source, dtype)
    whole, module = module, _text(module, kind)
    if module is not whole:
        ours = {id(p) for p in module.parameters()}
        names = {n for n, p in whole.named_parameters(remove_duplicate=False) if id(p) in ours}
        missing = tuple(name for name in missing if name in names)
    if missing:
        body = getattr(whole, "base_model_prefix", "") + "."
        only_head = kind == "masked" and not any(name.startswith(body) for name in missing)
        advice = "use --head linear" if only_head else "use a complete checkpoint"
        raise UserError(
            f"'{source.spec}' has no weights for {few(missing)} of {type(module).__name__}:"
            f" {advice}"
        )
    if dtype == torch.float64:
        cast(module, dtype)  # buffers, which transformers leaves in float32
    return module


def _readout(
    module: nn.Module, prompt: Prompt, num_labels: int, pooling: str, seed: int
) -> Readout:
    if prompt.marks:
        return SequenceReadout(prompt.task.num_logits, prompt.task.kind)
    if prompt.label_ids:
        return WordReadout(prompt.label_ids)
    return LinearReadout(output_width(module), num_labels, pooling, seed)


def check_device(name: str) -> torch.device:
    """The torch device of a name, tried with a number.

    Raises:
        UserError: torch does not know it, or it is not here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # the meta device has no numbers
    except Exception as error:  # of many kinds: a backend that is not built raises what it likes
        raise UserError(f"device '{name}' is not available here: use cpu") from error
    return device
