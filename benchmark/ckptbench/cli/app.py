"""The command line: a thin skin over the stages. Heavy modules load when a command needs them."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any

import typer
import typer.core

from ckptbench import __version__
from ckptbench.base.errors import InputError
from ckptbench.base.text import printable
from ckptbench.cli import plugins, suites
from ckptbench.cli.rank import rank
from ckptbench.cli.studies import interference, study


class _Sentences(typer.core.TyperGroup):
    """What a user can cause ends in one sentence and an exit code, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            message, code = str(error), 2
        except KeyboardInterrupt:
            message, code = "stopped; completed work is kept, rerun the same command to go on", 130
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                message = "the disk is full: free space and rerun; completed work is kept"
            elif error.errno == errno.EPIPE:
                raise  # whoever read our output has gone, which is no news
            else:
                where = f"{error.filename}: " if error.filename else ""
                message = f"{where}{error.strerror or error}"
            code = 2
        print(f"ckptbench: {printable(message)}", file=sys.stderr)
        raise SystemExit(code)


app = typer.Typer(
    cls=_Sentences,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which checkpoint of a pre-training run should I take to my task?",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"ckptbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version and exit", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


app.command()(rank)
for _stage, _help in suites.STAGES.items():
    app.command(_stage, help=_help)(suites.stage_command(_stage))
for _command in (suites.leaderboard, suites.report, suites.methods, suites.compare, suites.judge):
    app.command()(_command)
app.command()(study)
app.command()(interference)
app.command("judge-selector")(plugins.judge_selector)
app.command("list")(plugins.list_)
app.command()(plugins.new)
app.command()(plugins.check)
app.command()(suites.freeze)


def main() -> None:
    """Entry point: exits with 0, 1 where cells failed, 2 for bad input, 130 for Ctrl-C."""
    app()
