"""Priors p(z).

A prior is called with q, the function from images to q(z|x), which `VampPrior` needs. It returns a distribution over
latents.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal, TransformedDistribution, constraints
from torch.distributions.kl import register_kl

from vae.errors import UserError
from vae.model.flows import AffineCoupling, Coupling
from vae.model.networks import layer_sizes, mlp
from vae.model.posteriors import DiagonalNormal

Q = Callable[[Tensor], Distribution]


class Prior(nn.Module):
    """Base class, with the number of latent dimensions and the shape (C, H, W) of an image."""

    zero: Tensor

    def __init__(self, latent_dim: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.shape = shape
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)


class UnitNormal(Independent):
    """N(0, I), with the mean `zero`, (D,)."""

    def __init__(self, zero: Tensor) -> None:
        super().__init__(Normal(zero, torch.ones_like(zero), validate_args=False), 1, validate_args=False)


@register_kl(DiagonalNormal, UnitNormal)
def kl_to_unit_normal(q: DiagonalNormal, _p: UnitNormal) -> Tensor:
    """Return -1/2 sum_d (1 + log sigma_d^2 - mu_d^2 - sigma_d^2) (Kingma & Welling 2013, app. B)."""
    return (q.mean.square() + q.log_var.exp() - 1 - q.log_var).sum(-1) / 2


class StandardNormal(Prior):
    """N(0, I)."""

    def forward(self, _q: Q) -> Distribution:
        return UnitNormal(self.zero)


class DiagonalGaussian(Prior):
    """N(mean, diag(sigma^2)), with learned mean and sigma."""

    def __init__(self, latent_dim: int, shape: tuple[int, int, int]) -> None:
        super().__init__(latent_dim, shape)
        self.mean, self.log_var = (nn.Parameter(torch.zeros(latent_dim)) for _ in range(2))

    def forward(self, _q: Q) -> Distribution:
        return DiagonalNormal(self.mean, self.log_var)


class DiagonalMixture(Distribution):
    """Mixture of Gaussians sum_k pi_k N(mean_k, diag(scale_k^2)); log_pi is (K,), mean and scale are (K, D).

    `log_prob` expands ((z - mean) / scale)^2 into two matrix products, so that no tensor of shape (..., K, D) is
    needed. In float32, its error is about 0.01 nats for scales above 0.1, and about 1 nat for scales of e^-5.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, log_pi: Tensor, mean: Tensor, scale: Tensor) -> None:
        self.log_pi, self.means, self.scales = log_pi, mean, scale
        super().__init__(torch.Size(), mean.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        precision = self.scales**-2
        constant = (self.means**2 * precision / 2 + self.scales.log() + math.log(2 * math.pi) / 2).sum(-1)
        square, product = value**2 @ precision.T / 2, value @ (self.means * precision).T
        return (self.log_pi - constant - square + product).logsumexp(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        k = Categorical(logits=self.log_pi, validate_args=False).sample(torch.Size(sample_shape))
        return torch.normal(self.means[k], self.scales[k])


class Mixture(Prior):
    """Mixture of `components` diagonal Gaussians, with learned weights, means and scales."""

    def __init__(self, latent_dim: int, shape: tuple[int, int, int], components: int) -> None:
        super().__init__(latent_dim, shape)
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self, _q: Q) -> Distribution:
        return DiagonalMixture(self.logits.log_softmax(0), self.means, self.log_scales.exp())


class VampPrior(Prior):
    """1/K sum_k q(z|u_k), with K learned images u_k, the pseudo-inputs (Tomczak & Welling 2018).

    Their pixels are initialised from N(mean, 0.01^2).
    """

    def __init__(self, latent_dim: int, shape: tuple[int, int, int], pseudo_inputs: int, mean: float) -> None:
        super().__init__(latent_dim, shape)
        self.u = nn.Parameter(torch.normal(mean, 0.01, (pseudo_inputs, *self.shape)))

    def forward(self, q: Q) -> Distribution:
        q_u: Any = q(self.u.clamp(0, 1))
        if not isinstance(q_u, Independent):
            raise UserError("prior=vampprior: its components must be Gaussian; expected posterior=diagonal_gaussian")
        log_pi = torch.full(q_u.batch_shape, -math.log(len(self.u)), device=self.u.device)
        return DiagonalMixture(log_pi, q_u.base_dist.loc, q_u.base_dist.scale)


class HierarchicalPrior(Distribution):
    """p(z1), the integral of p(z1|z2) p(z2) over z2. `encoder` gives q(z2|z1), and `decoder` gives p(z1|z2).

    p(z1|z2) has means in (-1, 1) and variances in (0, 2): the decoder can rescale z1, so this is no restriction.
    Without it, location and scale of z1 grow in training until a decoder with tanh saturates.

    `log_prob` returns log p(z1, z2) - log q(z2|z1) for one new sample z2 ~ q(z2|z1). Its exponential is an unbiased
    estimate of p(z1), so that log w, the bounds and the estimate of log p(x) are those of the two-layer model.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, p_z2: Independent, encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> None:
        self.p_z2, self.encoder, self.decoder = p_z2, encoder, decoder
        super().__init__(torch.Size(), torch.Size([latent_dim]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        q_z2 = DiagonalNormal(*self.encoder(value).chunk(2, -1))
        z2 = q_z2.rsample()
        return self.p_z1(z2).log_prob(value) + self.p_z2.log_prob(z2) - q_z2.log_prob(z2)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        z2 = self.p_z2.sample(torch.Size(sample_shape))
        return self.p_z1(z2).sample()

    def p_z1(self, z2: Tensor) -> Distribution:
        """Return p(z1|z2). It is N(0, I) if `decoder` returns 0."""
        mean, log_var = self.decoder(z2).chunk(2, -1)
        return DiagonalNormal(mean.tanh(), math.log(2) + F.logsigmoid(log_var))


class TwoLayers(Prior):
    """A second stochastic layer z2, with `top_dim` units, above z (Burda et al. 2016)."""

    def __init__(
        self,
        latent_dim: int,
        shape: tuple[int, int, int],
        top_dim: int,
        hidden_size: int | Sequence[int],
        activation: str,
    ) -> None:
        super().__init__(latent_dim, shape)
        self.encoder = mlp([latent_dim, *layer_sizes(hidden_size), 2 * top_dim], activation)
        self.decoder = mlp([top_dim, *reversed(layer_sizes(hidden_size)), 2 * latent_dim], activation)
        self.top_dim = top_dim

    def forward(self, _q: Q) -> Distribution:
        return HierarchicalPrior(
            UnitNormal(self.zero.new_zeros(self.top_dim)), self.encoder, self.decoder, self.latent_dim
        )


class Flow(Prior):
    """Normalizing flow: N(0, I) and `steps` affine coupling layers (RealNVP, Dinh et al. 2017)."""

    def __init__(
        self, latent_dim: int, shape: tuple[int, int, int], steps: int, hidden_size: int | Sequence[int]
    ) -> None:
        super().__init__(latent_dim, shape)
        if latent_dim < 2:
            raise UserError(f"prior=flow latent_dim={latent_dim}: expected a latent_dim of 2 or more")
        self.steps = nn.ModuleList(Coupling(latent_dim, hidden_size, i % 2 == 1) for i in range(steps))

    def forward(self, _q: Q) -> Distribution:
        flow: list[Any] = [AffineCoupling(step) for step in self.steps]
        return TransformedDistribution(UnitNormal(self.zero), flow, validate_args=False)
