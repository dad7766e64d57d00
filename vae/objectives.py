"""What training maximises: a callable from Terms and the part of the run that is done to one value per image, (B,)."""

from dataclasses import dataclass

from torch import Tensor

from vae.model import Terms


class ELBO:
    """The evidence lower bound (Kingma & Welling 2013, sec. 2.3)."""

    def __call__(self, terms: Terms, _done: float) -> Tensor:
        return terms.elbo


@dataclass
class KLWarmUp:
    """The ELBO with its KL times beta, which rises from 0 to 1 in `warmup`, a part of the run (Bowman et al. 2016)."""

    warmup: float

    def __call__(self, terms: Terms, done: float) -> Tensor:
        beta = min(1.0, done / self.warmup)
        return terms.log_likelihood - beta * terms.kl
