#!/usr/bin/python3
"""Draws the curves of one run or of several, from their metrics.jsonl.

    scripts/plot.py runs/quickstart                       runs/quickstart/loss.png
    scripts/plot.py runs/a runs/b --output compare.png    several runs in one picture
    scripts/plot.py --entropy 6.1 runs/quickstart         with the text's unigram entropy as a line

A RUN is a run's folder or a metrics.jsonl. Over tokens seen: loss (raw and smoothed) with the
validation losses, by source when there is one run alone; learning rate; gradient norm; tokens/s.
--tensorboard DIR writes the same numbers as TensorBoard event files instead of a picture.
"""

import argparse
import itertools
import json
import pathlib
import sys

from tensorboard_events import write_events

SMOOTHING_POINTS = 50  # each point of the smoothed curve is the mean of a fiftieth of the run
PANEL_INCHES = (10, 9)


class Run:
    """The steps of one metrics.jsonl as lists by field."""

    def __init__(self, path):
        self.path = path / "metrics.jsonl" if path.is_dir() else path
        self.name = self.path.parent.name
        self.steps = read_steps(self.path)

    def series(self, *keys):
        """Tokens and values of the steps that have the field; keys lead into nested objects."""
        tokens, values = [], []
        for step in self.steps:
            value = step
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            if isinstance(value, (int, float)):
                tokens.append(step["tokens_seen"])
                values.append(value)
        return tokens, values

    def sources(self):
        return sorted({name for step in self.steps
                       for name in step.get("validation", {}).get("sources", {})})


def read_steps(path):
    """Every whole line; a last line without its end is one that is being written."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        sys.exit(f"plot.py: {path}: {error.strerror}; give a run's folder or its metrics.jsonl")
    steps = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            steps.append(json.loads(line))
        except ValueError:
            sys.exit(f"plot.py: {path}:{number}: not a JSON object")
    if not steps:
        sys.exit(f"plot.py: {path}: holds no finished step yet")
    return steps


def smoothed(values):
    """Mean over the neighbours on both sides, as many left as right: no lag behind the curve."""
    sums = list(itertools.accumulate(values, initial=0.0))
    half = max(1, len(values) // (2 * SMOOTHING_POINTS))
    result = []
    for i in range(len(values)):
        reach = min(half, i, len(values) - 1 - i)
        result.append((sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1))
    return result


def unit_of(runs):
    """A divisor for token counts and its name, so that axes read 0 to a few hundred."""
    most = max(run.steps[-1]["tokens_seen"] for run in runs)
    for divisor, name in ((1e9, "billion tokens"), (1e6, "million tokens"), (1e3, "thousand tokens")):
        if most >= divisor:
            return divisor, name
    return 1, "tokens"


def plot_loss(axes, runs, divisor, entropy):
    for number, run in enumerate(runs):
        color = f"C{number}"
        tokens, losses = run.series("loss")
        tokens = [t / divisor for t in tokens]
        axes.plot(tokens, losses, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(tokens, smoothed(losses), color=color, linewidth=1.5, label=f"{run.name}: training")
        seen, validation = run.series("validation", "loss")
        if seen:
            axes.plot([t / divisor for t in seen], validation, color=color, marker="o",
                      linestyle="--", markersize=4, label=f"{run.name}: validation")
        if len(runs) == 1:
            for index, source in enumerate(run.sources(), start=1):
                seen, values = run.series("validation", "sources", source)
                axes.plot([t / divisor for t in seen], values, color=f"C{index}", marker=".",
                          linewidth=0.8, linestyle=":", label=f"validation: {source}")
    if entropy is not None:
        axes.axhline(entropy, color="gray", linestyle="--", linewidth=1,
                     label=f"unigram entropy of the text: {entropy:.2f}")
    axes.set_ylabel("loss (nats a token)")
    axes.legend(fontsize="small")


def draw(runs, output, entropy):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    divisor, unit = unit_of(runs)
    figure, panels = pyplot.subplots(4, 1, figsize=PANEL_INCHES, sharex=True,
                                     gridspec_kw={"height_ratios": [4, 1, 1, 1]})
    plot_loss(panels[0], runs, divisor, entropy)
    lower = [("learning rate", ["learning_rate"]), ("gradient norm", ["gradient_norm"]),
             ("tokens/s", ["timing", "tokens_per_second"])]
    for axes, (label, keys) in zip(panels[1:], lower):
        for number, run in enumerate(runs):
            tokens, values = run.series(*keys)
            axes.plot([t / divisor for t in tokens], values, color=f"C{number}", linewidth=0.9)
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
    for axes in panels:
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel(unit)
    panels[0].set_title(", ".join(run.name for run in runs))
    figure.align_ylabels()
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)


def write_tensorboard(runs, folder):
    """One event file a run; the horizontal axis is tokens seen, as in the pictures."""
    for run in runs:
        fields = [("loss/train", ["loss"]), ("loss/validation", ["validation", "loss"]),
                  ("learning_rate", ["learning_rate"]), ("gradient_norm", ["gradient_norm"]),
                  ("tokens_per_second", ["timing", "tokens_per_second"])]
        fields += [(f"validation/{name}", ["validation", "sources", name]) for name in run.sources()]
        written = run.path.stat().st_mtime  # metrics.jsonl keeps no times of day
        scalars = [(tag, tokens, value, written) for tag, keys in fields
                   for tokens, value in zip(*run.series(*keys))]
        write_events(folder / run.name / "events.out.tfevents.gsa", scalars)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN",
                        help="a run's folder or a metrics.jsonl")
    parser.add_argument("--output", type=pathlib.Path,
                        help="the picture (default: loss.png in the first run's folder)")
    parser.add_argument("--entropy", type=float, help="unigram entropy of the text, nats a token")
    parser.add_argument("--tensorboard", type=pathlib.Path, metavar="DIR",
                        help="write TensorBoard event files here instead of a picture")
    arguments = parser.parse_args()
    runs = [Run(path) for path in arguments.runs]
    if arguments.tensorboard:
        write_tensorboard(runs, arguments.tensorboard)
        print(arguments.tensorboard)
        return
    output = arguments.output or runs[0].path.parent / "loss.png"
    draw(runs, output, arguments.entropy)
    print(output)


if __name__ == "__main__":
    main()
