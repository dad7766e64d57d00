"""Arrays in files: formats, layouts, value ranges, labels, and the reading of a file that stays on the disk."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dataset_helpers import DEFAULTS, image_bytes, prepare, split_sizes
from run_outputs import load_checkpoint, load_weights

from datamodules import base, loaders
from datamodules.array import Array, save_images
from datamodules.stored import open_npy, read_rows
from vae.config.overrides import parse_override
from vae.config.stored_config import read_config
from vae.errors import UserError

N = 60
GREY = np.random.default_rng(0).integers(2, 256, (N, 6, 5), dtype=np.uint8)
LABELS = np.arange(N) % 7
EVERYTHING = {"key": "x", "labels": None, "layout": None, "range": None, "max_memory": 4.0}


def make_array(path, **changes):
    options = {"path": str(path), "data_dir": str(path.parent), "val_size": None, "test_size": None}
    return Array(**(DEFAULTS | options | EVERYTHING | changes))


def saved(tmp_path, array, **changes):
    """The prepared data module of an array in x.npy."""
    np.save(tmp_path / "x.npy", array)
    return prepare(make_array(tmp_path / "x.npy", **changes))


def all_images(data):
    return torch.cat([images.pixels[:] for images in data.images.values()])


def write_hdf5(path, x, y):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = x, y


WRITERS = {
    "npz": lambda path, x, y: np.savez(path, x=x, y=y),
    "pt": lambda path, x, y: torch.save({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, path),
    "h5": write_hdf5,
    "hdf5": write_hdf5,
}


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("max_memory", [4.0, 0.0])
def test_a_file_with_images_and_labels(tmp_path, suffix, max_memory):
    path = tmp_path / f"a.{suffix}"
    WRITERS[suffix](path, GREY, LABELS)
    if (suffix, max_memory) == ("npz", 0.0):
        with pytest.raises(UserError, match=r"dataset.max_memory=0: .*a.npz has 0.0 GB, .* or a .npy file$"):
            prepare(make_array(path, max_memory=max_memory))
        return
    data = prepare(make_array(path, max_memory=max_memory))
    assert split_sizes(data) == {"train": 48, "val": 6, "test": 6}
    assert data.shape == (1, 6, 5)
    labels = {image.tobytes(): label for image, label in zip(GREY, LABELS, strict=True)}
    found = {
        pixels.numpy().tobytes(): label.item()
        for images in data.images.values()
        for pixels, label in zip(images.pixels[:], images.labels, strict=True)
    }
    assert found == labels


@pytest.mark.parametrize("max_memory", [4.0, 0.0])
def test_a_tensor_of_torch_save(tmp_path, max_memory):
    torch.save(torch.from_numpy(GREY), tmp_path / "x.pt")
    data = prepare(make_array(tmp_path / "x.pt", max_memory=max_memory))
    assert image_bytes(base.Images(all_images(data))) == {image.tobytes() for image in GREY}


SHAPES = [
    ((N, 12), (1, 1, 12), False),
    ((N, 4, 5), (1, 4, 5), True),
    ((N, 4, 5, 3), (3, 4, 5), True),
    ((N, 3, 4, 5), (3, 4, 5), True),
    ((N, 4, 5, 1), (1, 4, 5), True),
]


@pytest.mark.parametrize(("shape", "expected", "has_pictures"), SHAPES)
def test_the_shape_tells_the_layout(tmp_path, shape, expected, has_pictures):
    x = np.random.default_rng(0).integers(2, 256, shape, dtype=np.uint8)
    data = saved(tmp_path, x)
    assert data.shape == expected
    assert data.has_pictures is has_pictures
    first = {bytes(image[0, 0, :2] if len(shape) == 4 and shape[1] != 3 else image.flat[:1]) for image in x}
    channel_last = len(shape) == 4 and shape[1] != 3
    found = all_images(data)[:, :2, 0, 0] if channel_last else all_images(data)[:, :1, 0, 0]
    assert {bytes(pixels.numpy()) for pixels in found} == first


def test_a_layout_that_is_not_clear_is_asked_for(tmp_path):
    x = np.random.default_rng(0).integers(2, 256, (N, 3, 5, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"^dataset.layout: not clear from the shape \(60, 3, 5, 3\).*NHWC or NCHW$"):
        saved(tmp_path, x)
    assert saved(tmp_path, x, layout="NHWC").shape == (3, 3, 5)
    assert saved(tmp_path, x, layout="NCHW").shape == (3, 5, 3)
    with pytest.raises(UserError, match=r"dataset.layout=NHW: .* has the shape \(60, 3, 5, 3\); expected 3 dimensions"):
        saved(tmp_path, x, layout="NHW")


UNIT = GREY / 255
VALUES = [
    ((GREY > 99), None, torch.bool, GREY > 99),
    ((GREY > 99).astype(np.int64), None, torch.bool, GREY > 99),
    ((GREY > 99).astype(np.float32), None, torch.bool, GREY > 99),
    (GREY, None, torch.uint8, GREY),
    (GREY.astype(np.int32), None, torch.uint8, GREY),
    ((GREY > 99).astype(np.uint8), [0, 255], torch.uint8, GREY > 99),
    (UNIT, None, torch.float, UNIT),
    (UNIT.astype(np.float32) * 6 - 3, [-3, 3], torch.float, UNIT),
    (GREY.astype(np.uint16) * 10, [0, 2550], torch.float, UNIT),
]


@pytest.mark.parametrize("max_memory", [4.0, 0.0])
@pytest.mark.parametrize("case", VALUES, ids=range(len(VALUES)))
def test_values_become_bool_uint8_or_float(tmp_path, case, max_memory):
    array, limits, dtype, expected = case
    data = saved(tmp_path, array, range=limits, max_memory=max_memory)
    assert {images.pixels.dtype for images in data.images.values()} == {dtype}
    found = all_images(data)[:, 0].double().flatten(1)
    wanted = torch.from_numpy(expected.astype(float)).flatten(1)
    assert torch.cdist(wanted, found).min(1).values.max() < 1e-5
    scale = 255 if dtype is torch.uint8 else 1
    assert data.x("test").max() * scale == pytest.approx(data.images["test"].pixels.float().max().item())


REFUSED = {
    "other files": (lambda p: p.with_name("x.csv"), {}, r"^dataset.path=.*x.csv: expected .* \.npy, \.npz, \.pt"),
    "missing": (lambda p: p.with_name("y.npy"), {}, r"^dataset.path=.*y.npy: cannot be read: no such file$"),
    "damaged": (b"abc", {}, r"^dataset.path=.*x.npy: cannot be read: [^\n]*$"),
    "objects": (np.array([{}] * 9, object), {}, r"^dataset.path=.*cannot be read"),
    "complex": (UNIT * 1j, {}, r"its values are of the type complex128; expected numbers$"),
    "0 dimensions": (np.zeros(()), {}, r"shape \(\); expected 2 to 4 dimensions$"),
    "1 dimension": (np.zeros(9), {}, r"shape \(9,\); expected 2 to 4 dimensions$"),
    "negative": (UNIT - 0.5, {}, r"^dataset.range=\[0,1\]: .* has values from -0.49\d* to 0.5; expected a range"),
    "nan": (np.where(GREY == 9, np.nan, UNIT), {}, r"has values from nan to nan"),
    "16 bits": (GREY.astype(int) * 9, {}, r"^dataset.range=\[0,255\]: .* to 2295; expected a range"),
    "range": (UNIT, {"range": [0, 0.5]}, r"^dataset.range=\[0,0.5\]: "),
    "static": (GREY, {"max_memory": 0.0, "binarize": "static"}, "expected dataset.binarize=dynamic or none"),
    "labels": (GREY, {"labels": "y"}, r"^dataset.labels=y: .*x.npy has only one array; expected a .npy file"),
    "val_size": (GREY, {"val_size": 60}, r"^dataset.val_size=60 and dataset.test_size=6: expected"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, name):
    content, changes, message = REFUSED[name]
    path = tmp_path / "x.npy"
    if callable(content):
        path = content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(UserError, match=message) as error:
        prepare(make_array(path, **changes))
    assert "\n" not in str(error.value)


def test_labels_of_a_file_of_their_own_may_be_names(tmp_path):
    np.save(tmp_path / "y.npy", np.array(["dog", "ant", "cat"] * 20))
    data = saved(tmp_path, GREY, labels=str(tmp_path / "y.npy"))
    number = {image.tobytes(): [2, 0, 1][i % 3] for i, image in enumerate(GREY)}
    for pixels, labels, _, classes, _ in data.images.values():
        assert list(classes) == sorted(classes)
        assert [number[image.numpy().tobytes()] for image in pixels] == labels.tolist()
    np.save(tmp_path / "y.npy", np.arange(59))
    with pytest.raises(UserError, match=r"^dataset.labels=.*y.npy: labels of the shape \(59,\); .* 60 images$"):
        prepare(make_array(tmp_path / "x.npy", labels=str(tmp_path / "y.npy")))
    np.savez(tmp_path / "a.npz", x=GREY, label=LABELS)
    with pytest.raises(UserError, match=r"^dataset.labels=y: expected one of x, label$"):
        prepare(make_array(tmp_path / "a.npz", labels="y"))
    with pytest.raises(UserError, match=r"^dataset.key=z: expected one of x, label$"):
        prepare(make_array(tmp_path / "a.npz", key="z"))
    assert prepare(make_array(tmp_path / "a.npz", labels="label")).images["val"].labels is not None


def with_trainer(data, epoch=0):
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), current_epoch=epoch)
    return data


def epoch_batches(data, epoch, resume_after=None):
    """All batches of an epoch, or those after it was interrupted."""
    loader = with_trainer(data, epoch).train_dataloader()
    if resume_after is not None:
        interrupted = with_trainer(data, epoch).train_dataloader()
        for _, _chunk in zip(range(resume_after), interrupted, strict=False):
            pass
        loader.load_state_dict(interrupted.state_dict())
    return [x for chunk in loader for x in chunk]


@pytest.mark.parametrize("dtype", ["uint8", "bool", ">f4", "int64"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_rows_of_a_npy_file_are_those_that_numpy_loads(tmp_path, dtype, order, version):
    x = np.asarray(GREY.astype(dtype), order=order)
    with (tmp_path / "x.npy").open("wb") as file:
        np.lib.format.write_array(file, x, version)
    array = open_npy(tmp_path / "x.npy")
    rows = np.random.default_rng(0).permutation(N)[:20]
    for found, expected in (
        (array[3:9], x[3:9]),
        (array[:], x),
        (array[9:9], x[9:9]),
        (read_rows(array, rows), x[rows]),
    ):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found, expected)


def test_a_file_that_becomes_shorter_is_an_error(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    array = open_npy(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", GREY.nbytes // 2)
    assert np.array_equal(array[:9], GREY[:9])
    with pytest.raises(OSError, match=r"x.npy: the file has become shorter$"):
        array[:]


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """5003 images in a file, with blocks of 8 images and buffers of 400, for batches of 20."""
    monkeypatch.setattr(loaders, "BLOCK_BYTES", 8 * 6)
    monkeypatch.setattr(loaders, "BUFFER_BYTES", 400 * 6)
    x = np.random.default_rng(1).integers(2, 256, (5003, 2, 3), dtype=np.uint8)
    x[:, 0] = np.arange(5003)[:, None] // 256 + 2
    x[:, 1, 0] = np.arange(5003) % 254 + 2
    return saved(tmp_path, x, max_memory=0.0), x


def test_a_stored_array_has_the_split_of_one_in_memory(stored, tmp_path):
    data, _ = stored
    in_memory = prepare(make_array(tmp_path / "x.npy"))
    for split in ("val", "test"):
        assert torch.equal(data.x(split), in_memory.x(split))
    assert image_bytes(base.Images(data.images["train"].pixels[:])) == image_bytes(in_memory.images["train"])
    torch.testing.assert_close(data.mean_image(), in_memory.mean_image())
    assert data.batches_per_epoch == in_memory.batches_per_epoch


def test_an_epoch_of_a_stored_array_has_every_image_once(stored):
    data, _ = stored
    first, second = epoch_batches(data, 0), epoch_batches(data, 1)
    assert [len(x) for x in first] == [20] * 200 + [3]
    assert len(first) == data.batches_per_epoch
    assert not torch.equal(torch.cat(first), torch.cat(second))
    expected = sorted(image.numpy().tobytes() for image in data.x("train"))
    for batches in (first, second):
        assert sorted(image.numpy().tobytes() for image in torch.cat(batches)) == expected
    assert torch.equal(torch.cat(epoch_batches(data, 1)), torch.cat(second))


def test_an_epoch_of_a_stored_array_is_shuffled_across_the_file(stored):
    """The place in the file of the images of an epoch: its rank correlation with their place in the epoch is small."""
    data, _ = stored
    train = data.images["train"].pixels[:].flatten(1)
    place = {bytes(image.numpy()): i for i, image in enumerate(train)}
    order = [place[bytes(image.numpy())] for image in (torch.cat(epoch_batches(data, 0)) * 255).round().byte()]
    places = torch.tensor([order, range(len(order))], dtype=torch.double)
    assert torch.corrcoef(places)[0, 1].abs() < 0.2  # blocks of 8 of 4003: the standard deviation is about 0.045
    neighbours = (places[0].diff().abs() == 1).double().mean()
    assert neighbours < 0.05
    assert places[0][:20].std() > 400


def test_an_interrupted_epoch_of_a_stored_array_resumes(stored, monkeypatch):
    data, _ = stored
    whole = epoch_batches(data, 2)
    reads = []
    read = base.StoredPixels.__getitem__
    monkeypatch.setattr(base.StoredPixels, "__getitem__", lambda *args: reads.append(args[1]) or read(*args))
    for taken in (1, 2, 7):
        resumed = epoch_batches(data, 2, taken)
        assert torch.equal(torch.cat(resumed), torch.cat(whole[10 * taken :]))
    reads.clear()
    epoch_batches(data, 2, 7)
    buffers = [rows for rows in reads if isinstance(rows, torch.Tensor)]
    assert (
        sum(map(len, buffers)) < 2 * len(data.images["train"].pixels) - 1000
    )  # buffers that were used are not read again


@pytest.mark.parametrize("images", ["numpy", "torch", "dataset"])
def test_images_from_python(tmp_path, images):
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(GREY), torch.from_numpy(LABELS))
    given = {"numpy": (GREY, LABELS), "torch": (torch.from_numpy(GREY), LABELS.tolist()), "dataset": (pairs,)}[images]
    overrides = save_images(*given, data_dir=tmp_path / "it's")
    assert overrides[0] == "dataset=array"
    parsed = {o.key_or_group: o.value() for o in map(parse_override, overrides)}
    path, labels = parsed["dataset.path"], parsed["dataset.labels"]
    assert np.array_equal(np.load(path), GREY)
    assert np.array_equal(np.load(labels), LABELS)
    assert save_images(GREY, LABELS, data_dir=tmp_path / "it's") == overrides
    assert save_images(GREY[::-1], LABELS, data_dir=tmp_path / "it's") != overrides


@pytest.mark.slow
def test_vectors_train_without_pictures(tmp_path, cli, runs, module_cli):
    from vae.generate import __main__ as generate
    from vae.latent import __main__ as latent

    np.savez(tmp_path / "v.npz", x=UNIT.reshape(N, -1), y=LABELS)
    arguments = ["dataset=array", "dataset.path=v.npz", "latent_dim=2", "hidden_size=8", "logger=csv", "test.K=2"]
    code, out, err = cli(*arguments, "trainer.max_epochs=1", defaults=())
    assert (code, err) == (0, "")
    for line in ("v.npz: (60, 30), layout ND, float32, in memory", "likelihood=auto: gaussian", "vectors cannot be"):
        assert line in out
    (run,) = runs()
    assert read_config(run).likelihood._target_ == "vae.model.likelihoods.Gaussian"
    assert {path.name for path in (run / "figures").iterdir()} == {"curves.png", "latents.png"}
    code, _, err = module_cli(generate)(f"run={run}")
    assert (code, err) == (2, "run: its images have the shape (1, 1, 30), and cannot be shown as pictures\n")
    code, _, err = module_cli(latent)(f"run={run}")
    assert (code, err) == (0, "")
    assert not (run / "latent" / "strangest.png").exists()


@pytest.mark.slow
def test_a_stored_array_resumes_to_the_same_weights(tmp_path, cli, runs):
    """Two epochs at once, and one epoch that goes on to two."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, (500, 4, 4)))
    arguments = ["dataset=array", "dataset.path=x.npy", "dataset.max_memory=0", "hidden_size=8", "logger=csv"]
    arguments += ["optimizer/schedule=constant", "test.K=2"]
    for folder, epochs in (("whole", 2), ("parts", 1)):
        code, out, _ = cli(*arguments, f"trainer.max_epochs={epochs}", f"hydra.run.dir=outputs/{folder}", defaults=())
        assert code == 0
        assert folder == "parts" or "read from the file" in out
    config = tmp_path / "outputs" / "parts" / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 1", "max_epochs: 2"))
    (tmp_path / "outputs" / "parts" / "summary.json").unlink()
    assert cli("resume=outputs/parts", defaults=())[0] == 0
    parts, whole = runs()
    assert load_checkpoint(whole)["epoch"] == load_checkpoint(parts)["epoch"] == 1
    for name, value in load_weights(whole).items():
        torch.testing.assert_close(load_weights(parts)[name], value)
