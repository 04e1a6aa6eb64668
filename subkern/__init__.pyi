# The public names and where they are defined: loaded on first use (lazy_loader), and what type
# checkers see.
from . import agreement as agreement
from . import dynamics as dynamics
from . import learning_rate as learning_rate
from . import solvers as solvers
from .errors import UserError as UserError
from .features.features import Features as Features
from .features.features import compute_features as compute_features
from .kernels.compute import compute_kernel as compute_kernel
from .kernels.kernel import Kernel as Kernel
from .kernels.lm_kernel_ft import export_lmk as export_lmk
from .kernels.lm_kernel_ft import import_lmk as import_lmk
from .kernels.request import RunOptions as RunOptions
from .kernels.rules import UpdateRule as UpdateRule
from .kernels.rules import parse_rule as parse_rule
from .kernels.sweeps.dimensions import DimensionSweep as DimensionSweep
from .kernels.sweeps.dimensions import sweep_dimensions as sweep_dimensions
from .kernels.sweeps.lora import LoraGrid as LoraGrid
from .kernels.sweeps.lora import LoraSweep as LoraSweep
from .kernels.sweeps.lora import sweep_lora as sweep_lora
from .kernels.sweeps.lora import sweep_targets as sweep_targets
from .kernels.sweeps.rules import sweep_rules as sweep_rules
from .models.load import load_model as load_model
from .models.logit_model import Batch as Batch
from .models.logit_model import LogitModel as LogitModel
from .prompts.prompt import EncodedExample as EncodedExample
from .prompts.prompt import Prompt as Prompt
from .subspaces.base import Full as Full
from .subspaces.base import ParameterSubset as ParameterSubset
from .subspaces.base import Peft as Peft
from .subspaces.base import Subspace as Subspace
from .subspaces.lora import Lora as Lora
from .subspaces.parameter_groups import LastLayers as LastLayers
from .subspaces.parameter_groups import ParameterGroup as ParameterGroup
from .subspaces.random import RandomSubspace as RandomSubspace
from .subspaces.text import parse_subspace as parse_subspace
from .tasks.catalogue import TASKS as TASKS
from .tasks.catalogue import get_task as get_task
from .tasks.examples import Example as Example
from .tasks.examples import load_examples as load_examples
from .tasks.task import Task as Task
from .training.finetune import finetune as finetune
from .training.grid_search import Search as Search
from .training.result import FineTuned as FineTuned
from .training.settings import Training as Training

__version__: str
