"""Curves of training runs: ``python pipelines/curves.py RUN [RUN ...] --out curves.png``, RUN being an --out of
train_student.py, finished or not."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if not __package__:  # run as a file: its folder is on the path, and the package is not
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pipelines.run_log import RECIPE, Epoch, read_log
from relabel.errors import RelabelError


def draw_curves(runs: Mapping[str, Sequence[Epoch]], path: Path) -> None:
    """The training loss and the validation accuracy of runs by epoch; averaged weights are dashed. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"{path} is not drawn: pip install 'relabel[report]' has what draws it", file=sys.stderr)
        return
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for name, epochs in runs.items():
        numbers = [epoch.epoch for epoch in epochs]
        (line,) = losses.plot(numbers, [epoch.train_loss for epoch in epochs], marker=".", label=name)
        colour = line.get_color()
        accuracies.plot(numbers, [epoch.val_top1 for epoch in epochs], marker=".", color=colour, label=name)
        averaged = [epoch.val_top1_ema for epoch in epochs]
        if averaged and None not in averaged:
            accuracies.plot(numbers, averaged, "--", color=colour, label=f"{name}, averaged weights")
    for axes, title in ((losses, "training loss, nats"), (accuracies, "validation top-1, percent")):
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    if runs:
        accuracies.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draw the curves of training runs in one picture.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="output folders of train_student.py")
    parser.add_argument("--out", type=Path, default=Path("curves.png"), help="the picture [%(default)s]")
    given = parser.parse_args(arguments)
    try:
        draw_curves({_name(run): read_log(run) for run in given.runs}, given.out)
    except RelabelError as error:
        parser.error(str(error))


def _name(run: Path) -> str:
    path = run / RECIPE
    return json.loads(path.read_text(encoding="utf-8"))["name"] if path.exists() else run.name


if __name__ == "__main__":
    main()
