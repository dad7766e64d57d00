"""python -m vae.latent: what is measured, against what is known of made-up codes, and the files of runs on bars."""

import itertools
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
from vae.latent import probes
from vae.runs.run_folder import finished
from vae.training.experiment import load, load_trained


@pytest.fixture
def look(command_of):
    return command_of(latent)


def blobs(n, far, seed=0):
    """n points around each of three centres so far apart, (3 n, 2), and which; in no order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), n))
    return far * np.array([[0, 0], [1, 0], [0, 1]])[labels] + rng.normal(size=(3 * n, 2)), labels


def test_the_best_matching_is_the_best_of_all_permutations():
    rng = np.random.default_rng(0)
    for k in (3, 4, 5):  # clusters, of 4 labels
        labels = rng.integers(0, 4, 60)
        found = np.where(rng.random(60) < 0.4, (labels + 1) % k, rng.integers(0, k, 60))
        ways = itertools.permutations(range(max(4, k)), k)  # the label of each cluster
        best = max(np.mean(np.array(way)[found] == labels) for way in ways)
        assert probes.best_matching(labels, found) == pytest.approx(best)


@pytest.mark.parametrize("method", ["kmeans", "mixture"])
def test_clusters_far_apart_are_found(method):
    x, labels = blobs(40, far=100)
    found = probes.agreement(labels, probes.clusters(x, 3, method))
    assert found == pytest.approx({"adjusted_rand": 1, "nmi": 1, "matching_accuracy": 1})
    assert len(set(probes.clusters(x, 5, method))) == 5


def test_only_a_mixture_finds_long_clusters():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    along, across = 2 * rng.normal(size=(400, 1)), 0.3 * rng.normal(size=(400, 2))
    x = along + across + np.stack([4 * labels, 0 * labels], 1)
    assert probes.agreement(labels, probes.clusters(x, 2, "mixture"))["adjusted_rand"] == pytest.approx(1)
    assert probes.agreement(labels, probes.clusters(x, 2, "kmeans"))["adjusted_rand"] < 0.5


def test_clusters_that_know_nothing_of_labels_agree_by_chance():
    labels, found = np.random.default_rng(0).integers(0, 5, (2, 20_000))
    agreement = probes.agreement(labels, found)
    assert abs(agreement["adjusted_rand"]) < 0.01
    assert agreement["nmi"] < 0.01
    assert agreement["matching_accuracy"] == pytest.approx(0.2, abs=0.02)


def test_agreement_is_that_of_the_definitions():
    labels, found = np.random.default_rng(1).integers(0, 3, (2, 50))
    found = np.where(np.arange(50) < 30, labels, found)
    pairs = list(itertools.combinations(range(50), 2))
    same = np.array([(labels[i] == labels[j], found[i] == found[j]) for i, j in pairs])
    expected = same[:, 0].mean() * same[:, 1].mean()  # Hubert & Arabie 1985
    index = (same.all(1).mean() - expected) / (same.mean(0).mean() - expected)
    table = np.array([[np.mean((labels == a) & (found == b)) for b in range(3)] for a in range(3)])
    p, q = table.sum(1), table.sum(0)
    information = (table * np.log(table / np.outer(p, q))).sum()
    nmi = 2 * information / -(p @ np.log(p) + q @ np.log(q))
    agreement = probes.agreement(labels, found)
    assert (agreement["adjusted_rand"], agreement["nmi"]) == (pytest.approx(index), pytest.approx(nmi))


def test_probes_are_fitted_to_training_and_tested_on_test_features():
    (train, labels), (test, test_labels) = blobs(60, far=4), blobs(200, far=4, seed=1)
    accuracies = probes.accuracies(train, labels, test, test_labels)
    distance = ((test[:, None] - train) ** 2).sum(-1)
    votes = labels[distance.argsort(1)[:, :5]]
    nearest = np.array([np.bincount(vote).argmax() for vote in votes])  # a tie goes to the least label
    assert accuracies["nearest_neighbours"] == pytest.approx(np.mean(nearest == test_labels))
    assert 0.9 < accuracies["linear_probe"] < 1
    assert probes.accuracies(train, (labels + 1) % 3, test, test_labels)["linear_probe"] < 0.1


def test_a_ring_around_a_point_is_no_linear_matter():
    angle = np.linspace(0, 40, 300)
    labels = np.arange(300) % 2
    x = (0.1 + labels)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    accuracies = probes.accuracies(x, labels, x, labels)
    assert accuracies["nearest_neighbours"] == 1
    assert accuracies["linear_probe"] < 0.7


def test_principal_components_are_those_of_the_training_features():
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(200, 4)) * [1, 9, 0.1, 3], rng.normal(size=(50, 4)) + 7
    found, of_test = probes.principal(train, 2, test)
    centre = train.mean(0)
    directions = np.linalg.svd(train - centre)[2][:2]
    np.testing.assert_allclose(abs(found), abs((train - centre) @ directions.T), atol=1e-8)
    np.testing.assert_allclose(abs(of_test), abs((test - centre) @ directions.T), atol=1e-8)
    assert probes.principal(train, 9, test)[1].shape == (50, 4)


def test_labels_are_kinds_where_each_has_several_images():
    def of(labels):
        images = Images(torch.zeros(len(labels or range(20)), 1, 2, 2), labels and torch.tensor(labels))
        return latent.kinds(SimpleNamespace(images={"train": images, "test": images}), "test")

    assert of(None) is None
    assert of(list(range(20))) is None
    assert of([3] * 20) is None
    assert of([0, 1, 2, 3] * 5).tolist() == [0, 1, 2, 3] * 5


def of_run(folder):
    cfg, _ = finished(folder)
    data = load(cfg)
    return data, load_trained(cfg, data.shape, folder).vae


def test_a_run_s_codes_map_and_measures(cli, runs, look, monkeypatch):
    monkeypatch.setattr(latent, "BATCH", 50)
    monkeypatch.setattr(latent, "MOST", 100)
    cli("trainer.max_epochs=8", "latent_dim=2")
    (folder,) = runs()
    code, out, err = look("images=150")
    assert (code, err) == (0, "")
    data, vae = of_run(folder)
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
    # by another way to the same numbers
    known = latent.some(240, 150)
    train, labels = latent.encoded(vae, data.x("train", known)).mean.detach(), data.images["train"].labels[known]
    test, test_labels = q_z.mean, data.images["test"].labels
    for name, pair in {
        "codes": (train, test),
        "pixels": (data.x("train", known).flatten(1), data.x("test").flatten(1)),
    }.items():
        votes = labels[torch.cdist(pair[1], pair[0]).topk(5, largest=False).indices]
        right = (votes.mode(1).values == test_labels).float().mean().item()
        assert found["found"][name]["nearest_neighbours"] == pytest.approx(right, abs=0.03)
        assert f"{found['found'][name]['nearest_neighbours']:.3f}" in out
    assert found["found"]["pixels"]["linear_probe"] > 0.9
    rows = latent.some(120, 100)
    groups = probes.clusters(codes["mean"][rows], 8, "kmeans")
    assert found["found"]["codes"]["nmi"] == pytest.approx(probes.agreement(test_labels[rows].numpy(), groups)["nmi"])
    pictures = [np.asarray(Image.open(folder / f"latent/{name}.png")) for name in ("map", "strangest")]
    plane = figures.fit_projection(q_z.mean)
    expected = figures.scatter_plot(plane.project(q_z.mean), plane.axis_names, test_labels, "means of q(z|x), test images")
    assert (pictures[0] == expected).mean() > 0.999
    assert pictures[1].std() > 0
    assert [line.strip().split("/")[-1] for line in out.splitlines()[-4:]] == [
        "codes.npz",
        "latent.json",
        "map.png",
        "strangest.png",
    ]


class Odd(Bars):
    """Bars, but for the test image 17, which is a chessboard."""

    def load(self):
        images = super().load()
        images["test"].pixels[17, 0] = 255 * ((torch.arange(8)[:, None] + torch.arange(8)) % 2)
        return images


@pytest.mark.parametrize("score", ["log_px", "reconstruction"])
def test_the_odd_one_is_the_strangest(score, cli, runs, look):
    cli("dataset._target_=test_latent.Odd")
    (folder,) = runs()
    code, out, err = look(f"score={score}", "K=20")
    assert (code, err) == (0, "")
    assert ": 17, " in out
    with np.load(folder / "latent/codes.npz") as saved:
        assert saved["anomaly_score"].argmax() == 17
        anomaly_score, mean, said = saved["anomaly_score"], saved["mean"], str(saved["score"])
    assert said == score
    data, vae = of_run(folder)
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
    """Bars of which only the last ten training images have another label than 0."""

    def load(self):
        images = super().load()
        images["train"].labels[:-10] = 0
        return images


def test_classifiers_are_fitted_to_more_than_one_label(cli, runs, look):
    cli("dataset._target_=test_latent.Lopsided", "trainer.max_epochs=1")
    (folder,) = runs()
    expected = "images=4: expected more, of two labels or more, to fit classifiers to\n"
    assert look("images=4") == (2, "", expected)
    assert not (folder / "latent").exists()
    assert look("images=240", "K=2", "split=val", "clusters=mixture", "k=3")[0] == 0
    found = json.loads((folder / "latent/latent.json").read_text())
    with np.load(folder / "latent/codes.npz") as saved:
        ways = {method: probes.clusters(saved["mean"], 3, method) for method in ("mixture", "kmeans")}
        nmi = {method: probes.agreement(saved["labels"], groups)["nmi"] for method, groups in ways.items()}
    assert found["found"]["codes"]["nmi"] == pytest.approx(nmi["mixture"]) != pytest.approx(nmi["kmeans"])
    assert (found["split"], found["images"]) == ("val", {"clustered": 60, "fitted": 240, "tested": 120})


class Unlabelled(Bars):
    """Bars with names and without labels."""

    def load(self):
        return {
            split: Images(images.pixels, None, [f"{split}-{i}" for i in range(len(images.pixels))])
            for split, images in super().load().items()
        }


def test_without_labels_and_without_log_px_there_are_codes_map_and_strangest(cli, runs, look):
    cli("objective=autoencoder", "dataset._target_=test_latent.Unlabelled")
    (folder,) = runs()
    code, out, err = look("split=val")
    assert (code, err) == (0, "")
    assert "no labels, or fewer than 5 images of each" in out
    assert "strangest, by squared error of the reconstruction: val-" in out
    assert sorted(path.name for path in (folder / "latent").iterdir()) == ["codes.npz", "map.png", "strangest.png"]
    data, vae = of_run(folder)
    with np.load(folder / "latent/codes.npz") as saved, torch.inference_mode():
        assert sorted(saved) == ["map", "mean", "names", "score", "split", "anomaly_score"]
        np.testing.assert_allclose(saved["mean"], vae.q_z(data.x("val")).mean, atol=1e-5)
        assert saved["names"][3] == "val-3"
        assert saved["map"].shape == (60, 2)


def test_a_flow_s_codes_are_the_same_each_time_and_umap_makes_the_map(cli, runs, look, monkeypatch):
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
        assert look("map=umap")[0] == 0
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
    "wandb=true": ["wandb=true", "no wandb_id"],
    "spilt=test": ["spilt: no such key", "did you mean split?"],
    "run=nowhere": ["run=nowhere", "summary.json"],
    "map=umap": ["umap-learn", "pip install -e '.[map]'"],
}


def test_what_cannot_be_is_one_line_and_exit_code_2(cli, runs, look, monkeypatch):
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    monkeypatch.setitem(sys.modules, "umap", None)

    def refused(*arguments):
        code, out, err = look(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        return err

    for argument, words in USER_ERRORS.items():
        err = refused(argument)
        assert all(word in err for word in words), err
    assert not (folder / "latent").exists()
    (folder / "checkpoints/best.ckpt").unlink()
    assert "best.ckpt" in refused(f"run={folder}")
    assert "none in outputs/" in refused()


def test_the_codes_arrive_in_the_run_s_wandb_as_a_table(cli, runs, look, isolated):
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    cfg, _ = finished(folder)
    cfg.logger = OmegaConf.load(CONF / "logger/wandb.yaml")
    OmegaConf.save(cfg, folder / ".hydra/config.yaml")
    (folder / "wandb_id").write_text("0badcafe")
    with WandbServer() as server:
        for name, value in server.env.items():
            isolated.setenv(name, value)
        assert look("wandb=true")[0] == 0
    sent = server.runs["0badcafe"].summary["codes"]
    assert (sent["_type"], sent["nrows"], sent["ncols"]) == ("table-file", 120, 4)
    table = json.loads(server.runs["0badcafe"].files[sent["path"]])
    assert table["columns"] == ["label", "z1", "z2", "z3"]
    with np.load(folder / "latent/codes.npz") as saved:
        np.testing.assert_allclose([row[1:] for row in table["data"]], saved["mean"], atol=1e-5)
        assert [row[0] for row in table["data"]] == saved["labels"].tolist()
