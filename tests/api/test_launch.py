"""vae.train and vae.sweep do what the command line does."""

import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BARS, SHORT
from hydra.core.override_parser.overrides_parser import OverridesParser
from run_outputs import ROOT, load_weights, same_weights, without_times

import vae
from vae.api.launch import to_override
from vae.errors import UserError
from vae.model.priors import StandardNormal

KEYS = [*BARS, *SHORT, "logger=csv"]


class Shifted(StandardNormal):
    """A standard normal with the mean moved."""


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images, labels):
        self.pairs = list(zip(images, labels, strict=True))

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


class InterruptOnce:
    """Schedule that sends SIGINT halfway through its first training."""

    def __init__(self, **_):
        pass

    def __call__(self, progress):
        if progress > 0.5 and not Path("interrupted").exists():
            Path("interrupted").touch()
            os.kill(os.getpid(), signal.SIGINT)
        return 1.0


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trainer__max_epochs", 5, ("trainer.max_epochs", 5)),
        ("latent_dim", 2, ("latent_dim", 2)),
        ("optimizer__lr", 1e-5, ("optimizer.lr", 1e-5)),
        ("patience", None, ("patience", None)),
        ("test__images", True, ("test.images", True)),
        ("hidden_size", [400, 200], ("hidden_size", [400, 200])),
        ("hidden_size", (400,), ("hidden_size", [400])),
        ("logger__wandb__tags", ["a b", "5", "c"], ("logger.wandb.tags", ["a b", "5", "c"])),
        ("dataset", "mnist", ("dataset", "mnist")),
        ("dataset__path", Path("my pictures/it's, [5]"), ("dataset.path", "my pictures/it's, [5]")),
        ("logger__wandb__notes", "null", ("logger.wandb.notes", "null")),
        ("prior", {"_target_": "a.B", "k": 2}, ("prior", {"_target_": "a.B", "k": 2})),
        ("prior", Shifted, ("prior._target_", f"{__name__}.Shifted")),
    ],
)
def test_keywords_become_overrides(key, value, expected):
    parsed = OverridesParser.create().parse_override(to_override(key, value))
    found = parsed.value()
    if isinstance(found, dict):
        found = {str(name): item for name, item in found.items()}
    assert (parsed.key_or_group, found) == expected
    assert type(found) is type(expected[1])


def test_folders_of_runs_are_not_quoted():
    assert to_override("resume", Path("outputs/latent_dim=2,seed=0")) == "resume=outputs/latent_dim=2,seed=0"
    assert to_override("sweep", "outputs/a b") == "sweep=outputs/a b"


def test_a_run_is_that_of_the_command_line(cli, runs, capsys):
    assert cli("latent_dim=2")[0] == 0
    (by_command,) = runs()
    before = logging.root.handlers[:], logging.root.level
    run = vae.train(*KEYS, latent_dim=2)
    assert (logging.root.handlers, logging.root.level) == before
    assert "epoch   2" in capsys.readouterr().out
    assert without_times(run.folder) == without_times(by_command)
    assert same_weights(load_weights(run.folder), load_weights(by_command))
    assert run.status == "finished"
    assert run.encode(0).shape == (1, 2)


def test_an_error_is_the_line_of_the_command_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for keys, message in [
        ({"latent_dim": -1}, "latent_dim=-1: expected a whole number, 1 or more"),
        ({"latnt_dim": 1}, "latnt_dim: no such key; did you mean latent_dim?"),
        ({"prior": "flwo"}, "prior=flwo: expected one of"),
        ({"resume": "nowhere"}, "resume=nowhere: expected"),
        ({"search": "mnist"}, "search=mnist: expected one run; vae.sweep trains several"),
        ({"images": "x.npy"}, "images=x.npy: expected an array; for a file: dataset=array dataset.path=x.npy"),
        ({"images": [[1], [2, 3]]}, "images: expected an array, a tensor or a torch Dataset"),
        ({"labels": [1]}, "labels: expected only with images"),
    ]:
        with pytest.raises(UserError) as error:
            vae.train(*([] if "resume" in keys else KEYS), **keys)
        assert message in str(error.value)
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "outputs").exists()


def test_threads_train_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(lambda n: vae.train(*KEYS, latent_dim=n, trainer__max_epochs=1), [1, 2]))
    assert [run.encode(0).shape for run in runs] == [(1, 1), (1, 2)]
    alone = vae.train(*KEYS, latent_dim=2, trainer__max_epochs=1)
    assert same_weights(load_weights(runs[1].folder), load_weights(alone.folder))


@pytest.mark.parametrize("kind", ["array", "dataset"])
def test_images_of_ones_own(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 5), np.uint8)
    labels = np.arange(60) % 3
    given = {"images": images, "labels": labels} if kind == "array" else {"images": Pairs(images, labels)}
    run = vae.train("data_dir=mine", **given, latent_dim=2, hidden_size=8, trainer__max_epochs=1, logger="csv")
    found = np.concatenate([run.images(split).array for split in ("train", "val", "test")])
    assert sorted(map(bytes, (found * 255).round().astype(np.uint8))) == sorted(map(bytes, images))
    by_image = dict(zip(map(bytes, images), labels, strict=True))
    test_images = map(bytes, (run.images("test").array * 255).round().astype(np.uint8))
    assert [by_image[image] for image in test_images] == list(run.labels("test"))
    assert {path.parent for path in (tmp_path / "mine").rglob("*.npy")} == {tmp_path / "mine" / "array"}
    np.testing.assert_allclose(vae.load(run.folder).encode(images), run.encode(images))


def test_a_class_replaces_that_of_a_group(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = vae.train(*KEYS, prior=Shifted, trainer__max_epochs=1)
    assert type(run.vae.prior) is Shifted


@pytest.mark.slow
def test_an_interrupted_training_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = [*KEYS, "optimizer/schedule=constant", f"optimizer.schedule._target_={__name__}.InterruptOnce"]
    with pytest.raises(KeyboardInterrupt):
        vae.train(*keys)
    (checkpoint,) = Path("outputs").rglob("last.ckpt")
    resumed = vae.train(resume=checkpoint.parents[1])
    whole = vae.train(*keys)
    assert same_weights(load_weights(resumed.folder), load_weights(whole.folder))


@pytest.mark.slow
def test_a_sweep_returns_all_runs_best_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = vae.sweep(*KEYS, "latent_dim=1,0,2", trainer__max_epochs=1)
    assert [run.status for run in runs] == ["finished", "finished", "failed"]
    assert runs[2].failure == "latent_dim=0: expected a whole number, 1 or more"
    assert runs[0].summary["test/log_px"] >= runs[1].summary["test/log_px"]
    assert {run.folder.parent for run in runs} == {runs[0].folder.parent}
    assert (runs[0].folder.parent / "sweep.json").exists()
    again = vae.sweep(sweep=runs[0].folder.parent)  # finished runs are not trained again
    assert [run.summary for run in again] == [run.summary for run in runs]
    with pytest.raises(UserError, match=r"it has no summary.json"):
        runs[2].sample()


def test_import_loads_nothing_heavy_and_lists_the_interface():
    heavy = {"torch", "numpy", "hydra", "pydantic", "pandas", "matplotlib"}
    script = f"import sys, vae; print(sorted({heavy} & set(sys.modules)), set(vae.__all__) <= set(dir(vae)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"
    script = "import sys, vae; print(vae.load, vae.train, vae.load_runs, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert not hasattr(vae, "nonsense")
