"""The files that a run of train.py writes, and its progress bar."""

import json
import math
import re
import sys
from functools import partial

import numpy as np
import pytest
from conftest import SHORT
from PIL import Image
from run_outputs import read_metrics

from vae import figures
from vae.training.callbacks import progress


@pytest.mark.plots
def test_a_run_writes_the_expected_files(cli, runs):
    code, out, _ = cli("latent_dim=2", "trainer.max_epochs=4")
    assert code == 0
    (folder,) = runs()
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *(f".hydra/{name}.yaml" for name in ("config", "hydra", "overrides")),
        *(f"checkpoints/{name}.ckpt" for name in ("best", "last", "last-previous")),
        *(
            f"figures/{name}.png"
            for name in (
                "curves",
                "fusions",
                "latents",
                "manifold",
                "mixture_samples",
                "reconstructions",
                "samples",
                "val_reconstructions",
            )
        ),
        *(f"film/{epoch:06}.png" for epoch in (1, 2, 3, 4)),
        *(".lock", "data.json", "metrics.csv", "summary.json", "train.log"),
    }
    assert "epoch   4" in (folder / "train.log").read_text()
    for path in (folder / "figures").iterdir():
        pixels = np.asarray(Image.open(path))
        assert min(pixels.shape[:2]) > 100
        assert pixels.max() - pixels.min() > 50
    assert "log_px" in out


def test_the_summary_is_written_before_the_pictures_and_the_output_names_them(cli, runs, monkeypatch):
    found = []
    draw = figures.mixture_samples
    monkeypatch.setattr("vae.figures.mixture_samples", lambda *args: found.append(runs()) or draw(*args))
    code, out, _ = cli()
    assert code == 0
    assert found == [runs()]
    folder, files = out.splitlines()[-1].removeprefix("pictures in ").split(": ")
    assert all((runs()[0] / "figures" / name).is_file() for name in files.split())
    assert folder.endswith("/figures")


def test_the_progress_bar_shows_the_metrics_and_the_remaining_time(cli, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("vae.training.callbacks.progress.tqdm", partial(progress.tqdm, mininterval=0, ncols=200))
    _, _, err = cli("trainer.max_epochs=3")
    last = [line for line in re.split(r"[\r\n]", err) if line.startswith("train") and "elbo=" in line][-1]
    assert re.search(r"36/36 \[.*<.*, elbo=-\d+\.\d, kl=\d+\.\d, log_likelihood=-\d+\.\d", last)
    assert re.search(r"test.*1/1", err)


def test_the_digits_dataset_needs_no_network(cli, runs, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("tried to use the network"))
    monkeypatch.setenv("PATH", "")
    code, _, err = cli("dataset=digits", "trainer.max_epochs=8", defaults=(*SHORT, "hidden_size=100", "logger=csv"))
    assert code == 0, err
    (folder,) = runs()
    elbo = [row["val/elbo"] for row in read_metrics(folder) if "val/elbo" in row]
    assert elbo[-1] > elbo[0] + 10
    # a uniform guess among 17 levels costs log2 17 = 4.1 bits; the frequencies of the levels cost about 3
    assert json.loads((folder / "summary.json").read_text())["test/bits_per_dim"] < 3
    assert len(list((folder / "figures").glob("*.png"))) == 7


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "shades", "pixel_art", "pixelcnn_logistic"])
def test_a_folder_of_colour_images_that_are_not_square(likelihood, cli, runs, tmp_path):
    (tmp_path / "mine").mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)).save(tmp_path / "mine" / f"{i:02}.png")
    dataset = ["dataset=folder", f"dataset.path={tmp_path / 'mine'}", "dataset.size=[9,12]", f"likelihood={likelihood}"]
    small = ["architecture.encoder.channels=[4,6]", "latent_dim=2", "hidden_size=8", "logger=csv"]
    assert cli(*dataset, *small, defaults=SHORT)[0] == 0
    (folder,) = runs()
    assert all(math.isfinite(value) for value in json.loads((folder / "summary.json").read_text()).values())
    (folder / "summary.json").unlink()
    assert cli(f"resume={folder}", defaults=())[0] == 0
    pictures = {path.stem: np.asarray(Image.open(path)) for path in (folder / "figures").glob("*.png")}
    assert set(pictures) >= {"samples", "reconstructions", "mixture_samples", "fusions", "manifold"}
    assert pictures["samples"].std(-1).max() > 5  # in colour
