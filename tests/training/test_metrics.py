"""The metrics of the test set, on a linear model."""

import torch
from fakes import SHAPE, Halves, Pixels, code
from torch import nn

from vae.model.likelihoods import Bernoulli
from vae.model.priors import StandardNormal
from vae.model.vae import VAE
from vae.training import metrics


class Sampled(Bernoulli):
    sampled_mean = True


def test_the_squared_error_of_sampled_means_is_that_of_the_first_images(monkeypatch):
    monkeypatch.setattr(metrics, "MAX_SAMPLED_MEANS", 5)
    x = torch.bernoulli(torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(0)))
    errors = (code(x).sigmoid() - x.flatten(1)).square().sum(1)
    mean_image = torch.full(SHAPE, 0.25)
    baseline = (x - mean_image).square().flatten(1).sum(1)
    for likelihood, n in ((Sampled(), 5), (Bernoulli(), 12)):
        vae = VAE(nn.Identity(), Halves(), Pixels(), likelihood, StandardNormal(4, SHAPE))
        test = metrics.TestMetrics(vae, {"elbo": "elbo"}, mean_image, K=2, images=7)
        for batch in x.split(4):
            test.update(batch)
        values = test.compute()
        torch.testing.assert_close(values["test/squared_error"], errors[:n].mean().item())
        torch.testing.assert_close(values["test/squared_error_of_mean_image"], baseline[:n].mean().item())
        assert len(torch.cat(test.log_px)) == 7
