"""The base class of the datasets: binarisation, splits, order of the batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy_dataset

from datamodules.base import Images
from datamodules.loaders import Batches, EpochLoader
from datamodules.pixels import RNGPurpose, bernoulli_binarize, generator, identity, threshold
from vae.errors import UserError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_bernoulli_binarize_has_the_probability_of_the_grey_level():
    grey = torch.arange(256, dtype=torch.uint8)
    n = 40_000
    binary = bernoulli_binarize(grey.expand(n, 256).contiguous(), rng())
    assert binary.dtype == torch.bool
    p = grey.double() / 255
    error = binary.double().mean(0) - p
    assert (error.abs() <= 5 * (p * (1 - p) / n).sqrt() + 2**-16).all()
    assert not binary[:, 0].any()
    assert binary[:, 255].all()


def test_binarised_pixels_are_independent():
    binary = bernoulli_binarize(torch.full((20_000, 9), 127, dtype=torch.uint8), rng()).double()
    correlation = torch.corrcoef(binary.T) - torch.eye(9)
    assert correlation.abs().max() < 5 / 20_000**0.5


@pytest.fixture
def make_data(tmp_path):
    """Return a function that makes a Bars data module; keyword arguments replace the defaults."""

    def make(**changes):
        arguments = {"batch_size": 20, "seed": 0, "val_size": 60, "split_seed": 0, "binarize": "dynamic"}
        module = toy_dataset.Bars(data_dir=str(tmp_path), **(arguments | changes))
        module.prepare_data()
        module.setup()
        module.trainer = SimpleNamespace(
            strategy=SimpleNamespace(root_device=torch.device("cpu")), current_epoch=changes.get("epoch", 0)
        )
        return module

    return make


def test_idx_files_become_pixels_and_labels(make_data):
    module = make_data(binarize="none")
    assert module.shape == (1, 8, 8)
    sizes = {split: len(images.pixels) for split, images in module.images.items()}
    assert sizes == {"train": 240, "val": 60, "test": 120}
    for pixels, labels, *_ in module.images.values():
        assert pixels.dtype == torch.uint8
        brightest_row = pixels[:, 0].float().mean(-1).argmax(-1)
        assert torch.equal(brightest_row, labels)


def test_the_split_is_a_random_permutation(make_data):
    """Pins the order: published results depend on it."""
    module = make_data(split_seed=3)
    rows = Images(torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1))
    order = torch.randperm(50, generator=generator(torch.device("cpu"), RNGPurpose.SPLIT, 3))
    module.val_size = 0.2
    split = module.split_off(rows, test_size=5)
    parts = order.split([5, 10, 35])
    for name, part in zip(("test", "val", "train"), parts, strict=True):
        assert torch.equal(split[name].pixels.flatten().long(), part)
    assert list(split) == ["train", "val", "test"]


def test_train_and_validation_share_no_image(make_data):
    module = make_data(binarize="none")
    rows = {split: {p.numpy().tobytes() for p in module.images[split].pixels} for split in ("train", "val")}
    assert len(rows["train"]) == 240
    assert not rows["train"] & rows["val"]


def all_batches(loader):
    """Return the list of batches of a loader that yields batches or chunks of them."""
    return [x for batches in loader for x in ([batches] if isinstance(batches, torch.Tensor) else batches)]


def pixel_values(loader):
    """Return the set of pixel values in all batches."""
    return set(torch.cat(all_batches(loader)).unique().tolist())


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold"])
def test_binarized_batches_are_zeros_and_ones(make_data, binarize):
    module = make_data(binarize=binarize)
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        assert pixel_values(loader) == {0.0, 1.0}


def test_grey_batches_are_pixels_over_255(make_data):
    loader = make_data(binarize="none").test_dataloader()
    torch.testing.assert_close(torch.cat(list(loader)) * 255, loader.pixels.float())


def test_threshold_is_rounding(make_data):
    grey = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(threshold(grey, rng()).float(), (grey / 255).round())
    assert torch.equal(make_data(binarize="threshold").x("test"), make_data(binarize="none").x("test").round())


def test_x_returns_training_images_as_model_input(make_data):
    assert set(make_data().x("train").unique().tolist()) == {0.0, 1.0}
    module = make_data(binarize="none")
    rows = torch.tensor([3, 0])
    assert torch.equal((module.x("train", rows) * 255).round().byte(), module.images["train"].pixels[rows])


def epoch_images(module, number):
    """Return all training images of an epoch, in order."""
    module.trainer.current_epoch = number
    return torch.cat(all_batches(module.train_dataloader()))


def sorted_bytes(x):
    """Return the images as bytes, sorted: equal for the same images in any order."""
    return sorted(p.numpy().tobytes() for p in x)


def test_dynamic_noise_is_new_each_epoch_and_static_noise_is_not(make_data):
    for binarize, repeats in (("static", True), ("dynamic", False)):
        first, second = (sorted_bytes(epoch_images(make_data(binarize=binarize), number)) for number in (0, 1))
        assert (first == second) is repeats


def test_every_epoch_has_every_image_once_in_a_new_order(make_data):
    module = make_data(binarize="none")
    first, second = epoch_images(module, 0), epoch_images(module, 1)
    assert not torch.equal(first, second)
    assert sorted_bytes(first) == sorted_bytes(second) == sorted_bytes(module.x("train"))


def test_seed_changes_the_order_but_not_the_validation_and_test_images(make_data):
    a, b = make_data(seed=1), make_data(seed=2)
    assert not torch.equal(epoch_images(a, 0), epoch_images(b, 0))
    for split in ("val", "test"):
        assert torch.equal(a.x(split), b.x(split))
    assert torch.equal(epoch_images(a, 3), epoch_images(make_data(seed=1), 3))


def test_an_interrupted_epoch_resumes_with_the_next_batches():
    pixels = torch.randint(0, 256, (5003, 1, 2, 2), dtype=torch.uint8)
    whole = list(EpochLoader(pixels, 100, bernoulli_binarize, seed=3, epoch=lambda: 7))
    assert [len(batches) for batches in whole] == [10] * 5 + [1]
    assert [len(x) for x in all_batches(whole)] == [100] * 50 + [3]
    interrupted = EpochLoader(pixels, 100, bernoulli_binarize, seed=3, epoch=lambda: 7)
    first = [batches for _, batches in zip(range(4), interrupted, strict=False)]
    resumed = EpochLoader(pixels, 100, bernoulli_binarize, seed=3, epoch=lambda: 7)
    resumed.load_state_dict(interrupted.state_dict())
    assert torch.equal(torch.cat(all_batches([*first, *resumed])), torch.cat(all_batches(whole)))
    assert len(list(resumed)) == 6 == len(resumed)


def test_after_a_finished_epoch_the_next_starts_with_its_first_batch():
    finished = EpochLoader(torch.zeros(240, 1, 1, 1, dtype=torch.uint8), 10, identity, seed=0, epoch=lambda: 0)
    list(finished)
    following = EpochLoader(finished.pixels, 10, identity, seed=0, epoch=lambda: 1)
    following.load_state_dict(finished.state_dict())
    assert len(all_batches(following)) == 24


def test_generators_of_different_seeds_differ():
    seeds = [(purpose, a, b) for purpose in RNGPurpose for a in range(3) for b in range(3)] + [
        (RNGPurpose.SPLIT, a) for a in (3, 4)
    ]
    numbers = {torch.randint(2**60, (), generator=generator(torch.device("cpu"), *seed)).item() for seed in seeds}
    assert len(numbers) == len(seeds)


@pytest.mark.parametrize("val_size", [300, 400])
def test_val_size_must_leave_training_images(make_data, val_size):
    with pytest.raises(UserError, match=rf"dataset.val_size={val_size}: expected 1 to 299"):
        make_data(val_size=val_size)


def test_small_datasets_are_split_or_refused(make_data):
    data = make_data(val_size=0.1)
    sizes = {split: len(rows) for split, rows in data.split_rows(10, 0.1).items()}
    assert sizes == {"train": 7, "val": 1, "test": 2}
    for n in (1, 3):
        with pytest.raises(UserError, match=f"dataset: expected 4 images or more, .* found {n}"):
            data.split_rows(n, 0.1)


def test_the_last_batch_is_the_remainder():
    assert [len(x) for x in Batches(torch.zeros(25, 1, 1, 1, dtype=torch.uint8), 10)] == [10, 10, 5]


def test_toy_dataset_writes_the_idx_format():
    assert toy_dataset.to_idx(np.zeros((2, 3), np.uint8)) == b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + bytes(6)


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold", "none"])
def test_binary_images_stay_as_they_are(make_data, binarize, monkeypatch):
    images = {split: torch.rand(30, 1, 4, 4) < 0.5 for split in ("train", "val", "test")}
    module = make_data(binarize="none")
    module.images, module.binarize = {}, binarize
    monkeypatch.setattr(module, "load", lambda: {split: Images(pixels) for split, pixels in images.items()})
    module.setup()
    for split, pixels in images.items():
        assert torch.equal(module.x(split), pixels.float())
