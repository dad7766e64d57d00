"""Plain PyTorch loop: float images in memory, torch.bernoulli per batch, fused Adam."""

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """Return the ELBO of each image, (B,), for x (B, 784)."""
    mean, log_var = encoder(x).chunk(2, -1)
    z = mean + (log_var / 2).exp() * torch.randn_like(mean)
    log_px_z = -F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(-1)
    kl = (mean.square() + log_var.exp() - 1 - log_var).sum(-1) / 2
    return log_px_z - kl


def mean_elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> float:
    """Return the mean ELBO, in nats, of images (N, 784)."""
    with torch.inference_mode():
        return torch.cat([elbo(encoder, decoder, batch) for batch in x.split(500)]).mean().item()


torch.manual_seed(0)
grey = torch.from_numpy(common.train()) / 255
val, test = torch.from_numpy(common.val()), torch.from_numpy(common.test())
encoder = nn.Sequential(
    nn.Linear(common.PIXELS, common.HIDDEN), nn.Tanh(), nn.Linear(common.HIDDEN, 2 * common.LATENT_DIM)
)
decoder = nn.Sequential(nn.Linear(common.LATENT_DIM, common.HIDDEN), nn.Tanh(), nn.Linear(common.HIDDEN, common.PIXELS))
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=common.LR, fused=True)
for epoch in range(common.EPOCHS):
    for rows in torch.randperm(len(grey)).split(common.BATCH):
        x = torch.bernoulli(grey[rows])
        loss = -elbo(encoder, decoder, x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    common.report_epoch(epoch + 1, mean_elbo(encoder, decoder, val))
common.report_test(mean_elbo(encoder, decoder, test))
