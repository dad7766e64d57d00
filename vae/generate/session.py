"""A trained model with the options of `vae.generate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vae.api.images import SelectedImages
from vae.api.trained_model import TrainedModel


@dataclass(frozen=True)
class Session(TrainedModel):
    """The model and images of a run, and the options of the command line."""

    folder: Path = Path()
    n: int | None = None
    temperature: float = 1.0
    source: str = "prior"
    interpolation: str = "spherical"
    images: Sequence[str | int] = ()
    fuse: Sequence[str | int] = ()
    arithmetic: Sequence[str | int] = ()
    dimensions: Sequence[int] = ()

    def sample(self, n: int) -> Tensor:
        """Sample n codes, (n, D)."""
        return self.sample_codes(n, self.temperature, self.source)

    def between(self, pair: SelectedImages, t: Tensor) -> Tensor:
        """Decode the codes between two images at t (T,): (T, C, H, W)."""
        return self.interpolate(self.encode(pair.x), t, self.interpolation)
