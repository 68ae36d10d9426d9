"""Groups of commands, and how every command ends."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from relabel.cli.text import printable
from relabel.errors import RelabelError

_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141
_GO_ON = ("generate", "import")


class Commands(click.Group):
    """A group whose commands end with a sentence, not a traceback, on what the user can mend."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and exit as it ends."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read our output has what it wanted (`| head`). Nothing must be flushed into the pipe at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(_EXIT_BROKEN_PIPE)
        except (RelabelError, OSError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            click.echo("\n".join(["error: " + printable(lines[0]), *map(printable, lines[1:])]), err=True)
            ctx.exit(_EXIT_USAGE)
        except KeyboardInterrupt:
            again = "; nothing published is lost, run the same command again to go on"
            click.echo(f"interrupted{again if ctx.invoked_subcommand in _GO_ON else ''}", err=True)
            ctx.exit(_EXIT_INTERRUPTED)
