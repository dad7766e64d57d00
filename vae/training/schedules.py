"""Schedules: functions of the fraction of training that is done, in [0, 1].

`optimizer.schedule` returns the factor of the learning rate (VAEModule.learning_rate), `objective.schedule` the factor
of the objective's weight, such as beta for a KL warm-up (Beta.weight).
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """Always 1."""

    def __call__(self, _done: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear:
    """Rise linearly from 0 to 1 during `warmup`, a fraction of the training, then stay at 1."""

    warmup: float

    def __call__(self, done: float) -> float:
        return min(1.0, done / self.warmup)


@dataclass(frozen=True)
class Cyclical:
    """Repeat `cycles` times: rise linearly from 0 to 1 during `warmup`, a fraction of the cycle (Fu et al. 2019)."""

    cycles: int
    warmup: float

    def __call__(self, done: float) -> float:
        cycle = min(int(done * self.cycles), self.cycles - 1)
        return min(1.0, (done * self.cycles - cycle) / self.warmup)


@dataclass(frozen=True)
class OneCycle:
    """Rise linearly to 1 during `warmup`, a fraction of the training, then follow half a cosine down to 0.

    From Smith & Topin (2018).
    """

    warmup: float

    def __call__(self, done: float) -> float:
        if done < self.warmup:
            return done / self.warmup
        return (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup))) / 2


@dataclass(frozen=True)
class BurdaSchedule:
    """Fall from 1 to 0.1 in `stages` steps, equal on a log scale. Each stage is three times as long as the last one.

    With 8 stages over 3280 epochs: 10^(-i/7) during 3^i epochs, i = 0..7 (Burda et al. 2016).
    """

    stages: int

    def __call__(self, done: float) -> float:
        position = 1 + done * (3**self.stages - 1)  # 3^i at the start of stage i
        i = min(int(math.log(position, 3) + 1e-9), self.stages - 1)
        return 10 ** (-i / (self.stages - 1))
