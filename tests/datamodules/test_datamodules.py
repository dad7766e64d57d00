"""Images: what is read from real formats, what a batch holds, how files are fetched."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import toy_dataset

from datamodules.base import Batches, Epoch, Images, RNGPurpose, draw, generator, keep, threshold
from vae.errors import UserError


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_draw_is_bernoulli_of_the_grey_level():
    grey = torch.arange(256, dtype=torch.uint8)
    n = 40_000
    drawn = draw(grey.expand(n, 256).contiguous(), rng())
    assert drawn.dtype == torch.bool
    p = grey.double() / 255
    error = drawn.double().mean(0) - p
    assert (error.abs() <= 5 * (p * (1 - p) / n).sqrt() + 2**-16).all()
    assert not drawn[:, 0].any()
    assert drawn[:, 255].all()


def test_drawn_pixels_are_independent():
    drawn = draw(torch.full((20_000, 9), 127, dtype=torch.uint8), rng()).double()
    correlation = torch.corrcoef(drawn.T) - torch.eye(9)
    assert correlation.abs().max() < 5 / 20_000**0.5


@pytest.fixture
def data(tmp_path):
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


def test_idx_files_become_pixels_and_labels(data):
    module = data(binarize="none")
    assert module.shape == (1, 8, 8)
    sizes = {split: len(images.pixels) for split, images in module.images.items()}
    assert sizes == {"train": 240, "val": 60, "test": 120}
    for pixels, labels, _ in module.images.values():
        assert pixels.dtype == torch.uint8
        brightest_row = pixels[:, 0].float().mean(-1).argmax(-1)
        assert torch.equal(brightest_row, labels)


def test_the_split_is_a_permutation_in_the_order_it_is_drawn(data):
    """As it was when the README's figures were measured."""
    module = data(split_seed=3)
    rows = Images(torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1))
    order = torch.randperm(50, generator=generator(torch.device("cpu"), RNGPurpose.SPLIT, 3))
    module.val_size = 0.2
    split = module.split_off(rows, test_size=5)
    parts = order.split([5, 10, 35])
    for name, part in zip(("test", "val", "train"), parts, strict=True):
        assert torch.equal(split[name].pixels.flatten().long(), part)
    assert list(split) == ["train", "val", "test"]


def test_train_and_validation_share_no_image(data):
    module = data(binarize="none")
    rows = {split: {p.numpy().tobytes() for p in module.images[split].pixels} for split in ("train", "val")}
    assert len(rows["train"]) == 240
    assert not rows["train"] & rows["val"]


def flat(loader):
    """The batches of a loader, whether it hands them out one by one or several at a time."""
    return [x for batches in loader for x in ([batches] if isinstance(batches, torch.Tensor) else batches)]


def values(loader):
    return set(torch.cat(flat(loader)).unique().tolist())


@pytest.mark.parametrize("binarize", ["dynamic", "static", "threshold"])
def test_binarized_batches_are_zeros_and_ones(data, binarize):
    module = data(binarize=binarize)
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        assert values(loader) == {0.0, 1.0}


def test_grey_batches_are_pixels_over_255(data):
    loader = data(binarize="none").test_dataloader()
    torch.testing.assert_close(torch.cat(list(loader)) * 255, loader.pixels.float())


def test_threshold_is_rounding(data):
    grey = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(threshold(grey, rng()).float(), (grey / 255).round())
    assert torch.equal(data(binarize="threshold").x("test"), data(binarize="none").x("test").round())


def test_training_images_are_shown_as_they_are_trained_on(data):
    assert set(data().x("train").unique().tolist()) == {0.0, 1.0}
    module = data(binarize="none")
    rows = torch.tensor([3, 0])
    assert torch.equal((module.x("train", rows) * 255).round().byte(), module.images["train"].pixels[rows])


def epoch(module, number):
    module.trainer.current_epoch = number
    return torch.cat(flat(module.train_dataloader()))


def sets(x):
    return sorted(p.numpy().tobytes() for p in x)


def test_dynamic_noise_is_new_each_epoch_and_static_noise_is_not(data):
    assert sets(epoch(data(binarize="static"), 0)) == sets(epoch(data(binarize="static"), 1))
    assert sets(epoch(data(), 0)) != sets(epoch(data(), 1))


def test_every_epoch_takes_every_image_once_in_a_new_order(data):
    module = data(binarize="none")
    first, second = epoch(module, 0), epoch(module, 1)
    assert not torch.equal(first, second)
    assert sets(first) == sets(second) == sets(module.x("train"))


def test_seed_changes_the_order_but_no_validation_or_test_image(data):
    a, b = data(seed=1), data(seed=2)
    assert not torch.equal(epoch(a, 0), epoch(b, 0))
    for split in ("val", "test"):
        assert torch.equal(a.x(split), b.x(split))
    assert torch.equal(epoch(a, 3), epoch(data(seed=1), 3))


def test_an_epoch_cut_off_goes_on_with_the_next_batches():
    pixels = torch.randint(0, 256, (5003, 1, 2, 2), dtype=torch.uint8)
    whole = list(Epoch(pixels, 100, draw, seed=3, epoch=lambda: 7))
    assert [len(batches) for batches in whole] == [10] * 5 + [1]
    assert [len(x) for x in flat(whole)] == [100] * 50 + [3]
    cut = Epoch(pixels, 100, draw, seed=3, epoch=lambda: 7)
    taken = [batches for _, batches in zip(range(4), cut, strict=False)]
    resumed = Epoch(pixels, 100, draw, seed=3, epoch=lambda: 7)
    resumed.load_state_dict(cut.state_dict())
    assert torch.equal(torch.cat(flat([*taken, *resumed])), torch.cat(flat(whole)))
    assert len(list(resumed)) == 6 == len(resumed)


def test_a_finished_epoch_starts_the_next_from_its_first_batch():
    epoch = Epoch(torch.zeros(240, 1, 1, 1, dtype=torch.uint8), 10, keep, seed=0, epoch=lambda: 0)
    list(epoch)
    again = Epoch(epoch.pixels, 10, keep, seed=0, epoch=lambda: 1)
    again.load_state_dict(epoch.state_dict())
    assert len(flat(again)) == 24


def test_generators_of_different_seeds_differ():
    seeds = [(s, a, b) for s in RNGPurpose for a in range(3) for b in range(3)] + [
        (RNGPurpose.SPLIT, a) for a in (3, 4)
    ]
    drawn = {torch.randint(2**60, (), generator=generator(torch.device("cpu"), *seed)).item() for seed in seeds}
    assert len(drawn) == len(seeds)


@pytest.mark.parametrize("val_size", [300, 400])
def test_val_size_must_leave_images_to_train_on(data, val_size):
    with pytest.raises(UserError, match=rf"dataset.val_size={val_size}: expected 1 to 299"):
        data(val_size=val_size)


def test_last_batch_is_the_remainder():
    assert [len(x) for x in Batches(torch.zeros(25, 1, 1, 1, dtype=torch.uint8), 10)] == [10, 10, 5]


def test_bars_are_written_in_the_idx_format():
    assert toy_dataset.idx(np.zeros((2, 3), np.uint8)) == b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03" + bytes(6)
