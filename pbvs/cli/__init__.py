"""The command line: parse, call one function, print; each command's module is imported when it is called."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from pbvs import __version__
from pbvs.errors import PbvsError, UsageError
from pbvs.memory import prefer_huge_pages

# name -> (module below pbvs.cli, function, one line of help), in the order of the work
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo-data": ("data", "demo_data", "Write a small synthetic data set in the archives' layout."),
    "build-pairs": ("data", "build_pairs", "Sample SAR/RGB/IR pairs per location into manifests."),
    "predict": ("predict", "predict", "Train or load each task's model and write the predictions."),
    "checkpoint": ("checkpoint", "checkpoint", "Import, inspect and export model files."),
    "score": ("score", "score", "Score predictions: L2, LPIPS and the combined score."),
    "report": ("report", "report", "Write a run's report.html anew, scored or not."),
    "compare": ("compare", "compare", "Compare scored runs image by image, with intervals."),
    "ablate": ("ablate", "ablate", "Measure what each part of a recipe is worth: the paper's second table."),
    "leaderboard": ("compare", "leaderboard", "Your runs beside the published tables."),
    "package": ("submission", "package", "Zip the submission and check it."),
    "check": ("submission", "check", "Say whether a zip would be rejected, and what scores badly."),
    "submissions": ("runs", "submissions", "The log of uploads: scores, notes, and what is left of the day."),
    "runs": ("runs", "runs", "The runs side by side; remove one."),
    "reproduce": ("runs", "reproduce", "Make a run again and compare it."),
    "export": ("runs", "export", "Put a run's models and recipe into one file."),
    "install": ("runs", "install", "Install such a file as a run."),
}


class LazyGroup(click.Group):
    """Lists commands from the table above and imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"pbvs.cli.{module}"), function)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pbvs")
@click.option("--debug", is_flag=True, help="Show the full trace of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """From the archives of the PBVS MAVIC-T challenge to a scored, valid submission.

    The four commands of the main job are build-pairs, predict, score and package, in this order.
    """
    ctx.obj = {"debug": debug}


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; what a user caused is one sentence and an exit status, never a trace."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prefer_huge_pages()
    try:
        sys.exit(cli.main(args=arguments, prog_name="pbvs", standalone_mode=False) or 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped. What was finished is kept; the same command goes on from there.", err=True)
        sys.exit(130)
    except PbvsError as error:
        if "--debug" in arguments:
            raise
        click.echo(f"{'Usage error' if isinstance(error, UsageError) else 'Error'}: {error}", err=True)
        sys.exit(error.exit_status)
