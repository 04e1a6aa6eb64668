"""The program: all commands in one group, and how it ends.

Exit status: 0 done, 2 the user's mistake (one line on stderr), 1 anything else.
"""

from __future__ import annotations

import io
import os
import sys
import warnings

import click

from subkern import __version__
from subkern.cores import share_cores
from subkern.errors import UserError
from subkern.storage.files import is_full

from .agree import agree
from .analyze import analyze
from .estimate import estimate
from .features import features
from .figures import figures
from .finetune import finetune
from .kernel import kernel
from .learning_rate import learning_rate
from .solve import solve
from .start import start
from .tasks import tasks


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="subkern")
@click.option("--debug", is_flag=True, envvar="SUBKERN_DEBUG", help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Will LoRA of this rank learn my task like full fine-tuning?

    subkern answers from the kernels of the pretrained model, before any training.
    """


for _command in (
    agree, analyze, estimate, features, figures, finetune,
    kernel, learning_rate, solve, start, tasks,
):  # fmt: skip
    cli.add_command(_command)


def main() -> None:
    """Run the command line; every error is one line."""
    _quieten()
    share_cores()  # torch is not imported yet
    _print_anything()
    debug = "--debug" in sys.argv or bool(os.environ.get("SUBKERN_DEBUG"))
    try:
        sys.exit(cli.main(standalone_mode=False, prog_name="subkern") or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        where = error.ctx.command_path if getattr(error, "ctx", None) else "subkern"  # type: ignore[attr-defined]
        _fail(f"{error.format_message().rstrip('.')} (see {where} --help)", 2)
    except UserError as error:
        _fail(str(error), error.status)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted: the same command continues from what is finished", 1)
    except Exception as error:
        if debug:
            raise
        if is_full(error):
            name = getattr(error, "filename", None)
            where = f" for '{name}'" if name else ""
            _fail(
                f"no space left{where}: what is finished is kept; make room and run the same"
                " command again",
                1,
            )
        if isinstance(error, OSError) and error.filename:
            _fail(f"'{error.filename}' cannot be read or written: {error.strerror}", 2)
        _fail(f"{type(error).__name__}: {' '.join(str(error).split())} (--debug says more)", 1)


def _quieten() -> None:
    """Keep other libraries' notes and progress bars off the screen, unless asked for."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)
        warnings.showwarning = _warn


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as errors are: one line, without the place in the code."""
    click.echo(f"subkern: {' '.join(str(message).split())}", err=True)


def _print_anything() -> None:
    """Let a terminal or file that lacks a character show another: no work is lost over it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _fail(message: str, status: int) -> None:
    click.echo(f"subkern: {' '.join(message.split())}", err=True)
    sys.exit(status)
