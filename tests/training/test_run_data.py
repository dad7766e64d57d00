"""data.json: a run keeps to its images, and what needs no images works without them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from run_outputs import read_metrics
from toy_dataset import Bars

from datamodules.base import Images
from vae.errors import UserError
from vae.evaluate import __main__ as evaluate
from vae.export import __main__ as export
from vae.generate import __main__ as generate
from vae.latent import __main__ as latent
from vae.training import experiment, run_data


def load(**changes):
    data = Bars(**{"data_dir": "data", "batch_size": 20, "seed": 0, "val_size": 60, "split_seed": 0} | changes)
    data.prepare_data()
    data.setup()
    return data


def test_a_fingerprint_belongs_to_the_pixels_and_their_order(monkeypatch):
    pixels = torch.arange(60, dtype=torch.uint8).view(10, 1, 2, 3)
    first = run_data.fingerprint(Images(pixels))
    assert run_data.fingerprint(Images(pixels.clone(), torch.arange(10))) == first
    others = [pixels.flip(0), pixels[:9], pixels.view(10, 1, 3, 2), pixels.float(), pixels + 1]
    assert len({first, *(run_data.fingerprint(Images(other)) for other in others)}) == 6
    monkeypatch.setattr(run_data, "MAX_BYTES", 18)  # three images of 6 bytes: 0, 3 and 6
    sampled = run_data.fingerprint(Images(pixels))
    changed = pixels.clone()
    changed[1] = 0
    assert run_data.fingerprint(Images(changed)) == sampled
    changed[3] = 0
    assert run_data.fingerprint(Images(changed)) != sampled


def test_other_images_or_another_split_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_data.write_run_data(load(binarize="dynamic"), tmp_path)
    run_data.check_run_data(load(binarize="dynamic", seed=1, batch_size=7), tmp_path)
    for changes in ({"split_seed": 1}, {"val_size": 59}, {"binarize": "none"}):
        with pytest.raises(UserError, match=r"^dataset: expected the [0-9]+ \w+ images of the run in .*") as error:
            run_data.check_run_data(load(**{"binarize": "dynamic"} | changes), tmp_path)
        assert "\n" not in str(error.value)
    for content in ("[]", '{"shape": [1, -8, 8], "pictures": true, "splits": {}}'):
        (tmp_path / "data.json").write_text(content)
        with pytest.raises(UserError, match=r"data.json: damaged"):
            run_data.check_run_data(load(binarize="dynamic"), tmp_path)
    (tmp_path / "data.json").unlink()  # a run of version 0.1
    run_data.check_run_data(load(binarize="dynamic"), tmp_path)


@pytest.mark.slow
def test_a_folder_of_images_that_changes_or_moves(cli, runs, module_cli, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(60):
        file = tmp_path / "mine" / f"{i % 12}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(file)
    dataset = ["dataset=folder", "dataset.path=mine", "dataset.size=8", "dataset.colour=grey", "architecture=mlp"]
    small = ["hidden_size=8", "latent_dim=2", "trainer.max_epochs=1", "test.K=2", "logger=csv"]
    assert cli(*dataset, *small, defaults=())[0] == 0
    (folder,) = runs()
    here = f"run={folder}"
    assert module_cli(evaluate)(here, "K=3")[0] == 0
    assert module_cli(generate)(here, "arithmetic=[11,2,10]")[0] == 0
    assert module_cli(latent)(here)[0] == 0
    with np.load(folder / "latent" / "codes.npz") as codes:
        assert codes["classes"].tolist() == [str(i) for i in range(12)]
    summary = (folder / "summary.json").read_text()

    shutil.copytree("mine", "more")
    Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save("more/0/new.png")
    Path("mine").rename("moved")
    experiment.DATASET_CACHE.clear()  # as in a new process
    for command in (evaluate, latent):
        code, _, err = module_cli(command)(here)
        assert (code, err.count("\n")) == (2, 1)
        assert "dataset.path=mine: expected a folder of images" in err
        code, _, err = module_cli(command)(here, "dataset.path=more")
        assert (code, err.count("\n")) == (2, 1)
        assert "dataset.path=more: expected the 48 train images of the run" in err
        assert module_cli(command)(here, "dataset.path=moved")[0] == 0
    experiment.DATASET_CACHE.clear()
    assert module_cli(generate)(here, "what=[samples,walk]", "n=4")[0] == 0
    code, _, err = module_cli(generate)(here)
    assert (code, "skipped reconstructions: dataset.path=mine" in err) == (0, True)
    assert module_cli(export)(here)[0] == 0
    code, _, err = cli(f"resume={folder}", defaults=())
    assert (code, err.count("\n")) == (2, 1)
    assert "dataset.path=mine: expected a folder of images" in err
    assert json.loads(summary).items() <= json.loads((folder / "summary.json").read_text()).items()
    longer = [f"resume={folder}", "trainer.max_epochs=2"]
    code, _, err = cli(*longer, "dataset.path=more", defaults=())
    assert (code, err.count("\n")) == (2, 1)
    assert "dataset.path=more: expected the 48 train images of the run" in err
    assert cli(*longer, "dataset.path=moved", defaults=())[0] == 0
    assert {row["epoch"] for row in read_metrics(folder) if "epoch" in row} >= {1, 2}
    assert OmegaConf.load(folder / ".hydra" / "config.yaml").dataset.path == "moved"


def test_a_path_is_refused_by_a_run_that_has_none(cli, runs, module_cli):
    cli()
    (folder,) = runs()
    for code, _, err in (
        module_cli(evaluate)(f"run={folder}", "dataset.path=mine"),
        cli(f"resume={folder}", "dataset.path=mine", defaults=()),
    ):
        assert (code, err.count("\n")) == (2, 1)
        assert "dataset.path" in err
