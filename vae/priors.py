"""p(z). A prior is called with the encoder, for those that are made of q, and returns a distribution over z."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal


class StandardNormal(nn.Module):
    """N(0, I) in `latent_dim` dimensions."""

    zero: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)

    def forward(self, _encoder: nn.Module) -> Distribution:
        return Independent(Normal(self.zero, torch.ones_like(self.zero), validate_args=False), 1, validate_args=False)
