"""A trained model with the options of `vae.generate`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vae.api.images import SelectedImages
from vae.api.trained_model import TrainedModel
from vae.errors import UserError


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
    candidates: int | None = None
    label: str | int | Sequence[str | int] | None = None

    def labels(self, n: int) -> tuple[Tensor, ...]:
        """Return the labels of n samples of a conditional model, one-hot (n, labels): `label`, or all in turn."""
        return self.find_labels("label", self.label, n)

    def sample(self, n: int, *y: Tensor) -> Tensor:
        """Sample n codes, (n, D)."""
        return self.sample_codes(n, self.temperature, self.source, *y)

    def own_labels(self, images: SelectedImages) -> tuple[Tensor, ...]:
        """Return the labels of images; `label` for those that are not in the dataset. Raises UserError without it."""
        if self.label_names and not images.y and self.label is None:
            raise UserError(f"label: expected the label of {', '.join(images.names)}, for a run with conditional=true")
        return images.y or self.labels(len(images.x))

    def new_labels(self, images: SelectedImages) -> tuple[Tensor, ...]:
        """Return the labels of the pictures made from images: `label`, or the images' own."""
        return self.own_labels(images) if self.label is None else self.labels(len(images.x))

    def encode_images(self, images: SelectedImages) -> Tensor:
        """Return the means of q(z|x), (N, D)."""
        return self.encode(images.x, *self.own_labels(images))

    def between(self, pair: SelectedImages, t: Tensor, candidates: int = 1) -> Tensor:
        """Decode the codes between two images at t (T,): (T, C, H, W)."""
        z, y = self.encode_images(pair), self.new_labels(pair)
        return self.interpolate(z, t, self.interpolation, *y, candidates=candidates)

    def fusions(self, pair: SelectedImages, t: Tensor) -> Tensor:
        """Decode the codes between two images, each to the best of `candidates` pictures."""
        return self.between(pair, t, self.candidates or self.fusion_candidates)
