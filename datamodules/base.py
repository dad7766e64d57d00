"""Base class of the datasets. Each split is one tensor of pixels on the training device."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from datamodules.labels import balanced_rows, one_hot
from datamodules.loaders import Batches, EpochLoader, StoredEpochLoader
from datamodules.pixels import BINARIZE, RNGPurpose, check_pixels, generator, to_float, to_levels
from datamodules.stored import StoredPixels
from vae.errors import UserError

EVAL_BATCH = 500  # batch size of validation and test


class Images(NamedTuple):
    """pixels: (N, C, H, W), uint8, bool, or float in [0, 1]; labels: (N,) or None; names: N strings or None.

    `classes` are the names of the labels: label i is called classes[i]. Without it, labels are numbers. `factors` are
    what the images were made from, if that is known: the name of each and its values, (N,), whole numbers.
    """

    pixels: Tensor | StoredPixels
    labels: Tensor | None = None
    names: Sequence[str] | None = None
    classes: Sequence[str] | None = None
    factors: Mapping[str, Tensor] | None = None

    def label_name(self, label: int) -> str:
        """Return the name of a label, or its number."""
        return self.classes[label] if self.classes else str(label)

    def find_label(self, identifier: str | int) -> int | None:
        """Return the label with this name or, if labels are numbers, this number; None if there is none."""
        if self.labels is None:
            return None
        found = {self.label_name(label): label for label in self.labels.unique().tolist()}
        return found.get(str(identifier))

    def select(self, rows: Tensor) -> "Images":
        """Return the images with these indices."""
        labels = None if self.labels is None else self.labels[rows]
        names = self.names and [self.names[i] for i in rows.tolist()]
        factors = self.factors and {name: values[rows] for name, values in self.factors.items()}
        return self._replace(pixels=self.pixels[rows], labels=labels, names=names, factors=factors)


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) for a size given as one number (a square) or as two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


@dataclass(eq=False)
class ImageDataModule(LightningDataModule, ABC):
    """Base class of all datasets. A subclass implements `load` and, if it needs files, `fetch_files`.

    `seed` shuffles and binarises the training images. `split_seed` selects the validation images and binarises the
    validation and test images, once, so that runs with any `seed` are evaluated on the same images. Sizes of splits
    are numbers of images or, below 1, fractions.
    """

    data_dir: str
    batch_size: int
    seed: int
    val_size: float
    split_seed: int
    binarize: str

    def __post_init__(self) -> None:
        super().__init__()
        self.images: dict[str, Images] = {}
        self.train_batches: int | float = 1.0  # number or fraction of the batches that an epoch takes
        self.overfit = False  # whether every epoch has the batches of the first
        self.conditional = False  # whether batches have labels, and the model is conditional
        self.labelled: int | None = None  # number of training images whose labels are used; None: all

    def prepare_data(self) -> None:
        if not self.images:  # Lightning calls this again in every stage
            self.fetch_files()

    def fetch_files(self) -> None:
        """Download missing files and verify all. Raises UserError if this fails. The default has no files."""

    @abstractmethod
    def load(self) -> dict[str, Images]:
        """Return the images of the splits "train", "val" and "test"."""

    def augment(self, pixels: Tensor, _rng: torch.Generator) -> Tensor:
        """Augment a batch of training images, before binarisation. The default returns it unchanged."""
        return pixels

    def split_rows(
        self, n: int, test_size: float = 0, groups: Tensor | None = None, in_order: bool = False
    ) -> dict[str, Tensor]:
        """Divide n images into those for training and validation, and for the test if `test_size` > 0.

        Returns the rows of each split. They are drawn at random or, if `in_order`, taken from the end. With `groups`,
        (n,), the sizes count groups, and no group is in two splits. A fraction is at least 1 image for validation and
        2 for the test. Raises UserError if a size is impossible or leaves no training images.
        """
        unique, group = (None, None) if groups is None else groups.unique(return_inverse=True)
        items = n if unique is None else len(unique)
        least = 4 if test_size else 2
        if items < least:
            splits = "training, validation and test" if test_size else "training and validation"
            kind = "images" if groups is None else "groups of images"
            raise UserError(f"dataset: expected {least} {kind} or more, for {splits}; found {items}")
        val = int(self.val_size) if self.val_size >= 1 else max(1, round(self.val_size * items))
        test = int(test_size) if test_size >= 1 or not test_size else max(2, round(test_size * items))
        if not (0 < val < items - test and (test > 1 or not test_size)):
            sizes = f"dataset.val_size={self.val_size}" + (f" and dataset.test_size={test_size}" if test_size else "")
            available = f"of the {items} {'images' if groups is None else 'groups'}"
            limits = f"1 to {items - 1} {available}"
            if test_size:
                limits = f"at least 1 and 2 {available}, and at most {items - 1} together"
            raise UserError(f"{sizes}: expected {limits}")
        rng = generator(torch.device("cpu"), RNGPurpose.SPLIT, self.split_seed)
        rows = torch.arange(items).flip(0) if in_order else torch.randperm(items, generator=rng)
        ends = torch.tensor([test, test + val])
        if group is not None:
            rank = rows.argsort()[group]  # position of each image's group
            rows = rank.argsort(stable=True)
            ends = torch.searchsorted(rank[rows], ends)
        test_rows, val_rows, train_rows = rows.tensor_split(ends)
        return {"train": train_rows, "val": val_rows} | ({"test": test_rows} if test else {})

    def split_off(
        self, images: Images, test_size: float = 0, groups: Tensor | None = None, in_order: bool = False
    ) -> dict[str, Images]:
        """Return the images of the splits of `split_rows`."""
        rows = self.split_rows(len(images.pixels), test_size, groups, in_order)
        return {split: images.select(part) for split, part in rows.items()}

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - all splits are loaded at once
        if self.images:
            return
        _, binarize_train, binarize_eval = BINARIZE[self.binarize]
        for i, (split, images) in enumerate(self.load().items()):
            binarize = binarize_train if split == "train" else binarize_eval
            rng = generator(torch.device("cpu"), RNGPurpose.FIXED_BINARIZATION, self.split_seed, i)
            pixels = images.pixels
            if isinstance(pixels, Tensor):
                pixels = check_pixels(pixels)
                pixels = binarize(pixels if self.binarize == "none" else to_levels(pixels), rng)
            self.images[split] = images._replace(pixels=pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.images["train"].pixels.shape[1:]
        return channels, height, width

    @property
    def has_pictures(self) -> bool:
        """Whether images can be shown; vectors cannot."""
        return True

    @property
    def batches_per_epoch(self) -> int:
        batches = -(-len(self.images["train"].pixels) // self.batch_size)
        limit = self.train_batches
        return min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))

    def x(self, split: str, rows: slice | Tensor = slice(None)) -> Tensor:
        """Return images of a split as model input without augmentation: float in [0, 1], (N, C, H, W)."""
        pixels = self.images[split].pixels[rows]
        if split == "train":
            rng = generator(pixels.device, RNGPurpose.FIXED_BINARIZATION, self.split_seed)
            pixels = BINARIZE[self.binarize][0](pixels, rng)
        return to_float(pixels)

    @property
    def label_values(self) -> Tensor:
        """The labels that a conditional model is given, in increasing order, (labels,); none if it is not conditional.

        Raises UserError if the images have none, or if one of them does not occur among the training images.
        """
        if not self.conditional:
            return torch.empty(0, dtype=torch.long)
        values = self.images["train"].labels
        if values is None:
            raise UserError("conditional=true: expected a dataset with labels; these images have none")
        values = values.unique()
        for split, images in self.images.items():
            if images.labels is None:
                raise UserError(f"conditional=true: expected a dataset with labels; the {split} images have none")
            unknown = images.labels[~torch.isin(images.labels, values)]
            if len(unknown):
                label = images.label_name(int(unknown[0]))
                raise UserError(
                    f"conditional=true: expected labels of training images; no training image has the label {label}"
                    f" of a {split} image"
                )
        return values

    @property
    def labelled_rows(self) -> Tensor | None:
        """The `labelled` training images whose labels are used, balanced over the labels, by `seed`; None: all.

        Raises UserError if there are fewer images, or more labels.
        """
        if self.labelled is None:
            return None
        pixels, labels, n = self.images["train"].pixels, self.label_index("train"), len(self.label_values)
        if labels is None:
            raise UserError(f"objective.labelled={self.labelled}: expected conditional=true")
        if not isinstance(pixels, Tensor):
            raise UserError(f"objective.labelled={self.labelled}: expected images that fit in dataset.max_memory")
        if not n <= self.labelled <= len(pixels):
            limits = f"{n}, one for each label, to {len(pixels)}, the number of training images"
            raise UserError(f"objective.labelled={self.labelled}: expected {limits}")
        return balanced_rows(labels, self.labelled, generator(torch.device("cpu"), RNGPurpose.LABELLED, self.seed))

    @property
    def label_names(self) -> list[str]:
        """The names of `label_values`."""
        return [self.images["train"].label_name(label) for label in self.label_values.tolist()]

    def label_index(self, split: str) -> Tensor | None:
        """Return the positions in `label_values` of the labels of a split, (N,); None if it is not conditional."""
        labels = self.images[split].labels
        return None if labels is None or not self.conditional else torch.searchsorted(self.label_values, labels)

    def y(self, split: str, rows: slice | Tensor = slice(None)) -> tuple[Tensor, ...]:
        """Return the labels of `x` as a conditional model is given them, one-hot (N, labels); otherwise nothing."""
        index = self.label_index(split)
        return () if index is None else (one_hot(index[rows], len(self.label_values)),)

    def mean_image(self) -> Tensor:
        """Return the mean training image, (C, H, W), float in [0, 1]."""
        pixels = self.images["train"].pixels
        total = torch.zeros(self.shape, dtype=torch.double)
        for part in pixels.split(EVAL_BATCH):
            total += part.float().sum(0)  # exact for uint8
        mean = (total / len(pixels)).float()
        return mean / 255 if pixels.dtype is torch.uint8 else mean

    def on_device(self, split: str) -> Any:
        """Return the pixels of a split, (N, C, H, W), on the training device."""
        assert self.trainer is not None
        return self.images[split].pixels.to(self.trainer.strategy.root_device)

    def labels_on_device(self, split: str) -> Tensor | None:
        """Return `label_index` on the training device. It is -1 for training images whose labels are not used."""
        assert self.trainer is not None
        index, rows = self.label_index(split), self.labelled_rows if split == "train" else None
        if index is not None and rows is not None:
            index = torch.full_like(index, -1).index_copy(0, rows, index[rows])
        return None if index is None else index.to(self.trainer.strategy.root_device)

    def train_dataloader(self) -> EpochLoader:
        trainer: Any = self.trainer
        pixels = self.on_device("train")
        loader = EpochLoader if isinstance(pixels, Tensor) else StoredEpochLoader
        return loader(
            pixels,
            self.batch_size,
            lambda pixels, rng: BINARIZE[self.binarize][0](self.augment(pixels, rng), rng),
            self.seed,
            lambda: 0 if self.overfit else trainer.current_epoch,
            self.batches_per_epoch * self.batch_size,
            self.labels_on_device("train"),
        )

    def val_dataloader(self) -> Batches:
        return Batches(self.on_device("val"), EVAL_BATCH, self.labels_on_device("val"))

    def test_dataloader(self) -> Batches:
        return Batches(self.on_device("test"), EVAL_BATCH, self.labels_on_device("test"))
