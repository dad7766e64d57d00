"""What the page can ask of a finished run: numbers for JSON, and pictures as the bytes of a canvas.

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

from vae.errors import UserError
from vae.explore.image_input import BYTES, centred, on_plain_ground, remarks
from vae.figures import MAX_CLASSES, fit_projection
from vae.generate.image_selection import SPLITS, SelectedImages, image_name, model_input, read_image_file, select
from vae.generate.interpolation import spherical
from vae.generate.session import Session
from vae.latent.probes import umap_projection
from vae.model.estimator import anomaly_score

SHOWN = 3000  # points on the map, at most
FOUND = 8  # images that a search shows
STEPS = 51  # from one image to the other
REACH = 3.5  # standard deviations of a dimension that its slider goes to each side
K = 20  # samples for log p(x)
OTHERS = 100  # test images that one is compared with


class Entry(NamedTuple):
    """An image of the run's dataset, and what to call it."""

    split: str
    row: int
    title: str
    label: int | None


def rgba(images: Tensor) -> bytes:
    """Images (N, C, H, W) in [0, 1] one after the other, row by row, four bytes a pixel."""
    n, _, h, w = images.shape
    pixels = torch.full((n, h, w, 4), 255, dtype=torch.uint8)
    pixels[..., :3] = (images.clamp(0, 1) * 255).round().byte().expand(-1, 3, -1, -1).permute(0, 2, 3, 1)
    return pixels.numpy().tobytes()


def numbers(values: Tensor) -> Any:
    """As nested lists, with as many digits as can be seen."""
    if values.dim() > 1:
        return [numbers(row) for row in values]
    return [float(f"{value:.4g}") for value in values.tolist()]


class Explorer:
    """A run's model and images, by the names the page has for them; `bounded` if its objective bounds log p(x)."""

    def __init__(self, run: str, title: str, studio: Session, bounded: bool, by_umap: bool = False) -> None:
        self.run, self.title, self.studio, self.by_umap = run, title, studio, by_umap
        self.score = "log_px" if bounded else "reconstruction"
        self.chance = Lock()  # who has it has the random numbers, which all threads share, to itself
        self.entries = [entry for split in SPLITS for entry in self.entries_of(split)]
        with torch.inference_mode():
            self.home: list[float] = studio.train_codes.mean(0).tolist()

    def entries_of(self, split: str) -> list[Entry]:
        images = self.studio.data.images[split]
        labels = [None] * len(images.pixels) if images.labels is None else images.labels.tolist()
        return [Entry(split, row, image_name(images, split, row), label) for row, label in enumerate(labels)]

    @cached_property
    def by_name(self) -> dict[str, Entry]:
        return {f"{entry.split}/{entry.row}": entry for entry in self.entries}

    @cached_property
    @torch.inference_mode()
    def about(self) -> dict[str, Any]:
        """The map with its points, the dimensions with those that carry most first, and where to begin."""
        studio, shown = self.studio, self.entries[:SHOWN]
        rows = {split: torch.tensor([e.row for e in shown if e.split == split], dtype=torch.long) for split in SPLITS}
        codes = torch.cat([studio.encode(studio.data.x(split, of)) for split, of in rows.items() if len(of)]).cpu()
        amount, unit = studio.dimension_information
        with self.chance:
            mean, sd = studio.aggregate_posterior_stats
        low, high = numbers(mean - REACH * sd), numbers(mean + REACH * sd)
        kinds = sorted({entry.label for entry in shown if entry.label is not None})
        return {
            "run": self.run,
            "title": self.title,
            "shape": studio.data.shape,
            "unit": unit,
            "dimensions": [
                {"d": d, "amount": round(amount[d].item(), 2), "low": low[d], "high": high[d]}
                for d in amount.argsort(descending=True).tolist()
            ],
            **self.map_of(codes),
            "images": [[f"{e.split}/{e.row}", e.title, e.label] for e in shown],
            "kinds": kinds if len(kinds) <= MAX_CLASSES else [],
            "home": self.home,
            "ground": on_plain_ground(studio.data),
            "score": self.score,
            "K": K,
            "most": BYTES,
        }

    def map_of(self, codes: Tensor) -> dict[str, Any]:
        """The places of codes (N, D), and that by which others have theirs: a plane, or the codes themselves."""
        if self.by_umap:
            found = {"axes": ["UMAP 1", "UMAP 2"], "points": umap_projection(codes.numpy()).tolist()}
            return found | {"plane": None, "codes": numbers(codes)}
        on = fit_projection(codes)
        names = [name.replace("$", "").replace("_", "") for name in on.axis_names]
        found = {"axes": names, "points": numbers(on.project(codes))}
        return found | {"plane": {"origin": on.origin.tolist(), "axes": on.axes.tolist()}, "codes": None}

    @torch.inference_mode()
    def decoded(self, codes: Sequence[Sequence[float]]) -> bytes:
        """The pictures of codes, (N, D)."""
        return rgba(self.studio.decode(torch.tensor(codes, device=self.studio.device)))

    @torch.inference_mode()
    def drawn(self) -> list[float]:
        """A code of the prior."""
        with self.chance:
            return self.studio.sample_codes(1)[0].tolist()

    def entry(self, name: str) -> Entry:
        """UserError if there is none."""
        if name not in self.by_name:
            raise UserError(f"image={name}: expected one such as {self.entries[0].split}/{self.entries[0].row}")
        return self.by_name[name]

    def image(self, name: str) -> SelectedImages:
        """The image of a split and row, such as test/3."""
        entry = self.entry(name)
        return select(self.studio.data, entry.split, torch.tensor([entry.row]))

    def search(self, words: str) -> list[tuple[str, str, int | None]]:
        """Names, titles and labels of images whose title, or label, is what was typed, or begins so, or has it."""
        typed = words.strip().lower()

        def later(entry: Entry) -> tuple[bool, ...]:
            title = entry.title.lower()
            return typed not in (title, title.split()[-1]), typed != str(entry.label), not title.startswith(typed)

        fitting = [entry for entry in self.entries if typed in entry.title.lower() or typed == str(entry.label)]
        found = sorted(fitting, key=later)[:FOUND]
        return [(f"{entry.split}/{entry.row}", entry.title, entry.label) for entry in found]

    @torch.inference_mode()
    def between(self, first: str, second: str) -> list[list[float]]:
        """Codes on the arc from one image's to the other's."""
        a, b = self.studio.encode(torch.cat([self.image(first).x, self.image(second).x]))
        return spherical(a, b, torch.linspace(0, 1, STEPS, device=a.device)).tolist()

    def known(self, name: str) -> dict[str, Any]:
        """What the model makes of an image of the dataset."""
        label = self.entry(name).label
        return self.seen(self.image(name)) | {"label": label, "remarks": []}

    def uploaded(self, content: bytes, drawn: bool) -> dict[str, Any]:
        """What the model makes of a picture file, or of a drawing; UserError if it is none."""
        told, data = remarks(content), self.studio.data
        file = centred(content, data) if drawn else io.BytesIO(content)
        name = "your drawing" if drawn else "your picture"
        image = SelectedImages(model_input(data, read_image_file(data, "picture", file, name)), [name])
        return self.seen(image) | {"label": None, "remarks": told}

    @torch.inference_mode()
    def seen(self, image: SelectedImages) -> dict[str, Any]:
        """An image as the model is fed it, its code, and how likely it is."""
        return {
            "title": image.names[0],
            "z": self.studio.encode(image.x)[0].tolist(),
            "pixels": base64.b64encode(rgba(image.x)).decode(),
            "score": self.scores(image.x).item(),
        }

    @cached_property
    @torch.inference_mode()
    def others(self) -> list[float]:
        """The scores of test images, in order."""
        return self.scores(self.studio.data.x("test", slice(OTHERS))).sort().values.tolist()

    def scores(self, x: Tensor) -> Tensor:
        """How likely images (N, C, H, W) are, (N,); the same for the same image, whatever is asked for meanwhile."""
        with self.chance:
            return -anomaly_score(self.studio.vae, x, self.score, K)
