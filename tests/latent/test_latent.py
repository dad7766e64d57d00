"""python -m vae.latent: the files it writes for runs on bars, and its error messages."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from toy_dataset import Bars
from wandb_server import WandbServer

from datamodules.base import Images
from vae import figures
from vae.config.schema import CONF
from vae.latent import __main__ as latent
from vae.latent import evaluation, probes
from vae.latent.disentanglement import disentanglement
from vae.runs.run_folder import read_finished_run
from vae.training.build import load_trained
from vae.training.experiment import load_dataset


@pytest.fixture
def run_latent(module_cli):
    return module_cli(latent)


def test_labels_are_classes_if_each_has_several_images():
    def classes(labels):
        images = Images(torch.zeros(len(labels or range(20)), 1, 2, 2), labels and torch.tensor(labels))
        return evaluation.class_labels(SimpleNamespace(images={"train": images, "test": images}), "test")

    assert classes(None) is None
    assert classes(list(range(20))) is None
    assert classes([3] * 20) is None
    assert classes([0, 1, 2, 3] * 5).tolist() == [0, 1, 2, 3] * 5


def load_run(folder):
    cfg = read_finished_run(folder).config
    data = load_dataset(cfg, folder)
    return data, load_trained(cfg, data.shape, folder).vae


@pytest.mark.plots
def test_codes_map_and_scores_of_a_run(cli, runs, run_latent, monkeypatch):
    monkeypatch.setattr(evaluation, "BATCH_SIZE", 50)
    monkeypatch.setattr(evaluation, "MAX_CLUSTERED", 100)
    cli("trainer.max_epochs=8", "latent_dim=2")
    (folder,) = runs()
    code, out, err = run_latent("images=150")
    assert (code, err) == (0, "")
    assert "conditional" not in out
    data, vae = load_run(folder)
    with np.load(folder / "latent/codes.npz") as saved:
        codes = {name: saved[name] for name in saved}
    with torch.inference_mode():
        q_z = vae.q_z(data.x("test"))
    np.testing.assert_allclose(codes["mean"], q_z.mean, atol=1e-5)
    np.testing.assert_allclose(np.exp(codes["log_var"]), q_z.variance, rtol=1e-4)
    np.testing.assert_array_equal(codes["labels"], data.images["test"].labels)
    np.testing.assert_array_equal(codes["map"], codes["mean"])
    assert "names" not in codes
    found = json.loads((folder / "latent/latent.json").read_text())
    assert (found["k"], found["clusters"], found["split"]) == (8, "kmeans", "test")
    assert found["images"] == {"clustered": 100, "fitted": 150, "tested": 120}
    assert {name: row["features"] for name, row in found["found"].items()} == {
        "codes": 2,
        "pixels": 64,
        "principal components": 2,
    }
    # the same scores from torch
    fitted = evaluation.random_rows(240, 150)
    train, labels = evaluation.encode(vae, data.x("train", fitted)).mean.detach(), data.images["train"].labels[fitted]
    test, test_labels = q_z.mean, data.images["test"].labels
    for name, pair in {
        "codes": (train, test),
        "pixels": (data.x("train", fitted).flatten(1), data.x("test").flatten(1)),
    }.items():
        votes = labels[torch.cdist(pair[1], pair[0]).topk(5, largest=False).indices]
        right = (votes.mode(1).values == test_labels).float().mean().item()
        assert found["found"][name]["nearest_neighbours"] == pytest.approx(right, abs=0.03)
        assert f"{found['found'][name]['nearest_neighbours']:.3f}" in out
    assert found["found"]["pixels"]["linear_probe"] > 0.9
    rows = evaluation.random_rows(120, 100)
    clusters = probes.cluster(codes["mean"][rows], 8, "kmeans")
    assert found["found"]["codes"]["nmi"] == pytest.approx(
        probes.cluster_agreement(test_labels[rows].numpy(), clusters)["nmi"]
    )
    pictures = [np.asarray(Image.open(folder / f"latent/{name}.png")) for name in ("map", "strangest")]
    projection = figures.fit_projection(q_z.mean)
    expected = figures.scatter_plot(
        projection.project(q_z.mean), projection.axis_names, test_labels, None, "means of q(z|x), test images"
    )
    assert (pictures[0] == expected).mean() > 0.999
    assert pictures[1].std() > 0
    assert [line.strip().split("/")[-1] for line in out.splitlines()[-4:]] == [
        "codes.npz",
        "latent.json",
        "map.png",
        "strangest.png",
    ]


class Odd(Bars):
    """Bars with a chessboard as test image 17."""

    def load(self):
        images = super().load()
        images["test"].pixels[17, 0] = 255 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
        return images


@pytest.mark.parametrize("score", ["log_px", "reconstruction"])
def test_the_odd_image_has_the_highest_anomaly_score(score, cli, runs, run_latent):
    cli("dataset._target_=test_latent.Odd")
    (folder,) = runs()
    code, out, err = run_latent(f"score={score}", "K=20")
    assert (code, err) == (0, "")
    assert ": 17, " in out
    with np.load(folder / "latent/codes.npz") as saved:
        assert saved["anomaly_score"].argmax() == 17
        anomaly_score, mean, saved_score = saved["anomaly_score"], saved["mean"], str(saved["score"])
    assert saved_score == score
    data, vae = load_run(folder)
    x = data.x("test")
    with torch.inference_mode():
        p_x = vae.p_x(torch.from_numpy(mean))
        squared = (p_x.mean - x).square().sum((1, 2, 3))
        torch.manual_seed(5)
        log_px = vae.terms(x, 20).log_w.logsumexp(0) - np.log(20)
    expected = squared if score == "reconstruction" else -log_px
    np.testing.assert_allclose(anomaly_score, expected, atol=1e-3 if score == "reconstruction" else 4)
    shown = np.asarray(Image.open(folder / "latent/strangest.png").convert("RGB"))
    zoom = shown.shape[1] // (10 * 10 + 2)
    assert (shown[2 * zoom :: zoom, 2 * zoom :: zoom, 0][:8, :8] == 255 * x[17, 0].numpy()).all()


class Lopsided(Bars):
    """Bars with label 0, except for the last ten training images."""

    def load(self):
        images = super().load()
        images["train"].labels[:-10] = 0
        return images


def test_classifiers_need_two_labels(cli, runs, run_latent):
    cli("dataset._target_=test_latent.Lopsided", "trainer.max_epochs=1")
    (folder,) = runs()
    expected = "images=4: these have one label; expected a larger number, up to 240\n"
    assert run_latent("images=4") == (2, "", expected)
    assert not (folder / "latent").exists()
    assert run_latent("images=240", "K=2", "split=val", "clusters=mixture", "k=3")[0] == 0
    found = json.loads((folder / "latent/latent.json").read_text())
    with np.load(folder / "latent/codes.npz") as saved:
        clusters = {method: probes.cluster(saved["mean"], 3, method) for method in ("mixture", "kmeans")}
        nmi = {method: probes.cluster_agreement(saved["labels"], found)["nmi"] for method, found in clusters.items()}
    assert found["found"]["codes"]["nmi"] == pytest.approx(nmi["mixture"]) != pytest.approx(nmi["kmeans"])
    assert (found["split"], found["images"]) == ("val", {"clustered": 60, "fitted": 240, "tested": 120})


class Factored(Bars):
    """Bars, of which the row is known as a quantity and as the half of the image."""

    def load(self):
        return {
            split: images._replace(factors={"row": images.labels.float(), "half": images.labels // 4})
            for split, images in super().load().items()
        }


def test_known_factors_are_kept_and_compared_with_the_codes(cli, runs, run_latent):
    cli("dataset._target_=test_latent.Factored", "trainer.max_epochs=2")
    (folder,) = runs()
    code, out, err = run_latent("split=val", "K=2", "images=200")
    assert (code, err) == (0, "")
    data, vae = load_run(folder)
    found = json.loads((folder / "latent/latent.json").read_text())["factors"]
    assert (found["split"], found["names"]) == ("val", ["row", "half"])
    assert found["images"] == {"fitted": 200, "tested": 60}
    images, train = data.images["val"], data.images["train"].select(evaluation.random_rows(240, 200))
    with np.load(folder / "latent/codes.npz") as saved, torch.inference_mode():
        np.testing.assert_array_equal(saved["factor_row"], images.labels)
        np.testing.assert_array_equal(saved["factor_half"], images.labels // 4)
        codes, fitted_to = saved["mean"], vae.q_z(data.x("train", evaluation.random_rows(240, 200))).mean.numpy()
    factors, train_factors = (
        {"row": p.labels.float().numpy(), "half": (p.labels // 4).numpy()} for p in (images, train)
    )
    expected = disentanglement(codes, factors, fitted_to, train_factors)
    ours = found["found"]["codes"]
    assert ours == pytest.approx({"features": codes.shape[1], **expected}, abs=0.02)
    assert f"{ours['mig']:.3f}" in out
    assert found["found"]["principal components"]["informativeness"] > 0.5


class Unlabelled(Bars):
    """Bars with names and without labels."""

    def load(self):
        return {
            split: Images(images.pixels, None, [f"{split}-{i}" for i in range(len(images.pixels))])
            for split, images in super().load().items()
        }


def test_run_without_labels_and_log_px(cli, runs, run_latent):
    cli("objective=autoencoder", "dataset._target_=test_latent.Unlabelled")
    (folder,) = runs()
    code, out, err = run_latent("split=val")
    assert (code, err) == (0, "")
    assert "no labels, or fewer than 5 images per label" in out
    assert "no known factors: MIG, SAP, the FactorVAE score and DCI are skipped" in out
    assert "highest anomaly scores, by squared error of the reconstruction: val-" in out
    assert sorted(path.name for path in (folder / "latent").iterdir()) == ["codes.npz", "map.png", "strangest.png"]
    data, vae = load_run(folder)
    with np.load(folder / "latent/codes.npz") as saved, torch.inference_mode():
        assert {*saved} == {"anomaly_score", "map", "mean", "names", "score", "split"}
        np.testing.assert_allclose(saved["mean"], vae.q_z(data.x("val")).mean, atol=1e-5)
        assert saved["names"][3] == "val-3"
        assert saved["map"].shape == (60, 2)


@pytest.mark.slow
def test_codes_of_a_flow_are_reproducible_and_the_map_is_umap(cli, runs, run_latent, monkeypatch):
    class UMAP:
        def __init__(self, _neighbours, random_state, n_jobs):
            assert (random_state, n_jobs) == (0, 1)

        def fit_transform(self, codes):
            return codes[:, [2, 0]]

    cli("posterior=iaf")
    (folder,) = runs()
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    found = []
    for _ in range(2):
        assert run_latent("map=umap")[0] == 0
        with np.load(folder / "latent/codes.npz") as saved:
            found.append(saved["mean"])
            np.testing.assert_array_equal(saved["map"], saved["mean"][:, [2, 0]])
            assert "log_var" not in saved
    np.testing.assert_array_equal(*found)


USER_ERRORS = {
    "split=tets": ["split=tets", "'test'", "did you mean test?"],
    "map=tsne": ["map=tsne", "'pca' or 'umap'"],
    "clusters=means": ["clusters=means", "'kmeans' or 'mixture'"],
    "score=elbo": ["score=elbo", "'log_px' or 'reconstruction'"],
    "k=1": ["k=1", "2 or more"],
    "k=121": ["k=121", "2 to 120"],
    "K=0": ["K=0", "1 or more"],
    "wandb=perhaps": ["wandb=perhaps", "true or false"],
    "wandb=true": ["wandb=true", "has no wandb_id"],
    "spilt=test": ["spilt: no such key", "did you mean split?"],
    "run=nowhere": ["run=nowhere", "summary.json"],
    "map=umap": ["umap-learn", "pip install umap-learn"],
}


def test_user_error_is_one_line_and_exit_code_2(cli, runs, run_latent, monkeypatch):
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    monkeypatch.setitem(sys.modules, "umap", None)

    def error_of(*arguments):
        code, out, err = run_latent(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        return err

    for argument, words in USER_ERRORS.items():
        err = error_of(argument)
        assert all(word in err for word in words), err
    assert not (folder / "latent").exists()
    (folder / "checkpoints/best.ckpt").unlink()
    assert "best.ckpt" in error_of(f"run={folder}")
    assert "none in outputs/" in error_of()


@pytest.mark.slow
def test_wandb_receives_the_codes_as_a_table(cli, runs, run_latent, isolated_wandb):
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    cfg = read_finished_run(folder).config
    cfg.logger = {"wandb": OmegaConf.load(CONF / "logger/wandb.yaml")}
    OmegaConf.save(cfg, folder / ".hydra/config.yaml")
    (folder / "wandb_id").write_text("0badcafe")
    with WandbServer() as server:
        for name, value in server.env.items():
            isolated_wandb.setenv(name, value)
        assert run_latent("wandb=true")[0] == 0
    sent = server.runs["0badcafe"].summary["codes"]
    assert (sent["_type"], sent["nrows"], sent["ncols"]) == ("table-file", 120, 4)
    table = json.loads(server.runs["0badcafe"].files[sent["path"]])
    assert table["columns"] == ["label", "z1", "z2", "z3"]
    with np.load(folder / "latent/codes.npz") as saved:
        np.testing.assert_allclose([row[1:] for row in table["data"]], saved["mean"], atol=1e-5)
        assert [row[0] for row in table["data"]] == saved["labels"].tolist()
