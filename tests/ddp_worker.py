"""Objectives that say, or break, what one of several processes does."""

import os
import pickle
from pathlib import Path

import torch

from vae.model.objectives import ELBO

RANK = os.environ.get("LOCAL_RANK", "alone")


class Witness(ELBO):
    """Leaves the images of each step, and the noise of their codes, in seen_<rank>."""

    def __call__(self, terms, weight):
        if torch.is_grad_enabled():
            with Path(f"seen_{RANK}").open("ab") as file:
                q = terms.q_z.base_dist
                pickle.dump((terms.x.numpy(), ((terms.z - q.loc) / q.scale).detach().numpy()), file)
        return super().__call__(terms, weight)


class Broken(ELBO):
    """In the second process, and at the eighth step, NaN; or an error."""

    steps = -1  # the first is the check before the run

    def weight(self, done):
        self.steps += torch.is_grad_enabled()
        return super().weight(done)

    def __call__(self, terms, weight):
        values = super().__call__(terms, weight)
        return self.broken(values) if (RANK, self.steps) == ("1", 8) else values


class Nan(Broken):
    def broken(self, values):
        return values * float("nan")


class Crash(Broken):
    def broken(self, _values):
        raise ZeroDivisionError("of the second process")
