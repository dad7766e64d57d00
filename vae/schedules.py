"""What changes over a run: a schedule maps the part of it that is done, in [0, 1], to a factor of `lr` or of `beta`."""

import math


def constant(_done: float) -> float:
    """The value itself, throughout."""
    return 1.0


def linear(done: float, warmup: float) -> float:
    """Up from 0 in a straight line during `warmup`, a part of the run, and there it stays."""
    return min(1.0, done / warmup)


def cyclical(done: float, cycles: int, warmup: float) -> float:
    """`cycles` times up from 0 in a straight line, each during `warmup`, a part of the cycle (Fu et al. 2019)."""
    cycle = min(int(done * cycles), cycles - 1)
    return linear(done * cycles - cycle, warmup)


def one_cycle(done: float, warmup: float) -> float:
    """Up in a straight line during `warmup`, a part of the run, then down half a cosine to 0 (Smith & Topin 2018)."""
    if done < warmup:
        return done / warmup
    return (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def powers_of_three(done: float, stages: int) -> float:
    """In `stages` stages, each three times as long as the one before, evenly in the logarithm down to 0.1.

    With 8, over 3280 epochs: 10^(-i/7) during 3^i epochs, i = 0..7 (Burda et al. 2016).
    """
    first = 1 + done * (3**stages - 1)  # 3^i where stage i begins
    i = min(int(math.log(first, 3) + 1e-9), stages - 1)
    return 10 ** (-i / (stages - 1))
