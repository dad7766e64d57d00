"""Pictures of a model, as an array and as PIL images."""

import io
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vae import figures


class Pictures(Sequence[Image.Image]):
    """N pictures. An item is a PIL image, and a slice is Pictures. A notebook shows them as a grid.

    `x` is (N, C, H, W), in [0, 1].
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x.detach().cpu().float()

    @property
    def array(self) -> NDArray[np.float32]:
        """The values, in [0, 1]: (N, H, W) if grey, (N, H, W, 3) in colour, (N, D) for vectors."""
        channels, height = self.x.shape[1:3]
        if channels > 1:
            return self.x.permute(0, 2, 3, 1).numpy()
        return (self.x[:, 0] if height > 1 else self.x[:, 0, 0]).numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.array, dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.x)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...
    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...
    def __getitem__(self, index: int | slice) -> "Image.Image | Pictures":
        if isinstance(index, slice):
            return Pictures(self.x[index])
        pixels = (self.x[index].clamp(0, 1) * 255).round().byte()
        return Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).numpy())

    def grid(self, columns: int | None = None) -> Image.Image:
        """Return one image of all pictures, row by row, at least about 900 pixels wide."""
        columns = columns or min(10, -(-len(self) // max(1, round(len(self) ** 0.5))))
        return Image.fromarray(figures.grid(self.x, columns))

    def __repr__(self) -> str:
        _, channels, height, width = self.x.shape
        return f"Pictures({len(self)}, {'grey' if channels == 1 else 'colour'}, {height} x {width})"

    def _repr_png_(self) -> bytes | None:
        if not len(self):
            return None
        file = io.BytesIO()
        self[:100].grid().save(file, "PNG")
        return file.getvalue()
