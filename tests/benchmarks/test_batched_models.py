"""benchmarks/batched_models.py: the batched model computes what the single models compute."""

import sys

import torch

from vae.config.schema import CONF

sys.path.append(str(CONF.parent / "benchmarks"))
import batched_models


def test_the_batched_gradients_are_those_of_each_model(monkeypatch):
    """Without noise, because the two draw it differently."""
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, **_: torch.zeros(shape))
    torch.manual_seed(0)
    losses = [batched_models.Loss(batched_models.build_vae(8)) for _ in range(3)]
    x = torch.rand(5, 1, 28, 28).round()
    stacked, _ = torch.func.stack_module_state(losses)
    monkeypatch.setattr(batched_models, "stack_module_state", lambda _losses: (stacked, {}))
    batched_models.batched(losses, x)()
    batched_models.one_by_one(losses, x)()
    for i, loss in enumerate(losses):
        for name, parameter in loss.named_parameters():
            torch.testing.assert_close(stacked[name].grad[i], parameter.grad)
