"""The pictures kept during a training, and the film that vae.generate makes of them."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from run_outputs import load_weights, same_weights

from vae.api.run import load
from vae.generate import __main__ as generate
from vae.training.callbacks.film import Film

EPOCHS = ["trainer.max_epochs=5", "test.K=2"]
SIDE, GAP = 8, 2


def tiles(frame):
    """The pictures of a frame of four rows of eight, (32, 8, 8), as fractions."""
    pixels = np.asarray(frame.convert("L")) / 255
    rows = [slice(GAP + i * (SIDE + GAP), (i + 1) * (SIDE + GAP)) for i in range(8)]
    return np.stack([pixels[row, column] for row in rows[:4] for column in rows])


@pytest.fixture
def run(cli, runs):
    assert cli(*EPOCHS)[0] == 0
    return runs()[-1]


def test_the_last_frame_shows_the_model_after_the_last_epoch(run):
    assert [path.name for path in sorted((run / "film").iterdir())] == [f"{i:06}.png" for i in range(1, 6)]
    frame = tiles(Image.open(run / "film" / "000005.png"))
    trained = load(run)
    vae = trained.vae
    vae.load_state_dict({name.removeprefix("vae."): weight for name, weight in load_weights(run).items()}, strict=False)
    x = trained.data.x("val", slice(8))
    torch.manual_seed(0)
    with torch.inference_mode():
        samples, means = vae.decode(torch.randn(16, 3)), vae.decode(vae.q_z(x).mean)
    np.testing.assert_allclose(frame, torch.cat([samples, x, means])[:, 0], atol=1 / 255)


def test_a_film_does_not_change_the_training(run, cli, runs, monkeypatch):
    monkeypatch.setattr(Film, "on_validation_end", lambda *_: None)
    assert cli(*EPOCHS)[0] == 0
    assert not (runs()[-1] / "film").exists()
    assert same_weights(load_weights(run), load_weights(runs()[-1]))


def test_long_trainings_keep_about_thirty_frames(cli, runs):
    assert cli("trainer.max_epochs=61", "trainer.limit_train_batches=1", "test.K=2")[0] == 0
    kept = {int(path.stem) for path in (runs()[-1] / "film").iterdir()}
    assert kept == {1, 2, 4, 8, 16, 32, *range(3, 62, 3)}


def test_the_film_has_every_frame_and_stays_on_the_last(run, module_cli):
    code, out, err = module_cli(generate)(f"run={run}", "what=training")
    assert (code, err) == (0, "")
    assert [Path(line).name for line in out.split()] == ["training.gif", "training.mp4"]
    film = Image.open(io.BytesIO((run / "generated" / "training.gif").read_bytes()))
    last = Image.open(run / "film" / "000005.png").convert("RGB")
    zoom = round(560 / last.width)
    assert film.size == (zoom * last.width, zoom * last.height)
    durations = []
    for i in range(film.n_frames):
        film.seek(i)
        durations.append(film.info["duration"])
    assert sum(durations) == 150 * (5 + 12)
    assert durations[-1] >= 150 * 12
    shown = np.asarray(film.convert("RGB").resize(last.size, Image.Resampling.NEAREST)).astype(int)
    assert np.abs(shown - np.asarray(last)).mean() < 8  # 256 colours


def test_the_mp4_has_the_frames_of_the_gif(run, module_cli, monkeypatch):
    module_cli(generate)(f"run={run}", "what=training")
    file = run / "generated" / "training.mp4"
    with av.open(file) as film:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in film.decode(video=0)]
        assert film.duration == pytest.approx(1e6 * 0.15 * (5 + 12), rel=0.01)  # microseconds
    kept = [Image.open(path).convert("RGB") for path in sorted((run / "film").glob("*.png"))]
    zoom = round(560 / kept[0].width)
    for frame, picture in zip(frames, kept + 12 * kept[-1:], strict=True):
        large = np.asarray(picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.NEAREST))
        assert list(frame.shape[:2]) == [n + n % 2 for n in large.shape[:2]]
        assert np.abs(frame[: large.shape[0], : large.shape[1]] - large).mean() < 6
    file.unlink()
    monkeypatch.setattr("vae.generate.film.find_spec", lambda _: None)
    assert "mp4" not in module_cli(generate)(f"run={run}", "what=training")[1]
    assert not file.exists()


def test_a_run_without_frames_or_with_a_damaged_one_is_a_one_line_error(run, module_cli):
    frame = run / "film" / "000003.png"
    frame.write_bytes(frame.read_bytes()[:60])
    code, _, err = module_cli(generate)(f"run={run}", "what=training")
    assert (code, err.count("\n")) == (2, 1)
    assert "000003.png is damaged" in err
    frame.write_bytes(b"%!PS")
    code, _, err = module_cli(generate)(f"run={run}", "what=training")
    assert code == 2
    assert "not a PNG" in err
    for path in (run / "film").iterdir():
        path.unlink()
    code, _, err = module_cli(generate)(f"run={run}", "what=training")
    assert (code, err.count("\n")) == (2, 1)
    assert "has no pictures of its training" in err


def test_a_tall_frame_of_a_strange_run_is_not_enlarged(run, module_cli):
    for path in (run / "film").iterdir():
        Image.new("L", (1, 20_000)).save(path)
    code, _, err = module_cli(generate)(f"run={run}", "what=training")
    assert (code, err) == (0, "")
    assert Image.open(run / "generated" / "training.gif").size == (1, 20_000)
