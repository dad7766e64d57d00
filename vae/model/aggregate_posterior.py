"""Objectives with a term of the aggregate posterior q(z) = 1/N sum_n q(z|x_n), the mean over N training images.

Their terms are scalars, (), estimated from the B images of a batch; in distributed training, of the whole batch.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Normal

from vae.errors import UserError
from vae.model.objectives import Beta, Objective, whole_batch
from vae.model.sampling import sample_shape
from vae.model.vae import VAE, Terms, is_gaussian


@dataclass(frozen=True)
class DecomposedTerms(Terms):
    """Terms with the three parts of the mean KL(q(z|x) || p(z)), which are its sum (Chen et al. 2018, eq. 2).

    The densities q(z) and q(z_d) of a sample for image i are estimated without bias from the batch, by stratified
    sampling: image i has the weight 1/N, and each other image (N - 1)/N/(B - 1) (app. C.2, the mean over all orders of
    the images). Raises UserError if q(z|x) is not a Gaussian.
    """

    N: int  # training images

    @cached_property
    def log_qz(self) -> tuple[Tensor, Tensor]:
        """log q(z) and log prod_d q(z_d) of the samples of the whole batch, (B, K)."""
        if not is_gaussian(self.q_z):
            raise UserError("objective=beta_tc: q(z|x) must be a Gaussian; expected posterior=diagonal_gaussian")
        K, _, D = self.z.shape
        q: Any = self.q_z
        q = q.base_dist
        batch = whole_batch(torch.cat([q.loc, q.scale, self.z.transpose(0, 1).flatten(1)], 1))
        mean, scale, z = batch.split([D, D, K * D], 1)
        log_q = Normal(mean, scale, validate_args=False).log_prob(z.unflatten(1, (K, 1, D)))  # (B, K, B, D)
        B = len(batch)
        other_images = (self.N - 1) / self.N / max(1, B - 1)
        same_image = torch.eye(B, dtype=torch.bool, device=z.device)
        log_weight = torch.where(same_image, 1 / self.N, other_images).log()[:, None]  # (B, 1, B)
        log_marginals = (log_q + log_weight.unsqueeze(-1)).logsumexp(-2)  # (B, K, D)
        return (log_q.sum(-1) + log_weight).logsumexp(-1), log_marginals.sum(-1)

    @property
    def mutual_information(self) -> Tensor:
        """KL(q(z, n) || q(z) q(n)), between the latents and the number n of the image."""
        return self.log_qz_x.mean() - self.log_qz[0].mean()

    @property
    def total_correlation(self) -> Tensor:
        """KL(q(z) || prod_d q(z_d)); it is 0 if the dimensions of z are independent."""
        return (self.log_qz[0] - self.log_qz[1]).mean()

    @property
    def dimension_wise_kl(self) -> Tensor:
        """KL(prod_d q(z_d) || p(z)), the sum of those of the dimensions if they are independent in p(z)."""
        return self.log_qz[1].mean() - self.log_pz.mean()


@dataclass
class BetaTC(Beta):
    """ELBO in which the total correlation of q(z) has the weight beta instead of 1 (Chen et al. 2018, eq. 4).

    E_q[log p(x|z)] - I(z; n) - beta KL(q(z) || prod_d q(z_d)) - KL(prod_d q(z_d) || p(z)), that is alpha = gamma = 1.
    """

    details: ClassVar[tuple[str, ...]] = ("total_correlation", "mutual_information", "dimension_wise_kl")

    def terms(self, vae: VAE, x: Tensor, N: int) -> Terms:
        return DecomposedTerms(**vars(vae.terms(x, self.K)), N=N)

    def __call__(self, terms: Any, weight: float | Tensor) -> Tensor:
        return terms.elbo - (weight - 1) * terms.total_correlation


def gaussian_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return exp(-|a_i - b_j|^2 / D^2), (..., A, B), for points a, (..., A, D), and b, (..., B, D)."""
    return (-(a.unsqueeze(-2) - b.unsqueeze(-3)).square().sum(-1) / a.shape[-1] ** 2).exp()


class MMDTerms(Terms):
    """Terms with the distance of q(z) from p(z)."""

    @cached_property
    def mmd(self) -> Tensor:
        """Squared maximum mean discrepancy of q(z) and p(z), with `gaussian_kernel` (Gretton et al. 2012, eq. 3).

        It is estimated without bias from a sample of q(z|x) for each image and as many of p(z), so it can be negative.
        """
        K, b, D = self.z.shape
        of_prior = self.p_z.sample(sample_shape(self.p_z, b)).detach()
        batch = whole_batch(torch.cat([self.z.transpose(0, 1).flatten(1), of_prior], 1))
        z, of_prior = batch[:, : K * D].unflatten(1, (K, D)).transpose(0, 1), batch[:, K * D :]
        pairs = len(batch) * (len(batch) - 1)
        if not pairs:
            return z.new_zeros(())
        within = [(gaussian_kernel(part, part).sum((-2, -1)) - len(batch)) / pairs for part in (z, of_prior)]
        return (within[0] + within[1] - 2 * gaussian_kernel(z, of_prior).mean((-2, -1))).mean()


@dataclass
class Info(Objective):
    """InfoVAE, with the maximum mean discrepancy of q(z) and p(z) (Zhao et al. 2017, eq. 6).

    E_q[log p(x|z)] - (1 - alpha) KL(q(z|x) || p(z)) - (alpha + lambda - 1) MMD(q(z), p(z)). A learned prior p(z) is
    fitted to q(z|x) as by the ELBO, whatever alpha is.
    """

    alpha: float
    lambda_: float
    details: ClassVar[tuple[str, ...]] = ("mmd",)

    def terms(self, vae: VAE, x: Tensor, _N: int) -> Terms:
        return MMDTerms(**vars(vae.terms(x, self.K)))

    def __call__(self, terms: Any, _weight: float | Tensor) -> Tensor:
        fit = terms.p_z.log_prob(terms.z.detach()).mean(0)
        divergence = (1 - self.alpha) * terms.kl + (self.alpha + self.lambda_ - 1) * terms.mmd
        return terms.log_likelihood - divergence + self.alpha * (fit - fit.detach())


class CovarianceTerms(Terms):
    """Terms with the covariance C = Cov_x(E_q[z|x]) of the means of q(z|x)."""

    @cached_property
    def covariance(self) -> Tensor:
        """C, (D, D)."""
        mean = whole_batch(self.q_z.mean)
        deviation = mean - mean.mean(0)
        return deviation.T @ deviation / len(mean)

    @property
    def diagonal_covariance(self) -> Tensor:
        """sum_i (C_ii - 1)^2."""
        return (self.covariance.diagonal() - 1).square().sum()

    @property
    def off_diagonal_covariance(self) -> Tensor:
        """sum_{i != j} C_ij^2."""
        return self.covariance.square().sum() - self.covariance.diagonal().square().sum()


@dataclass
class DIP(Objective):
    """ELBO - lambda_od sum_{i != j} C_ij^2 - lambda_d sum_i (C_ii - 1)^2 (Kumar et al. 2018, DIP-VAE-I).

    C = Cov_x(E_q[z|x]) is the covariance of the means of q(z|x).
    """

    lambda_od: float
    lambda_d: float
    details: ClassVar[tuple[str, ...]] = ("off_diagonal_covariance", "diagonal_covariance")

    def terms(self, vae: VAE, x: Tensor, _N: int) -> Terms:
        return CovarianceTerms(**vars(vae.terms(x, self.K)))

    def __call__(self, terms: Any, _weight: float | Tensor) -> Tensor:
        penalty = self.lambda_od * terms.off_diagonal_covariance + self.lambda_d * terms.diagonal_covariance
        return terms.elbo - penalty
