#!/usr/bin/python3
"""Compares two runs: bit for bit (metrics without their timing, and the last checkpoint), or with
--curve TOLERANCE their losses: the mean relative difference over the steps must be below it."""
import argparse
import json
import pathlib
import sys

import h5py
import numpy


def metrics(run):
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    for step in steps:
        step.pop("timing", None)
    return steps


def weights(run):
    """Every dataset of the last checkpoint's model file, by name."""
    checkpoint = sorted((run / "checkpoints").glob("step-*"))[-1]
    found = {}
    with h5py.File(checkpoint / "model.h5", "r") as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def same_bits(first, second):
    if metrics(first) != metrics(second):
        for a, b in zip(metrics(first), metrics(second)):
            if a != b:
                sys.exit(f"metrics differ first at step {a['step']}: {a} and {b}")
        sys.exit("the runs have different numbers of steps")
    one, two = weights(first), weights(second)
    if one.keys() != two.keys():
        sys.exit("the checkpoints hold different parameters")
    for name, values in one.items():
        if not numpy.array_equal(values, two[name]):
            sys.exit(f"{name} differs")
    print(f"{len(metrics(first))} steps and {len(one)} arrays are the same to the bit")


def same_curve(first, second, tolerance):
    one, two = metrics(first), metrics(second)
    if len(one) != len(two):
        sys.exit("the runs have different numbers of steps")
    apart = [abs(a["loss"] / b["loss"] - 1) for a, b in zip(one, two)]
    mean = sum(apart) / len(apart)
    print(f"losses differ by {mean:.2e} on average, {max(apart):.2e} at most; "
          f"last {one[-1]['loss']:.4f} and {two[-1]['loss']:.4f}")
    if not mean < tolerance:
        sys.exit(f"more than {tolerance}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=pathlib.Path)
    parser.add_argument("second", type=pathlib.Path)
    parser.add_argument("--curve", type=float, metavar="TOLERANCE")
    arguments = parser.parse_args()
    if arguments.curve is None:
        same_bits(arguments.first, arguments.second)
    else:
        same_curve(arguments.first, arguments.second, arguments.curve)


if __name__ == "__main__":
    main()
