"""Helpers of the tests of the datasets."""

DEFAULTS = {"batch_size": 20, "seed": 0, "split_seed": 0, "binarize": "none"}


def prepare(data):
    """Fetch the files of a data module, load its images and return it."""
    data.prepare_data()
    data.setup()
    return data


def split_sizes(data):
    """Return the number of images of each split."""
    return {split: len(images.pixels) for split, images in data.images.items()}


def image_bytes(images):
    """Return the set of the images as bytes."""
    return {pixels.numpy().tobytes() for pixels in images.pixels}
