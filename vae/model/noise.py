"""Noise on the images that the encoder sees in training, for the denoising criterion (Im et al. 2017).

The likelihood scores the image without noise. In evaluation there is no noise.
"""

import torch
from torch import Tensor, nn


class Gaussian(nn.Module):
    """Gaussian noise with standard deviation sigma on every pixel and channel. Pixels may leave [0, 1]."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sigma * torch.randn_like(x) if self.training else x


class Masking(nn.Module):
    """Each pixel of x, (B, C, H, W), becomes 0 with probability p, in all channels (Vincent et al. 2010)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand_like(x[:, :1]) >= self.p) if self.training else x
