"""Groups of commands, and how every command ends."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import click

from relabel.cli.signals import Ended, Ending, end_children
from relabel.errors import RelabelError
from relabel.paths import printable

_EXIT_USAGE = 2
_EXIT_BROKEN_PIPE = 141
_GO_ON = ("generate", "import", "merge")


class Commands(click.Group):
    """A group whose commands end with a sentence, not a traceback, on what the user can mend."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and exit as it ends."""
        if ctx.parent is not None:
            return super().invoke(ctx)
        again = "; nothing published is lost, run the same command again to go on"
        ending = Ending(lambda: again if ctx.invoked_subcommand in _GO_ON else "")
        with ending.handling():
            return self._invoke(ctx, ending)

    def _invoke(self, ctx: click.Context, ending: Ending) -> Any:
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
        except MemoryError:
            click.echo("error: out of memory. Free some, or give fewer --workers or a smaller --batch-size", err=True)
            ctx.exit(_EXIT_USAGE)
        except SystemExit as error:
            # A command of ours ends by click's own exception, so some other code, a teacher's say, wants to end it all.
            said = "" if error.code is None else f" ({printable(str(error.code))})"
            click.echo(f"error: the command did not end by itself: SystemExit{said} out of foreign code", err=True)
            ctx.exit(_EXIT_USAGE)
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Ended) else signal.SIGINT
            if said := ending.tell(number, getattr(error, "__notes__", ())):
                click.echo(said, err=True)
            if isinstance(error, Ended):
                # Not through Python's own end, which takes its time and waits for threads of others.
                sys.stdout.flush()
                end_children()
                os._exit(128 + number)
            ctx.exit(128 + number)
