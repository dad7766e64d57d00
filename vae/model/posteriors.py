"""q(z|x): what the encoder's output says of the code.

A posterior says how many numbers it needs of the encoder, its `outputs`. Called with them, (B, outputs), it returns a
distribution over codes, a batch of B, with `rsample`, `log_prob` and `mean`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, TransformedDistribution, constraints

from vae.errors import UserError
from vae.model.flows import MADE, GatedAutoregressive

LOG_VAR = 10.0  # log-variances within +-10 are what the encoder says; codes of standard deviation e^-5 to e^5


def softly_bounded(log_var: Tensor) -> Tensor:
    """Unchanged within +-LOG_VAR, and beyond it growing as slowly as a logarithm: exp of it stays finite."""
    inside = log_var.clamp(-LOG_VAR, LOG_VAR)
    beyond = log_var - inside
    return inside + beyond.sign() * beyond.abs().log1p()


class DiagonalNormal(Independent):
    """N(mean, diag(exp(log_var))), both (..., D), with the log-variances softly bounded."""

    def __init__(self, mean: Tensor, log_var: Tensor) -> None:
        self.log_var = softly_bounded(log_var)
        super().__init__(Normal(mean, (self.log_var / 2).exp(), validate_args=False), 1, validate_args=False)


class DiagonalGaussian(nn.Module):
    """N(mean, diag(sigma^2)) from the means, then the log-variances (Kingma & Welling 2013, app. C.2)."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.outputs = 2 * latent_dim

    def forward(self, h: Tensor) -> Distribution:
        return DiagonalNormal(*h.chunk(2, -1))


class FlowDistribution(TransformedDistribution):
    """A distribution made by a flow; its mean has no closed form."""

    SAMPLES = 256

    @property
    def mean(self) -> Tensor:
        """From 256 samples: off by a sixteenth of a standard deviation, (B, D)."""
        return self.rsample(torch.Size([self.SAMPLES])).mean(0)


class IAF(nn.Module):
    """A diagonal Gaussian through `steps` inverse autoregressive transformations (Kingma et al. 2016).

    Each is a network of one hidden layer of `hidden_size`, which is told z and a `context` of so many numbers from
    the encoder; every other one takes z in the opposite order. Scoring a code it has not itself just drawn takes D
    passes.
    """

    def __init__(self, latent_dim: int, steps: int, hidden_size: int, context: int) -> None:
        super().__init__()
        self.sizes = [latent_dim, latent_dim, context]
        self.outputs = sum(self.sizes)
        self.steps = nn.ModuleList(MADE(latent_dim, hidden_size, context, i % 2 == 1) for i in range(steps))

    def forward(self, h: Tensor) -> Distribution:
        mean, log_var, context = h.split(self.sizes, -1)
        flow: list[Any] = [GatedAutoregressive(made, context) for made in self.steps]
        return FlowDistribution(DiagonalNormal(mean, log_var), flow, validate_args=False)


class Delta(Distribution):
    """All mass on one code, (..., D): it can be drawn, and has no density."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, code: Tensor) -> None:
        self.code = code
        super().__init__(code.shape[:-1], code.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.code

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.code.expand(*sample_shape, *self.code.shape)

    def log_prob(self, _value: Tensor) -> Tensor:
        raise UserError(
            "posterior=point: a point has no density, so nothing has an ELBO; expected objective=autoencoder"
        )


class Point(nn.Module):
    """The code itself, as in an autoencoder that is not variational."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.outputs = latent_dim

    def forward(self, h: Tensor) -> Distribution:
        return Delta(h)
