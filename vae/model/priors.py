"""Priors p(z), and p(z|y) of conditional models.

A prior is called with q, the function from images to q(z|x), which `VampPrior` needs. It returns a distribution over
latents. In a conditional model, it is also called with labels y, (B, labels), and q takes images and their labels. The
distribution of a learned prior then has the batch shape (B,).
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
from vae.model.networks import layer_sizes, mlp, with_labels
from vae.model.posteriors import DiagonalNormal
from vae.model.vae import is_gaussian

Q = Callable[..., Distribution]


class Prior(nn.Module):
    """Base class, with the number of latent dimensions, the shape (C, H, W) of an image and the number of labels."""

    zero: Tensor

    def __init__(self, latent_dim: int, shape: tuple[int, int, int], labels: int = 0) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.shape = shape
        self.labels = labels
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)


def zeros_per_label(labels: int, n: int) -> nn.Parameter:
    """Return a parameter of zeros, (labels, n), or (n,) without labels."""
    return nn.Parameter(torch.zeros(labels, n) if labels else torch.zeros(n))


def row_of_label(parameter: Tensor, *y: Tensor) -> Tensor:
    """Return the rows (B, n) of a parameter (labels, n) for labels y, (B, labels); without labels, the parameter."""
    return y[0] @ parameter if y else parameter


class UnitNormal(Independent):
    """N(0, I), with the mean `zero`, (D,)."""

    def __init__(self, zero: Tensor) -> None:
        super().__init__(Normal(zero, torch.ones_like(zero), validate_args=False), 1, validate_args=False)


@register_kl(DiagonalNormal, UnitNormal)
def kl_to_unit_normal(q: DiagonalNormal, _p: UnitNormal) -> Tensor:
    """Return -1/2 sum_d (1 + log sigma_d^2 - mu_d^2 - sigma_d^2) (Kingma & Welling 2013, app. B)."""
    return (q.mean.square() + q.log_var.exp() - 1 - q.log_var).sum(-1) / 2


class StandardNormal(Prior):
    """N(0, I), for every label."""

    def forward(self, _q: Q, *_y: Tensor) -> Distribution:
        return UnitNormal(self.zero)


class DiagonalGaussian(Prior):
    """N(mean, diag(sigma^2)), with learned mean and sigma. Each label has its own."""

    def __init__(self, latent_dim: int, shape: tuple[int, int, int], labels: int = 0) -> None:
        super().__init__(latent_dim, shape, labels)
        self.mean, self.log_var = (zeros_per_label(labels, latent_dim) for _ in range(2))

    def forward(self, _q: Q, *y: Tensor) -> Distribution:
        return DiagonalNormal(row_of_label(self.mean, *y), row_of_label(self.log_var, *y))


class DiagonalMixture(Distribution):
    """Mixture of Gaussians sum_k pi_k N(mean_k, diag(scale_k^2)); log_pi is (..., K), mean and scale are (K, D).

    `log_prob` expands ((z - mean) / scale)^2 into two matrix products, so that no tensor of shape (..., K, D) is
    needed. In float32, its error is about 0.01 nats for scales above 0.1, and about 1 nat for scales of e^-5.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, log_pi: Tensor, mean: Tensor, scale: Tensor) -> None:
        self.log_pi, self.means, self.scales = log_pi, mean, scale
        super().__init__(log_pi.shape[:-1], mean.shape[-1:], validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        precision = self.scales**-2
        constant = (self.means**2 * precision / 2 + self.scales.log() + math.log(2 * math.pi) / 2).sum(-1)
        square, product = value**2 @ precision.T / 2, value @ (self.means * precision).T
        return (self.log_pi - constant - square + product).logsumexp(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        k = Categorical(logits=self.log_pi, validate_args=False).sample(torch.Size(sample_shape))
        return torch.normal(self.means[k], self.scales[k])


class Mixture(Prior):
    """Mixture of `components` diagonal Gaussians, with learned weights, means and scales.

    Each label has its own weights.
    """

    def __init__(self, latent_dim: int, shape: tuple[int, int, int], components: int, labels: int = 0) -> None:
        super().__init__(latent_dim, shape, labels)
        self.logits = zeros_per_label(labels, components)
        self.means = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scales = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self, _q: Q, *y: Tensor) -> Distribution:
        return DiagonalMixture(row_of_label(self.logits, *y).log_softmax(-1), self.means, self.log_scales.exp())


class VampPrior(Prior):
    """1/K sum_k q(z|u_k), with K learned images u_k, the pseudo-inputs (Tomczak & Welling 2018).

    Their pixels are initialised from N(mean, 0.01^2). In a conditional model, each pseudo-input has a label, and p(z|y)
    is the mean of q(z|u_k, y) over those with the label y.
    """

    u_labels: Tensor

    def __init__(
        self, latent_dim: int, shape: tuple[int, int, int], pseudo_inputs: int, mean: float, labels: int = 0
    ) -> None:
        super().__init__(latent_dim, shape, labels)
        if pseudo_inputs < labels:
            raise UserError(f"prior.pseudo_inputs={pseudo_inputs}: expected {labels} or more, one for each label")
        self.u = nn.Parameter(torch.normal(mean, 0.01, (pseudo_inputs, *self.shape)))
        rows = torch.arange(pseudo_inputs) % max(1, labels)
        self.register_buffer("u_labels", torch.eye(labels)[rows] if labels else torch.zeros(0), persistent=False)

    def forward(self, q: Q, *y: Tensor) -> Distribution:
        q_u: Any = q(self.u.clamp(0, 1), self.u_labels) if y else q(self.u.clamp(0, 1))
        if not is_gaussian(q_u):
            raise UserError("prior=vampprior: its components must be Gaussian; expected posterior=diagonal_gaussian")
        log_pi = torch.full(q_u.batch_shape, -math.log(len(self.u)), device=self.u.device)
        if y:
            log_pi = (y[0] @ (self.u_labels / self.u_labels.sum(0)).T).log()
        return DiagonalMixture(log_pi, q_u.base_dist.loc, q_u.base_dist.scale)


def batch_shape(*y: Tensor) -> torch.Size:
    """Return (B,) for labels y, (B, labels), and () without labels."""
    return y[0].shape[:1] if y else torch.Size()


class HierarchicalPrior(Distribution):
    """p(z1), the integral of p(z1|z2) p(z2) over z2. `encoder` gives q(z2|z1), and `decoder` gives p(z1|z2).

    p(z1|z2) has means in (-1, 1) and variances in (0, 2): the decoder can rescale z1, so this is no restriction.
    Without it, location and scale of z1 grow in training until a decoder with tanh saturates.

    `log_prob` returns log p(z1, z2) - log q(z2|z1) for one new sample z2 ~ q(z2|z1). Its exponential is an unbiased
    estimate of p(z1), so that log w, the bounds and the estimate of log p(x) are those of the two-layer model.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, p_z2: Independent, encoder: nn.Module, decoder: nn.Module, latent_dim: int, *y: Tensor) -> None:
        self.p_z2, self.encoder, self.decoder, self.y = p_z2, encoder, decoder, y
        super().__init__(p_z2.batch_shape, torch.Size([latent_dim]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        q_z2 = DiagonalNormal(*self.encoder(with_labels(value, *self.y)).chunk(2, -1))
        z2 = q_z2.rsample()
        return self.p_z1(z2).log_prob(value) + self.p_z2.log_prob(z2) - q_z2.log_prob(z2)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        z2 = self.p_z2.sample(torch.Size(sample_shape))
        return self.p_z1(z2).sample()

    def p_z1(self, z2: Tensor) -> Distribution:
        """Return p(z1|z2). It is N(0, I) if `decoder` returns 0."""
        mean, log_var = self.decoder(with_labels(z2, *self.y)).chunk(2, -1)
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
        labels: int = 0,
    ) -> None:
        super().__init__(latent_dim, shape, labels)
        self.encoder = mlp([latent_dim + labels, *layer_sizes(hidden_size), 2 * top_dim], activation)
        self.decoder = mlp([top_dim + labels, *reversed(layer_sizes(hidden_size)), 2 * latent_dim], activation)
        self.top_dim = top_dim

    def forward(self, _q: Q, *y: Tensor) -> Distribution:
        p_z2 = UnitNormal(self.zero.new_zeros(*batch_shape(*y), self.top_dim))
        return HierarchicalPrior(p_z2, self.encoder, self.decoder, self.latent_dim, *y)


class Flow(Prior):
    """Normalizing flow: N(0, I) and `steps` affine coupling layers (RealNVP, Dinh et al. 2017)."""

    def __init__(
        self,
        latent_dim: int,
        shape: tuple[int, int, int],
        steps: int,
        hidden_size: int | Sequence[int],
        labels: int = 0,
    ) -> None:
        super().__init__(latent_dim, shape, labels)
        if latent_dim < 2:
            raise UserError(f"prior=flow latent_dim={latent_dim}: expected a latent_dim of 2 or more")
        self.steps = nn.ModuleList(Coupling(latent_dim, hidden_size, i % 2 == 1, labels) for i in range(steps))

    def forward(self, _q: Q, *y: Tensor) -> Distribution:
        flow: list[Any] = [AffineCoupling(step, *y) for step in self.steps]
        base = UnitNormal(self.zero.expand(*batch_shape(*y), -1))
        return TransformedDistribution(base, flow, validate_args=False)
