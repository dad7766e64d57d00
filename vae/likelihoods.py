"""p(x|z): what the decoder's output h says of the pixels.

A likelihood names `params_per_pixel`, how many numbers the decoder gives for each value of each pixel, and
`support`, the pixels it is a distribution over. Called with h, (..., params_per_pixel * C, H, W), it returns a
distribution over images (C, H, W) whose `log_prob` is in nats and whose `mean` is the picture to show.
"""

import torch.distributions as D
from torch import Tensor, nn
from torch.distributions import constraints


class Bernoulli(nn.Module):
    """x in {0, 1}; h is the logit (Kingma & Welling 2013, app. C.1)."""

    params_per_pixel = 1
    support = constraints.boolean

    def forward(self, h: Tensor) -> D.Distribution:
        return D.Independent(D.Bernoulli(logits=h, validate_args=False), 3, validate_args=False)


class ContinuousBernoulli(nn.Module):
    """A density over x in [0, 1]; h is the logit (Loaiza-Ganem & Cunningham 2019)."""

    params_per_pixel = 1
    support = constraints.unit_interval

    def forward(self, h: Tensor) -> D.Distribution:
        return D.Independent(D.ContinuousBernoulli(logits=h, validate_args=False), 3, validate_args=False)
