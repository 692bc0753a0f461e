"""The command line: parse, call one function, print; each command's module is imported when it is called."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import click

from pbvs import __version__, aliases, logs
from pbvs.devices import world_size
from pbvs.errors import PbvsError, UsageError, is_out_of_memory
from pbvs.logs import say
from pbvs.text import fitted

# group -> name -> (module below pbvs.cli, one line of help); the function is the name with underscores
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "The main job, in this order": {
        "build-pairs": ("data", "Pair the archives' images into manifests."),
        "predict": ("predict", "Train or load each task's model and predict."),
        "score": ("results", "Score predictions: L1, L2, LPIPS, combined."),
        "package": ("submission", "Zip the submission and check it."),
    },
    "Your own images": {"translate": ("predict", "Translate files or folders with a trained model.")},
    "Look at results": {
        "report": ("results", "Write a run's report.html again, scored or not."),
        "compare": ("results", "Compare scored runs image by image."),
        "leaderboard": ("results", "Your runs beside the published tables."),
        "runs": ("runs", "List, compare and remove runs."),
    },
    "Data": {
        "check-data": ("data", "Say what the data hold, lack and have wrong."),
        "challenge": ("recipe", "List, show, check and begin challenges."),
        "demo-data": ("data", "Write a small synthetic data set."),
        "cache": ("machine", "Show or clear what is kept to save time."),
    },
    "Models and experiments": {
        "recipe": ("recipe", "Show recipes and explain their keys."),
        "calibrate": ("predict", "Fit the grayscale factors on training pairs."),
        "ablate": ("predict", "Measure what each part of a recipe is worth."),
        "reproduce": ("runs", "Make a run again and compare it."),
        "export": ("runs", "Put a run's models into one file."),
        "install": ("runs", "Install such a file as a run."),
        "checkpoint": ("machine", "Import, inspect and export model files."),
        "weights": ("machine", "List, fetch and verify frozen networks."),
    },
    "Submissions and help": {
        "check": ("submission", "Say whether a zip would be rejected."),
        "submissions": ("runs", "The log of uploads and what is left of the day."),
        "doctor": ("machine", "Versions, devices, weights and data, for a question."),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}

# How torch says, in whatever class of error, that a process of the group is gone (Gloo, NCCL, their store).
GROUP_LOST = ("closed by peer", "reset by peer", "gloo", "NCCL", "TCPStore", "Broken pipe")


class LazyGroup(click.Group):
    """Lists commands from the table above and imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, group by group."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pbvs.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed; one that does not exist gets the nearest names."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else "`pbvs --help` lists the commands."
            ctx.fail(f"There is no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in their groups without importing any."""
        longest = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(longest), text) for name, (_, text) in commands.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pbvs")
@click.option("--debug", is_flag=True, help="Show the full trace of an error.")
@click.option("--quiet", is_flag=True, help="Print results, warnings and errors only.")
@click.pass_context
def cli(ctx: click.Context, debug: bool, quiet: bool) -> None:
    """From the archives of the PBVS MAVIC-T challenge to a scored, valid submission."""
    ctx.obj = {"debug": debug}
    logs.set_quiet(quiet)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; what a user caused is one sentence and an exit status, never a trace.

    Exit statuses: 0 done, 1 bad data or machine, 2 bad usage, 3 a fault of this program, 130 Ctrl-C, 143 SIGTERM.
    """
    _open_streams()
    arguments = _globals_first(aliases.arguments(sys.argv[1:] if arguments is None else arguments))
    try:
        with logs.opened(arguments) as log, logs.stoppable(), _plain_warnings():
            status = _run(arguments)
            if logs.received:  # a thread or a worker may still be busy; nothing is lost by not waiting for it
                logs.leave(logs.received)
            log.end(status)
    except KeyboardInterrupt:  # before the command began, or after it ended
        logs.leave(logs.received or signal.SIGINT)
    sys.exit(status)


def _open_streams() -> None:
    """Let standard streams that are closed lead nowhere, so that no file that is opened later takes their numbers."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _globals_first(arguments: list[str]) -> list[str]:
    """Let --debug and --quiet stand anywhere on the line; what follows a bare `--` is left alone."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    found = [flag for flag in ("--debug", "--quiet") if flag in arguments[:end]]
    return [*found, *(word for word in arguments[:end] if word not in found), *arguments[end:]]


def _run(arguments: list[str]) -> int:
    """Run a command and return its exit status; every error is told here."""
    try:
        needs_folder = any(COMMANDS.get(word, ("recipe",))[0] != "recipe" for word in arguments)
        if needs_folder and logs.here() == logs.GONE and not {"-h", "--help"} & set(arguments):  # MKL would abort
            raise PbvsError("The working folder was removed; go to one that is there (cd) and run again.")
        result = cli.main(args=arguments, prog_name="pbvs", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SystemExit as error:  # click's own, when the reader of our output, such as `head`, has enough
        return error.code if isinstance(error.code, int) else 1
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        click.echo(fitted(said.getvalue(), sys.stderr), nl=False, err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        if not logs.received:  # else it is said when the process ends
            click.echo(fitted(logs.SENTENCE, sys.stderr), err=True)
        return 130
    except Exception as error:
        logs.LOG.exception("")
        if "--debug" in arguments:
            traceback.print_exc()
        sentence, status = explain(error)
        click.echo(fitted(sentence, sys.stderr), err=True)
        return status


def explain(error: Exception) -> tuple[str, int]:
    """Return the sentence and the exit status for an error that ended a command."""
    if isinstance(error, PbvsError):
        return f"{'Usage error' if isinstance(error, UsageError) else 'Error'}: {error}", error.exit_status
    if is_out_of_memory(error):
        return "Error: There is not enough memory; take fewer --jobs, or a smaller batch_size or size in the recipe.", 1
    if type(error).__name__ in ("TerminatedWorkerError", "BrokenProcessPool") or "DataLoader worker" in str(error):
        return (
            "Error: A worker process ended unexpectedly, most often for want of memory; "
            "take fewer --jobs and start the command again: it goes on where it stopped.",
            1,
        )
    if isinstance(error, RuntimeError) and any(word in str(error) for word in GROUP_LOST) and world_size() > 1:
        return (
            "Error: Another process of the group ended, and training cannot go on without it; look at what that one "
            "said. What was finished is kept; the same command goes on from there.",
            1,
        )
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"Error: {where}{error.strerror}; check the path, its permissions and the disk.", 1
    said = " ".join(str(error).split())[:300]
    return (
        f"Error: This is a fault of pbvs ({type(error).__name__}: {said}). What was finished is kept. Please report it "
        "with the output of `pbvs doctor`; `pbvs --debug ...` and the run's log.txt show where it happened.",
        3,
    )


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show Python's warnings as one line each, and keep them in the log."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        say(f"Warning: {' '.join(str(message).split())}")
        logs.LOG.info(f"({category.__name__} at {filename}:{lineno})")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
