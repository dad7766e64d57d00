"""What training maximises: a callable from Terms to one value per image, (B,), in nats."""

from torch import Tensor

from vae.model import Terms


class ELBO:
    """The evidence lower bound (Kingma & Welling 2013, sec. 2.3)."""

    def __call__(self, terms: Terms) -> Tensor:
        return terms.elbo
