"""The settings of ``analyze prompting``."""

from __future__ import annotations

from dataclasses import dataclass

from subkern.errors import UserError
from subkern.subspaces.text import parse_subspace
from subkern.training.losses import LOSSES

from ..engine.settings import Settings, distinct, one_of, rates, solvers_for

__all__ = ["OPTIMIZERS", "Config"]

OPTIMIZERS = ("adam", "sgd", "signgd")


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What to analyse; the settings that all studies share are those of `Settings`.

    ``template`` and ``label_words`` make one more prompt, called ``yours``. ``tuning`` is not used:
    every kernel chooses its own regularisation on dev, as its classifier would if it were alone.

    Attributes:
        head_init: as in `Settings`, but None is ``probe`` where a linear head is tried: it is then
            where the study of the tasks starts it.
        prompts: names of the built-in prompts to compare; None for all, empty for none.
        prompt_file: TOML or YAML file with more of them.
        linear: whether to try a linear head beside the prompts.
        random: whether to try random weights beside the pretrained ones, with the first prompt and
            with the linear head.
        subspace: what is trained, in the kernels and in fine-tuning.
        solvers: as in `Settings`, but None takes only the judge of `solvers_for` the rule.
        finetune: whether to fine-tune, and so to check what the kernels say.
        optimizer: ``adam``, ``sgd`` or ``signgd``.
        loss: ``cross_entropy`` or ``squared``.
        learning_rates, batch_sizes: the grid; dev chooses.
        steps: of training, each.
        eval_every: steps between two looks at dev; the best one counts.
    """

    prompts: tuple[str, ...] | None = None
    prompt_file: str | None = None
    linear: bool = True
    random: bool = True
    subspace: str = "full"
    finetune: bool = True
    optimizer: str = "adam"
    loss: str = "cross_entropy"
    learning_rates: tuple[float, ...] = (1e-5, 5e-5, 2e-4)
    batch_sizes: tuple[int, ...] = (8,)
    steps: int = 200
    eval_every: int = 20

    def __post_init__(self) -> None:
        if self.head_init is None and self.linear:
            self.keep("head_init", "probe")
        if self.solvers is None:
            self.keep("solvers", solvers_for(self.rule)[:1])
        super().__post_init__()
        if self.prompts is not None:
            self.keep("prompts", distinct("prompts", self.prompts, empty=True))
        if self.prompt_file is not None:
            self.keep("prompt_file", str(self.prompt_file))
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("loss", self.loss, tuple(LOSSES))
        self.keep("learning_rates", rates("learning_rates", self.learning_rates))
        self.keep("batch_sizes", distinct("batch_sizes", self.batch_sizes))
        self.positive("batch_sizes", "steps", "eval_every")
        self.keep("batch_sizes", tuple(sorted(self.batch_sizes)))
        parse_subspace(self.subspace)
        if self.prompts == () and self.prompt_file is None and not self.asks:
            raise UserError("there is no prompt: name one, or give a prompt file or a template")

    def check_head_init(self) -> None:
        """Raise `UserError` if a head is to start and none is tried."""
        if self.head_init == "probe" and not self.linear:
            raise UserError("--head-init probe starts a linear head: leave out --no-linear")

    @property
    def asks(self) -> bool:
        """Whether the settings themselves hold a prompt."""
        return self.template is not None or self.label_words is not None
