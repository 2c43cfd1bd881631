"""The entry point of the command line. Only this module turns an exception into one line and an exit code.

The commands are in the modules beside this one.
"""

import logging
import os
import sys
import traceback
from typing import NoReturn

import click

from compress.cli import choose, deploy, manage, train
from compress.distributed import launch
from compress.system import streams
from compress.system.attempts import raised_by
from compress.system.errors import (
    CompressError,
    FaultError,
    Interrupted,
    MachineError,
    UsageError,
    fault,
    first_line,
    is_out_of_memory,
)
from compress.system.versions import version

logger = logging.getLogger(__name__)

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _show_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        click.echo(f"compress, version {version('compress')}")
        context.exit()


@click.group(context_settings=CONTEXT)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Distil timm image classifiers into compact students, and take them to deployment."""
    from compress.system import console

    console.show_log()
    if leftover := launch.leftover():
        logger.warning(f"{leftover} is set without what else torchrun sets, so this is one process")
    if launch.size() > 1 and context.invoked_subcommand != "distill":
        raise UsageError(
            f"compress {context.invoked_subcommand} runs in one process, and torchrun started {launch.size()}",
            "Give the command without torchrun, which is for distill.",
        )


for command in (
    *(train.distill, train.sweep, train.predict),
    *(choose.init, choose.pick),
    *(deploy.export, deploy.benchmark, deploy.report, deploy.verify, deploy.push),
    *(manage.data, manage.runs, manage.recipe, manage.doctor),
):
    cli.add_command(command)


def main() -> None:
    """Runs the `compress` command, also as `python -m compress`. Ends the process with the documented exit code."""
    more = ", with --resume" if "distill" in sys.argv else ""
    run_command(cli, "compress", f"Give the same command again{more}.")


def run_command(command: click.Command, name: str, again: str = "Give the same command again.") -> NoReturn:
    """Runs `command` with the arguments of this process, then ends the process with the exit code of the outcome.

    An error is one line on stderr. `--debug` shows its traceback. The scripts in tools/ use this function too.

    Args:
        command: the click command.
        name: its name in the help.
        again: what to do after an interruption, as a sentence.
    """
    streams.ensure_open()
    streams.show_any_text()
    streams.outlive_the_reader()
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    code = _run(command, name, again, debug)
    if code and launch.size() > 1:
        sys.stdout.flush()
        os._exit(code)  # at once: a collective that others have left would block the end
    sys.exit(code)


def _run(command: click.Command, name: str, again: str, debug: bool) -> int:
    from compress.system.interrupts import ignore_signals, raise_on_signals

    raise_on_signals()
    try:
        try:
            command.main(standalone_mode=False, prog_name=name)
            sys.stdout.flush()
        except SystemExit as stop:  # click's, where any pipe is closed
            if isinstance(stop.__context__, OSError):
                raise stop.__context__ from None
            raise
        finally:
            ignore_signals()
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(UsageError(error.format_message(), "See --help."), debug)
    except CompressError as error:
        return _fail(error, debug)
    except (Interrupted, KeyboardInterrupt, click.Abort) as stop:
        code = stop.code if isinstance(stop, Interrupted) else 130
        return _end(code, f"interrupted. {again}")
    except OSError as error:
        streams.silence(1)  # perhaps stdout itself cannot be written
        return _fail(MachineError(f"{error.filename or 'stdout'}: {error.strerror or error}"), debug)
    except Exception as error:  # noqa: BLE001 - the last resort: reported as a fault of compress
        if is_out_of_memory(error):
            return _fail(
                MachineError(f"not enough memory: {error}", "Use smaller batches, or a larger machine."), debug
            )
        if library := raised_by(error):
            doing = " ".join([name, *sys.argv[1:2]])
            return _fail(
                MachineError(f"{doing} failed in {library} ({type(error).__name__}: {first_line(error)})"), debug
            )
        if debug:
            traceback.print_exc()
        return _end(FaultError.code, str(fault(error)))


def _fail(error: CompressError, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    return _end(error.code, str(error))


def _end(code: int, text: str) -> int:
    """The exit code. If several processes end together, only one prints the error."""
    code, speaks = launch.last_words(code)
    if speaks:
        _print_error(text)
    return code


def _print_error(text: str) -> None:
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    print(f"error: {shown}", file=streams.Stderr(), flush=True)
