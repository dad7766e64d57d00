"""Learning rates over a run: a schedule maps the part of the run that is done, in [0, 1], to a factor of `lr`."""

import math


def constant(_done: float) -> float:
    """The learning rate itself, throughout."""
    return 1.0


def one_cycle(done: float, warmup: float) -> float:
    """Up in a straight line during `warmup`, a part of the run, then down half a cosine to 0 (Smith & Topin 2018)."""
    if done < warmup:
        return done / warmup
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2
