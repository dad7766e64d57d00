"""What the page can request of a finished run: numbers as JSON, pictures as the bytes of a canvas.

Shapes: N images or codes, D latent dimensions, (C, H, W) one image.
"""

import base64
import io
from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.labels import one_hot
from vae.api.images import SPLITS, SelectedImages, image_name, join, model_input, read_image_file, select
from vae.api.trained_model import TrainedModel
from vae.errors import UserError
from vae.explore.image_input import MAX_BYTES, background_of, centre_drawing, check_image, has_opposite_background
from vae.figures import MAX_CLASSES, class_colours, continuous_colours, fit_projection
from vae.latent.probes import umap_projection
from vae.model.estimator import anomaly_score
from vae.model.interpolation import spherical

MAX_POINTS = 3000  # points on the map
MAX_RESULTS = 8  # images that a search returns
N_STEPS = 51  # codes from one image to another
SLIDER_RANGE = 3.5  # standard deviations on each side of the mean
K = 20  # samples for log p(x)
N_REFERENCE = 100  # test images that a score is compared with


class Entry(NamedTuple):
    """An image of the dataset."""

    split: str
    row: int
    title: str
    label: int | None


def rgba(images: Tensor) -> bytes:
    """Convert images (N, C, H, W) in [0, 1] to RGBA bytes in row-major order."""
    n, _, h, w = images.shape
    pixels = torch.full((n, h, w, 4), 255, dtype=torch.uint8)
    pixels[..., :3] = (images.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    return pixels.numpy().tobytes()


def from_rgba(content: bytes, shape: Sequence[int]) -> Tensor:
    """Convert the RGBA bytes of one image back, (1, C, H, W). Raises UserError if their number is wrong."""
    c, h, w = shape
    if len(content) != 4 * h * w:
        raise UserError(f"previous: expected {4 * h * w} bytes; got {len(content)}")
    pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(1, h, w, 4)
    return pixels[..., :c].permute(0, 3, 1, 2) / 255


def rounded(values: Tensor) -> Any:
    """Convert a tensor to nested lists of numbers with four significant digits."""
    if values.dim() > 1:
        return [rounded(row) for row in values]
    return [float(f"{value:.4g}") for value in values.tolist()]


class Explorer:
    """The model and images of a run. `bounded` is true if its objective is a bound on log p(x)."""

    def __init__(self, run: str, title: str, model: TrainedModel, bounded: bool, by_umap: bool = False) -> None:
        self.run, self.title, self.model, self.by_umap = run, title, model, by_umap
        self.score = "log_px" if bounded else "reconstruction"
        self.rng_lock = Lock()  # guards the global random generator, which all threads share
        self.upload_lock = Lock()  # one upload is decoded at a time: a large image takes much memory
        self.entries = [entry for split in SPLITS for entry in self.entries_of(split)]
        with torch.inference_mode():
            self.mean_code: list[float] = model.train_codes.mean(0).tolist()

    def entries_of(self, split: str) -> list[Entry]:
        images = self.model.data.images[split]
        labels = [None] * len(images.pixels) if images.labels is None else images.labels.tolist()
        return [Entry(split, row, image_name(images, split, row), label) for row, label in enumerate(labels)]

    @cached_property
    def by_name(self) -> dict[str, Entry]:
        return {f"{entry.split}/{entry.row}": entry for entry in self.entries}

    @cached_property
    def background(self) -> str | None:
        return background_of(self.model.data)

    @cached_property
    @torch.inference_mode()
    def about(self) -> dict[str, Any]:
        """What the page needs to start: the map, the dimensions sorted by information, the images and their colours."""
        model, shown = self.model, self.entries[:MAX_POINTS]
        rows = {split: torch.tensor([e.row for e in shown if e.split == split], dtype=torch.long) for split in SPLITS}
        codes = torch.cat(
            [model.encode(model.data.x(split, r), *model.data.y(split, r)) for split, r in rows.items() if len(r)]
        ).cpu()
        information, unit = model.dimension_information
        with self.rng_lock:
            mean, sd = model.aggregate_posterior_stats
        low, high = rounded(mean - SLIDER_RANGE * sd), rounded(mean + SLIDER_RANGE * sd)
        labels = sorted({entry.label for entry in shown if entry.label is not None})
        few = len(labels) <= MAX_CLASSES
        return {
            "run": self.run,
            "title": self.title,
            "shape": model.data.shape,
            "unit": unit,
            "dimensions": [
                {"d": d, "information": round(information[d].item(), 2), "low": low[d], "high": high[d]}
                for d in information.argsort(descending=True).tolist()
            ],
            **self.map_of(codes),
            "images": [[f"{e.split}/{e.row}", e.title, e.label] for e in shown],
            "classes": labels if few else [],
            "label_choices": self.model.label_names,
            "class_names": dict(enumerate(classes)) if (classes := model.data.images["train"].classes) else None,
            "colours": class_colours(max(1, len(labels))) if few else continuous_colours(),
            "mean_code": self.mean_code,
            "has_drafts": self.model.vae.likelihood.sampled_mean,
            "background": self.background,
            "score": self.score,
            "K": K,
            "max_bytes": MAX_BYTES,
        }

    def map_of(self, codes: Tensor) -> dict[str, Any]:
        """Return the points of codes (N, D), and the plane of the map or, for UMAP, the codes."""
        if self.by_umap:
            points = umap_projection(codes.numpy()).tolist()
            return {"axes": ["UMAP 1", "UMAP 2"], "points": points, "plane": None, "codes": rounded(codes)}
        projection = fit_projection(codes)
        return {
            "axes": [name.replace("$", "").replace("_", "") for name in projection.axis_names],
            "points": rounded(projection.project(codes)),
            "plane": {"origin": projection.origin.tolist(), "axes": projection.axes.tolist()},
            "codes": None,
        }

    def labels(self, label: int | None) -> tuple[Tensor, ...]:
        """Return a label of a conditional model by its number, one-hot (1, labels). Raises UserError without one."""
        n = len(self.model.label_names)
        if n and (label is None or not 0 <= label < n):
            raise UserError(f"label={label}: expected 0 to {n - 1}, the number of a label")
        return (one_hot(torch.tensor([label]), n),) if n else ()

    @torch.inference_mode()
    def decode(
        self, codes: Sequence[Sequence[float]], label: int | None = None, previous: bytes | None = None
    ) -> bytes:
        """Return the pictures of codes, (N, D), as RGBA bytes. A conditional model is given this label.

        With the previous picture, as RGBA bytes, a picture that takes long is a draft. Raises UserError if it has the
        wrong size.
        """
        z, y = torch.tensor(codes, device=self.model.device), self.labels(label)
        if previous is None:
            return rgba(self.model.decode(z, *y))
        return rgba(self.model.draft(z, from_rgba(previous, self.model.data.shape), *y))

    @torch.inference_mode()
    def sample_prior(self, label: int | None = None) -> list[float]:
        """Sample a code from the prior."""
        with self.rng_lock:
            return self.model.sample_codes(1, 1.0, "prior", *self.labels(label))[0].tolist()

    def entry(self, name: str) -> Entry:
        """Look up an image by split and row. Raises UserError if there is none."""
        if name not in self.by_name:
            first = self.entries[0]
            raise UserError(f"image={name}: expected a split and a row such as {first.split}/{first.row}")
        return self.by_name[name]

    def image(self, name: str) -> SelectedImages:
        """Return the image with this split and row, such as test/3."""
        entry = self.entry(name)
        return select(self.model.data, entry.split, torch.tensor([entry.row]))

    def search(self, text: str) -> list[tuple[str, str, int | None]]:
        """Return split/row, title and label of images whose title contains the text or whose label equals it.

        Exact matches come first, then titles that begin with the text.
        """
        text = text.strip().lower()

        def label_of(entry: Entry) -> str | None:
            return None if entry.label is None else self.model.data.images[entry.split].label_name(entry.label).lower()

        def rank(entry: Entry) -> tuple[bool, ...]:
            title = entry.title.lower()
            return text not in (title, title.split()[-1]), text != label_of(entry), not title.startswith(text)

        matches = [entry for entry in self.entries if text in entry.title.lower() or text == label_of(entry)]
        best = sorted(matches, key=rank)[:MAX_RESULTS]
        return [(f"{entry.split}/{entry.row}", entry.title, entry.label) for entry in best]

    @torch.inference_mode()
    def interpolate(self, first: str, second: str) -> list[list[float]]:
        """Return the codes on the arc between two images."""
        pair = join([self.image(first), self.image(second)])
        a, b = self.model.encode(pair.x, *pair.y)
        return spherical(a, b, torch.linspace(0, 1, N_STEPS, device=a.device)).tolist()

    def dataset_image(self, name: str) -> dict[str, Any]:
        """Describe an image of the dataset."""
        label = self.entry(name).label
        return self.describe_image(self.image(name)) | {"label": label, "remarks": []}

    def uploaded_image(self, content: bytes, drawn: bool, label: int | None = None) -> dict[str, Any]:
        """Describe an image file or a drawing. A conditional model is given this label.

        Raises UserError if it cannot be used.
        """
        data, name = self.model.data, "your drawing" if drawn else "your picture"
        with self.upload_lock:
            remarks = check_image(content)
            file = centre_drawing(content, data.shape, self.background) if drawn else io.BytesIO(content)
            pixels = read_image_file(data, "picture", file, name)
        if not drawn and has_opposite_background(pixels[0], self.background):
            pixels = 255 - pixels
            remarks.append(f"inverted, because the images of this dataset have a {self.background} background")
        image = SelectedImages(model_input(data, pixels), [name], self.labels(label))
        return self.describe_image(image) | {"label": None, "remarks": remarks}

    @torch.inference_mode()
    def describe_image(self, image: SelectedImages) -> dict[str, Any]:
        """Return an image as the model receives it, its code and its score."""
        return {
            "title": image.names[0],
            "z": self.model.encode(image.x, *image.y)[0].tolist(),
            "pixels": base64.b64encode(rgba(image.x)).decode(),
            "score": self.scores(image.x, *image.y).item(),
        }

    @cached_property
    @torch.inference_mode()
    def reference_scores(self) -> list[float]:
        """The scores of test images, in increasing order."""
        data, rows = self.model.data, slice(N_REFERENCE)
        return self.scores(data.x("test", rows), *data.y("test", rows)).sort().values.tolist()

    def scores(self, x: Tensor, *y: Tensor) -> Tensor:
        """Score images (N, C, H, W), higher is better: (N,).

        An image has the same score each time, also if other threads draw random numbers meanwhile.
        """
        with self.rng_lock:
            return -anomaly_score(self.model.vae, x, self.score, K, *y)
