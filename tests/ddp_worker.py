"""Parts for tests of trainer=ddp: they record the steps of a process, make one fail, or have no noise."""

import os
import pickle
from pathlib import Path

import torch

from vae.model.objectives import ELBO
from vae.model.posteriors import DiagonalGaussian, DiagonalNormal

RANK = os.environ.get("LOCAL_RANK", "single")


class Recorder(ELBO):
    """The ELBO; it writes the images of each step, and the noise of their latents, to steps_<rank>."""

    def __call__(self, terms, weight):
        if torch.is_grad_enabled():
            with Path(f"steps_{RANK}").open("ab") as file:
                q = terms.q_z.base_dist
                pickle.dump((terms.x.numpy(), ((terms.z - q.loc) / q.scale).detach().numpy()), file)
        return super().__call__(terms, weight)


class Failure(ELBO):
    """The ELBO, but `fail` is called in step 8 of the second process."""

    steps = -1  # the first call is the check before training

    def weight(self, done):
        self.steps += torch.is_grad_enabled()
        return super().weight(done)

    def __call__(self, terms, weight):
        values = super().__call__(terms, weight)
        return self.fail(values) if (RANK, self.steps) == ("1", 8) else values


class Nan(Failure):
    def fail(self, values):
        return values * float("nan")


class Crash(Failure):
    def fail(self, _values):
        raise ZeroDivisionError("in the second process")


class NoiselessNormal(DiagonalNormal):
    """A Gaussian whose samples are its mean."""

    def rsample(self, sample_shape=()):
        return self.mean.expand(*sample_shape, *self.mean.shape)


class Noiseless(DiagonalGaussian):
    """q(z|x) without noise, so that several processes give exactly the numbers of one."""

    def forward(self, h):
        return NoiselessNormal(*h.chunk(2, -1))
