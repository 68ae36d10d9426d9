"""The command line: it parses, calls one function and prints. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

import relabel
from relabel.cli.generating import generate
from relabel.cli.output import show
from relabel.cli.teachers import teacher
from relabel.cli.text import printable, shards_json, shards_text, store_json, store_text
from relabel.errors import RelabelError

_EXIT_FINDINGS = 1
_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141


class _Commands(click.Group):
    """A group whose commands end with a sentence, not a traceback, on what the user can mend."""

    def invoke(self, ctx: click.Context) -> Any:
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
            click.echo(f"interrupted{again if ctx.invoked_subcommand == 'generate' else ''}", err=True)
            ctx.exit(_EXIT_INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(relabel.__version__, prog_name="relabel")
def main() -> None:
    """Offline teacher labels for image training: a score map for every image, a soft label for every crop.

    \b
    Example:
      relabel generate 'train-{0000..1023}.tar' labels.zarr --teacher convnext_tiny
      relabel verify shards labels.zarr --images 'train-{0000..1023}.tar'
      relabel inspect labels.zarr
    """


main.add_command(generate)
main.add_command(teacher)


@main.group(cls=_Commands)
def verify() -> None:
    """Check a store before you trust it.

    \b
    Example:
      relabel verify shards labels.zarr
    """


@verify.command("shards")
@click.argument("store")
@click.option("--images", help="Also compare keys and bytes with these images (a folder or tars, as for generate).")
@click.option("--workers", type=click.IntRange(1), help="Threads [one a core].")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def verify_shards_command(store: str, images: str | None, workers: int | None, as_json: bool, quiet: bool) -> None:
    """Check every byte and every promise of STORE. Exits with 0 if good, 1 with findings, 2 if it cannot be read.

    \b
    Example:
      relabel verify shards labels.zarr --images photos/
      relabel verify shards labels.zarr --json > findings.json
    """
    from relabel.verify import verify_shards

    report = verify_shards(store, images, workers=workers, show_progress=not quiet)
    show(shards_json(report) if as_json else shards_text(report))
    sys.exit(0 if report.is_clean else _EXIT_FINDINGS)


@main.command()
@click.argument("store")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def inspect(store: str, as_json: bool) -> None:
    """Print what STORE is: teacher, grid, planes, images, failures, size, unstored mass, labels.

    \b
    Example:
      relabel inspect labels.zarr
    """
    from relabel.summary import summarise

    summary = summarise(store)
    show(store_json(summary) if as_json else store_text(summary, store))
