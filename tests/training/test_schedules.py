"""Schedules of the learning rate and of the objective's weight."""

import math

import pytest

from vae.training.schedules import BurdaSchedule, Constant, Cyclical, Linear, OneCycle


def test_constant_linear_and_cyclical_schedules():
    assert [Linear(warmup=0.2)(done) for done in (0, 0.1, 0.2, 1.0)] == [0, 0.5, 1, 1]
    assert [Constant()(done) for done in (0, 0.3, 1.0)] == [1, 1, 1]
    cycle = [Cyclical(cycles=4, warmup=0.5)(done) for done in (0, 0.0625, 0.125, 0.2, 0.25, 0.3125, 0.999, 1.0)]
    assert cycle == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1])


def test_one_cycle_increases_then_decreases_to_zero():
    assert OneCycle(warmup=0.1)(0.05) == pytest.approx(0.5)
    assert OneCycle(warmup=0.1)(0.1) == 1.0
    assert OneCycle(warmup=0.1)(0.55) == pytest.approx(0.5)
    assert OneCycle(warmup=0.1)(1.0) == pytest.approx(0.0)


def test_burda_schedule_over_its_3280_epochs():
    epochs = [BurdaSchedule(stages=8)(epoch / 3280) for epoch in range(3280)]
    expected = [10 ** (-i / 7) for i in range(8) for _ in range(3**i)]
    assert len(expected) == 3280
    assert epochs == pytest.approx(expected)
    assert BurdaSchedule(stages=8)(1.0) == pytest.approx(0.1)
    assert math.isclose(BurdaSchedule(stages=8)(0.0), 1.0)
