"""Approximate posteriors q(z|x), parameterised by the encoder's output.

Called with the outputs of the encoder, (B, outputs), a posterior returns a distribution over latents with batch shape
(B,), and with `rsample`, `log_prob` and `mean`.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, TransformedDistribution, constraints

from vae.errors import UserError
from vae.model.flows import MADE, GatedAutoregressive
from vae.model.vae import low_variance_log_q

MAX_LOG_VAR = 10.0  # standard deviations of e^-5 to e^5 are not changed by soft_clamp


def soft_clamp(log_var: Tensor) -> Tensor:
    """Return log_var, compressed logarithmically outside +-MAX_LOG_VAR, so that its exponential stays finite."""
    inside = log_var.clamp(-MAX_LOG_VAR, MAX_LOG_VAR)
    beyond = log_var - inside
    return inside + beyond.sign() * beyond.abs().log1p()


class DiagonalNormal(Independent):
    """N(mean, diag(exp(soft_clamp(log_var)))); mean and log_var are (..., D)."""

    def __init__(self, mean: Tensor, log_var: Tensor) -> None:
        self.log_var = soft_clamp(log_var)
        super().__init__(Normal(mean, (self.log_var / 2).exp(), validate_args=False), 1, validate_args=False)


class Posterior(nn.Module):
    """Base class. `outputs` is the number of outputs of the encoder."""

    outputs: int

    def build(self, decoder: nn.Module) -> None:
        """Use the decoder for inference, as posteriors with top-down inference do. By default, do nothing."""

    def wrap_encoder(self, encoder: nn.Module) -> nn.Module:
        """Return the encoder of a conditional model with this posterior: by default, the given one."""
        return encoder


class DiagonalGaussian(Posterior):
    """N(mean, diag(sigma^2)); the encoder outputs mean and log sigma^2 (Kingma & Welling 2013, app. C.2)."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.outputs = 2 * latent_dim

    def forward(self, h: Tensor) -> Distribution:
        return DiagonalNormal(*h.chunk(2, -1))


class FlowDistribution(TransformedDistribution):
    """Distribution given by a normalizing flow. Its mean has no closed form."""

    MEAN_SAMPLES = 256

    @property
    def mean(self) -> Tensor:
        """Mean of 256 samples, (B, D). Its standard error is 1/16 of the standard deviation."""
        return self.rsample(torch.Size([self.MEAN_SAMPLES])).mean(0)


@low_variance_log_q.register
def _(q: FlowDistribution, z: Tensor) -> Tensor:
    """The KL of the base q0 to N(0, I) is in closed form: log q0(z0) becomes log N(z0; 0, I) + KL(q0 || N(0, I))."""
    base: Any = q.base_dist
    log_det: Any = 0.0
    for step in reversed(q.transforms):
        y, z = z, step.inv(z)
        log_det = log_det + step.log_abs_det_jacobian(z, y)
    unit_normal = Normal(torch.zeros_like(base.mean), 1.0, validate_args=False)
    kl = (base.mean.square() + base.log_var.exp() - 1 - base.log_var).sum(-1) / 2
    return unit_normal.log_prob(z).sum(-1) + kl - log_det


class IAF(Posterior):
    """Inverse autoregressive flow: a diagonal Gaussian and `steps` transformations (Kingma et al. 2016).

    Each is a `MADE` with one hidden layer of `hidden_size`. Its inputs are z and `context` further outputs of the
    encoder. Every second one orders z in reverse. `log_prob` of any z but the latest sample takes D passes per step.
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
    """Point mass at z, (..., D). It can be sampled, but has no density."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, z: Tensor) -> None:
        self.z = z
        super().__init__(z.shape[:-1], z.shape[-1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.z

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.z.expand(*sample_shape, *self.z.shape)

    def log_prob(self, _value: Tensor) -> Tensor:
        raise UserError("posterior=point: a point mass has no density and no ELBO; expected objective=autoencoder")


class Point(Posterior):
    """Deterministic z, as in an autoencoder that is not variational."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.outputs = latent_dim

    def forward(self, h: Tensor) -> Distribution:
        return Delta(h)
