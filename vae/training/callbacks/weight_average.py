"""The callback that averages the weights."""

from typing import Any

import torch
from pytorch_lightning import Callback
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage(Callback):
    """Keep an exponential moving average of the weights, average = decay average + (1 - decay) weights, from the start.

    `VAEModule` updates it after each optimizer step. From a validation to the next epoch, and after training, the model
    has the averaged weights: so these are shown, kept as the best ones, and tested.

    Lightning's EMAWeightAveraging is updated once per `training_step`, which takes several optimizer steps here, and a
    checkpoint of weights alone does not have its average.
    """

    def __init__(self, decay: float) -> None:
        self.update_average = get_ema_multi_avg_fn(decay)
        self.weights: list[Tensor] = []  # those of the model
        self.others: list[Tensor] = []  # the average or, while the model has it, the weights of the training
        self.averaged = False  # whether the model has the average
        self.restored: dict[str, Any] = {}

    def on_train_start(self, _trainer: Any, module: Any) -> None:
        self.weights = [parameter.data for parameter in module.parameters()]
        self.others = [weight.clone() for weight in self.weights]
        if self.restored:
            self.averaged = self.restored["averaged"]
            torch._foreach_copy_(self.others, self.restored["others"])
            self.use_average(False)
        module.average = self

    def update(self) -> None:
        """Add the weights after an optimizer step to the average."""
        self.update_average(self.others, self.weights, 0)

    def use_average(self, averaged: bool) -> None:
        """Give the model the averaged weights, or those of the training."""
        if averaged != self.averaged:
            weights = [weight.clone() for weight in self.weights]
            torch._foreach_copy_(self.weights, self.others)
            torch._foreach_copy_(self.others, weights)
            self.averaged = averaged

    def on_validation_start(self, *_: Any) -> None:
        self.use_average(True)

    def on_train_epoch_start(self, *_: Any) -> None:
        self.use_average(False)

    def on_train_end(self, *_: Any) -> None:
        self.use_average(True)

    def state_dict(self) -> dict[str, Any]:
        return {"others": self.others, "averaged": self.averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restored = state
