"""The commands in the documents are commands: every name and option that a reader may copy is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pbvs.cli import cli

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:^|`|-m |-- )pbvs ([a-z][^`#\n]*)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def commands() -> Iterator[tuple[str, str]]:
    for path in DOCUMENTS:
        for match in COMMAND.finditer(path.read_text(encoding="utf-8")):
            yield path.name, " ".join(match.group(1).split())


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that words begin with, and the words after it."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            break
        command, words = found, words[1:]
    return command, words


def test_there_are_commands_to_check() -> None:
    assert len(set(commands())) > 20


@pytest.mark.parametrize(("document", "line"), sorted(set(commands())))
def test_a_command_in_a_document_exists(document: str, line: str) -> None:
    command, rest = resolved(line.split())
    assert command is not cli, f"{document}: pbvs {line}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    asked = {word.split("=")[0].rstrip(",.;:)") for word in rest if word.startswith("--")}
    assert asked <= known | {"--help"}, f"{document}: pbvs {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target
