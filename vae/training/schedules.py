"""What changes over a run: a schedule maps the part of it that is done, in [0, 1], to a factor of `lr` or of `beta`."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """The value itself, throughout."""

    def __call__(self, _done: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear:
    """Up from 0 in a straight line during `warmup`, a part of the run, and there it stays."""

    warmup: float

    def __call__(self, done: float) -> float:
        return min(1.0, done / self.warmup)


@dataclass(frozen=True)
class Cyclical:
    """`cycles` times up from 0 in a straight line, each during `warmup`, a part of the cycle (Fu et al. 2019)."""

    cycles: int
    warmup: float

    def __call__(self, done: float) -> float:
        cycle = min(int(done * self.cycles), self.cycles - 1)
        return min(1.0, (done * self.cycles - cycle) / self.warmup)


@dataclass(frozen=True)
class OneCycle:
    """Up in a straight line during `warmup`, a part of the run, then down half a cosine to 0 (Smith & Topin 2018)."""

    warmup: float

    def __call__(self, done: float) -> float:
        if done < self.warmup:
            return done / self.warmup
        return (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2


@dataclass(frozen=True)
class BurdaSchedule:
    """In `stages` stages, each three times as long as the one before, evenly in the logarithm down to 0.1.

    With 8, over 3280 epochs: 10^(-i/7) during 3^i epochs, i = 0..7 (Burda et al. 2016).
    """

    stages: int

    def __call__(self, done: float) -> float:
        first = 1 + done * (3**self.stages - 1)  # 3^i where stage i begins
        i = min(int(math.log(first, 3) + 1e-9), self.stages - 1)
        return 10 ** (-i / (self.stages - 1))
