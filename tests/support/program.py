"""The program's commands, found rather than listed."""

from __future__ import annotations

from collections.abc import Iterator

import click


def commands(parent: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the words that lead to a command, and to every one below it."""
    yield path
    if isinstance(parent, click.Group):
        context = click.Context(parent)
        for name in parent.list_commands(context):
            command = parent.get_command(context, name)
            assert command is not None
            yield from commands(command, *path, name)
