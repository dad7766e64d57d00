"""scikit-learn's digits."""

from dataset_helpers import DEFAULTS, prepare, split_sizes

from datamodules.digits import Digits


def test_images_and_labels_equal_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    data = prepare(Digits(data_dir="", val_size=0.1, test_size=297, **DEFAULTS))
    assert split_sizes(data) == {"train": 1320, "val": 180, "test": 297}
    grey = {
        tuple(image.ravel().astype(int)): label
        for image, label in zip(load_digits().images, load_digits().target, strict=True)
    }
    for pixels, labels, *_ in data.images.values():
        for image, label in zip(pixels, labels.tolist(), strict=True):
            assert grey[tuple((image.flatten() * (16 / 255)).round().int().tolist())] == label
