"""Runs with conditional=true, on images whose bright row is their label."""

import json

import numpy as np
import pytest
import torch
from conftest import BARS, compose_config
from fakes import Four, Named, load_data
from toy_dataset import Bars

import vae
from datamodules.labels import one_hot
from vae.errors import UserError
from vae.evaluate.__main__ import evaluate
from vae.export.__main__ import export
from vae.latent.__main__ import Arguments, analyse
from vae.model.vae import VAE
from vae.training.run_data import describe, fingerprint

TRAINED = ["conditional=true", "trainer.max_epochs=12", "test.K=4", "optimizer.lr=0.01", "hidden_size=32"]


def brightest_rows(pictures):
    return pictures.x[:, 0].mean(-1).argmax(1).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_bars(tmp_path_factory.mktemp("conditional"), "bars")


def train_bars(root, name, *arguments):
    """Train a conditional model and return its folder."""
    arguments = [*BARS, *TRAINED, *arguments, "logger=none", f"data_dir={root}/data", f"hydra.run.dir={root}/{name}"]
    return vae.train(*arguments).folder


def test_pictures_have_the_label_they_are_given(folder):
    """A model trained on images and labels that do not belong together could not do this."""
    run = vae.load(folder, trust=True)
    assert run.label_names == list("01234567")
    assert brightest_rows(run.sample(16, label=6, seed=0)) == [6] * 16
    assert brightest_rows(run.sample(8, seed=0)) == list(range(8))
    z = run.encode([0, 1, 2])
    assert brightest_rows(run.decode(z, labels=[5, 5, 0])) == [5, 5, 0]
    assert brightest_rows(run.reconstruct(list(range(20)))) == run.labels()[:20].tolist()
    assert (run.folder / "figures" / "styles.png").exists()
    assert not (run.folder / "figures" / "manifold.png").exists()


@pytest.mark.slow
def test_samples_of_a_ladder_have_their_label(tmp_path):
    """On digits: the nearest of the mean images of the labels is that of the label of the sample."""
    ladder = ["architecture=ladder", "architecture.encoder.channels=[16,16,16]", "architecture.encoder.groups=2"]
    short = ["latent_dim=10", "trainer.max_epochs=10", "test.K=2", "logger=none", f"hydra.run.dir={tmp_path}/run"]
    run = vae.train("dataset=digits", *ladder, *short, conditional=True)
    images = run.data.images["train"]
    means = torch.stack([run.data.x("train", images.labels == label).mean(0).flatten() for label in range(10)])
    samples = torch.as_tensor(run.sample(200, seed=0).x).flatten(1)
    nearest = torch.cdist(samples, means).argmin(1)
    assert (nearest == torch.arange(200) % 10).float().mean() > 0.7
    assert run.decode(run.encode([0]), labels=3).x.shape == (1, 1, 8, 8)


def test_images_of_another_label_are_less_likely(folder):
    run = vae.load(folder, trust=True)
    own = run.log_px(list(range(40)))
    labels = (run.labels()[:40] + 1) % 8
    other = run.log_px(run.images()[:40].array, labels=labels.tolist())
    assert (own > other).all()


def test_evaluate_and_export(folder):
    run = vae.load(folder, trust=True)
    results = evaluate(run.folder, 64, 100, False, trust=True)
    assert results["test/log_px_K64"] >= run.summary["test/log_px"] - 0.5
    description = export(run)
    assert description["labels"] == list("01234567")
    import onnxruntime

    decoder = onnxruntime.InferenceSession(run.folder / "export" / "decoder.onnx")
    z, y = np.zeros((8, 3), np.float32), np.eye(8, dtype=np.float32)
    picture, _ = decoder.run(None, {"z": z, "y": y})
    assert picture[:, 0].mean(-1).argmax(1).tolist() == list(range(8))


def test_codes_are_those_of_the_label_and_the_table_says_so(folder):
    run = vae.load(folder, trust=True)
    lines = analyse(Arguments(run=str(folder), trust=True))
    assert "the encoder was given the label" in lines[0]
    y = one_hot(run.data.images["test"].labels, 8)
    with np.load(folder / "latent" / "codes.npz") as saved, torch.inference_mode():
        np.testing.assert_allclose(saved["mean"], run.vae.q(run.data.x("test"), y).mean, atol=1e-5)


def test_a_resumed_run_gives_the_same_weights(folder, interrupt, monkeypatch):
    def stop():
        raise UserError("stopped")

    with interrupt(40, stop), pytest.raises(UserError, match="stopped"):
        train_bars(folder.parent, "stopped")
    monkeypatch.setenv("VAE_DATA_DIR", str(folder.parent / "data"))
    vae.train(resume=folder.parent / "stopped")
    weights, expected = (vae.load(folder.parent / name, trust=True).vae.state_dict() for name in ("stopped", "bars"))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.fixture
def bars(tmp_path):
    data = Bars(str(tmp_path), batch_size=7, seed=0, val_size=60, split_seed=0, binarize="none")
    data.conditional = True
    data.prepare_data()
    data.setup()
    return data


class FakeTrainer:
    current_epoch = 3

    class strategy:
        root_device = torch.device("cpu")


def test_batches_pair_each_image_with_its_label(bars):
    bars.trainer = FakeTrainer
    pairs = [pair for chunk in bars.train_dataloader() for pair in chunk]
    pairs += [*bars.val_dataloader(), *bars.test_dataloader()]
    assert sum(len(x) for x, _ in pairs) == 420
    for x, labels in pairs:
        assert torch.equal(x[:, 0].mean(-1).argmax(1), labels)
    rows = torch.tensor([5, 2, 9])
    assert torch.equal(bars.y("val", rows)[0].argmax(1), bars.x("val", rows)[:, 0].mean(-1).argmax(1))


def test_labels_may_be_any_numbers_and_belong_to_the_fingerprint(bars):
    description = describe(bars)
    for split, images in bars.images.items():
        bars.images[split] = images._replace(labels=10 * images.labels - 3)
    assert bars.label_names == ["-3", "7", "17", "27", "37", "47", "57", "67"]
    assert torch.equal(bars.y("test")[0].argmax(1), bars.x("test")[:, 0].mean(-1).argmax(1))
    images = bars.images["val"]
    bars.images["val"] = images._replace(labels=images.labels.roll(1))
    changed = describe(bars)
    assert changed.splits["val"] != description.splits["val"]
    assert changed.splits["test"] == description.splits["test"]
    bars.conditional = False
    assert describe(bars).splits["val"].fingerprint == fingerprint(images)
    assert (describe(bars).labels, bars.y("val"), bars.label_index("val")) == ([], (), None)


def test_images_without_labels_or_with_unknown_ones_are_refused():
    for dataset, message in ((Named, "these images have none"), (Four, "the test images have none")):
        data = load_data(dataset)
        data.conditional = True
        with pytest.raises(UserError, match=f"conditional=true: expected a dataset with labels; {message}"):
            _ = data.label_values
    data.images["test"] = data.images["test"]._replace(labels=torch.full((10,), 7))
    with pytest.raises(UserError, match="no training image has the label 7 of a test image"):
        _ = data.label_values


def test_a_dataset_without_labels_is_one_line(cli):
    code, _, err = cli("conditional=true", "dataset._target_=fakes.Named", "likelihood=gaussian", "dataset.val_size=8")
    assert code == 2
    assert "conditional=true: expected a dataset with labels; these images have none\n" in err


def test_a_batch_without_labels_is_one_line():
    from vae.training.build import build

    module = build(compose_config("hidden_size=4"), (1, 4, 4), 3)
    assert isinstance(module.vae, VAE)
    with pytest.raises(UserError, match="expected batches of images and labels"):
        module.model_input(torch.rand(5, 1, 4, 4))
    x, y = module.model_input([torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([2, 0])])
    assert (x.dtype, y.tolist()) == (torch.float, [[0, 0, 1], [1, 0, 0]])


def test_data_json_names_the_labels(folder):
    assert json.loads((vae.load(folder, trust=True).folder / "data.json").read_text())["labels"] == list("01234567")
