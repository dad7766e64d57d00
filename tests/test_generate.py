"""python -m vae.generate: what it writes, and what it refuses."""

import io
from pathlib import Path

import pytest
import torch
from conftest import BARS
from handmade import PRIORS
from hydra import compose
from omegaconf import OmegaConf
from PIL import Image

from vae.command_line import composing
from vae.experiment import build
from vae.generate import __main__ as generate
from vae.generate import creations


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """run_of(name, *overrides): the folder of a run that finished with the weights it began with."""
    monkeypatch.chdir(tmp_path)

    def make(name, *overrides):
        with composing():
            cfg = compose("config", overrides=[*BARS, "logger=none", *overrides])
        folder = Path("outputs") / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / "checkpoints").mkdir()
        OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
        (folder / ".hydra" / "overrides.yaml").write_text("[]")
        (folder / "summary.json").write_text('{"test/elbo": -1.0}')
        torch.manual_seed(0)
        shape = (3, 6, 5) if "Named" in str(overrides) else (1, 8, 8)
        torch.save({"state_dict": build(cfg, shape).state_dict()}, folder / "checkpoints" / "best.ckpt")
        return folder

    return make


@pytest.fixture
def cli(command_of):
    return command_of(generate)


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "generated").iterdir()}


EVERY = {
    *("samples.png", "reconstructions.png", "interpolation.png", "interpolation.gif", "traversal.png"),
    *("manifold.png", "nearest.png", "walk.gif", "fused_random.png"),
}
COLOUR = ["dataset._target_=handmade.Named", "dataset.val_size=8", "dataset.binarize=none"]


@pytest.mark.parametrize(
    "about",
    [
        *([f"prior={prior}", "latent_dim=2"] for prior in PRIORS),
        ["posterior=iaf"],
        ["objective=autoencoder"],
        [*COLOUR, "likelihood=shades", "architecture=conv"],
        [*COLOUR, "likelihood=discretized_logistic"],
        [*COLOUR, "likelihood=pixel_art"],
    ],
    ids=" ".join,
)
def test_everything_that_fits_is_made_and_the_same_seed_makes_it_again(about, run_of, cli):
    folder = run_of("run", *about)
    code, out, err = cli(f"run={folder}", "seed=3", "n=5")
    assert code == 0, err
    fit = EVERY if "latent_dim=2" in about else EVERY - {"manifold.png"}
    assert {Path(line).name for line in out.split()} == fit
    assert all(Path(line).is_file() for line in out.split())
    assert ("left out what=manifold: expected a run with latent_dim=2" in err) == (fit != EVERY)
    first = contents(folder)
    assert set(first) == fit
    for content in first.values():
        Image.open(io.BytesIO(content)).load()
    alone = "walk.gif", "nearest.png", "traversal.png"
    assert cli(f"run={folder}", "seed=3", "n=5", "what=[walk,nearest,traversal]")[0] == 0
    again = contents(folder)
    assert all(first[name] == again[name] for name in alone)
    assert cli(f"run={folder}", "seed=4", "n=5", "what=[walk,nearest]")[0] == 0
    other = contents(folder)
    assert first["nearest.png"] != other["nearest.png"]
    assert first["reconstructions.png"] == other["reconstructions.png"]  # what nobody asked for is left alone


def test_by_default_it_is_the_run_that_finished_last(run_of, cli):
    code, out, err = cli("what=samples")
    assert (code, out, err) == (2, "", "run: expected the folder of a finished run; there is none in outputs/\n")
    for name in ("b/one", "a/two"):
        run_of(name)
    Path("outputs", "z").mkdir()
    Path("outputs", "z", "summary.json").write_text("{}")  # a run whose weights were thrown away
    code, out, _ = cli("what=samples")
    assert (code, out) == (0, "outputs/a/two/generated/samples.png\n")
    (Path("outputs") / "a" / "two" / "summary.json").unlink()
    assert cli("what=samples")[1] == "outputs/b/one/generated/samples.png\n"


def test_what_is_given_says_what_is_wanted(run_of, cli):
    run_of("run", *COLOUR)
    assert cli("fuse=[pikachu,charizard]")[1] == "outputs/run/generated/fused.png\n"
    assert cli("fuse=random", "n=2")[1] == "outputs/run/generated/fused_random.png\n"
    assert cli("arithmetic=[mewtwo,mew,3]")[1] == "outputs/run/generated/arithmetic.png\n"
    assert cli("images=[ditto]")[1] == "outputs/run/generated/reconstructions.png\n"
    assert cli("images=[ditto,0]")[1].count("\n") == 3
    assert cli("images=[ditto,0,mew]")[1] == "outputs/run/generated/reconstructions.png\n"
    both = cli("images=[ditto]", "fuse=[mew,ditto]")[1]
    assert both == "outputs/run/generated/fused.png\noutputs/run/generated/reconstructions.png\n"
    assert cli("from=mixture", "what=samples", "n=3")[1] == "outputs/run/generated/mixture_samples.png\n"


REFUSED = {
    "what=sample": ["what=sample", "did you mean samples?"],
    "what=[samples,wlak]": ["what=wlak", "did you mean walk?"],
    "what=[samples,manifold]": ["what=manifold", "latent_dim=2", "3"],
    "what=arithmetic": ["arithmetic", "three"],
    "what=[]": ["what=[]", "expected a name"],
    "what=[samples": ["what=[samples", "[a,b]"],
    "what=samples,walk": ["what=samples,walk", "a list [a,b]", "did you mean samples?"],
    "what=3": ["what", "a name"],
    "n=0": ["n=0", "1 to 100"],
    "n=101": ["n=101", "1 to 100"],
    "n=many": ["n=many", "1 to 100"],
    "temperature=-1": ["temperature=-1", "0 to 10"],
    "temperature=.nan": ["temperature=nan", "0 to 10"],
    "temperature=warm": ["temperature=warm", "0 to 10"],
    "from=mixtures": ["from=mixtures", "'prior' or 'mixture'"],
    "source=prior": ["source: no such key"],
    "form=prior": ["form: no such key", "did you mean from?"],
    "way=sphere": ["way=sphere", "'linear' or 'spherical'"],
    "seed=-1": ["seed=-1", "0 or more"],
    "seed=4294967296": ["seed=4294967296", "below 2^32"],
    "images=[]": ["images=[]", "a list"],
    "images=[0,1,2] what=interpolation": ["images", "two", "3"],
    "images=[0,1] what=traversal": ["images", "one", "2"],
    "n=37 what=walk": ["n=37", "36"],
    "images=[none.png]": ["images=none.png", "0 to 7", "a file"],
    "images=[bad.png]": ["images=bad.png", "expected a picture"],
    "images=bad.png": ["images=bad.png", "a list"],
    "images=[8]": ["images=8", "0 to 7"],
    "images=[-1]": ["images=-1", "0 to 7"],
    "fuse=[pikachuu,mew]": ["fuse=pikachuu", "did you mean pikachu?"],
    "fuse=[pikachu]": ["fuse=['pikachu']", "two names", "random"],
    "fuse=pikachu,mew": ["fuse=pikachu,mew", "two names", "random"],
    "fuse=[1.5,2]": ["fuse=[1.5, 2]", "two names"],
    "arithmetic=[1,2]": ["arithmetic=[1, 2]", "three"],
    "arithmetic=[1,2,mewtow]": ["arithmetic=mewtow", "did you mean mewtwo"],
    "dimensions=[0]": ["dimensions", "1 or more"],
    "dimensions=[]": ["dimensions=[]", "a list"],
    "dimensions=[4]": ["dimensions=4", "expected 1 to 3; those that carry most are "],
    "run=nowhere": ["run=nowhere", "finished run", "summary.json"],
    "samples": ["samples", "key=value"],
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_cannot_be_is_one_line_and_nothing_is_written(argument, run_of, cli):
    folder = run_of("run", *COLOUR)
    Path("bad.png").write_text("no picture")
    code, out, err = cli(*argument.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    for words in REFUSED[argument]:
        assert words in err
    assert not (folder / "generated").exists()


ASKS = {
    **{"n": "n=3", "temperature": "temperature=0.5", "from": "from=mixture", "way": "way=linear"},
    **{"images": "images=[0]", "fuse": "fuse=[0,1]", "arithmetic": "arithmetic=[0,1,2]"},
    **{"dimensions": "dimensions=[1]"},
}


@pytest.mark.parametrize("name", creations.WHAT)
def test_what_takes_nothing_of_a_key_refuses_it_and_the_help_names_all_that_it_takes(name, run_of, cli):
    folder = run_of("run", *COLOUR)
    line = cli("--help")[1].partition(f"\n  {name} ")[2].partition("\n")[0]
    *_, defaults = line.rsplit("  ", 1)
    taken = {key for key in ASKS if f"{key}=" in line or key in defaults.split(", ")}
    assert taken == {*generate.TAKES[name]}
    for key in ASKS.keys() - taken:
        code, out, err = cli(f"what={name}", ASKS[key])
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"{key}=")
        assert f"not for {name}" in err
    assert not (folder / "generated").exists()


def test_more_images_than_there_are_is_one_line(run_of, cli):
    run_of("run", *COLOUR)
    code, _, err = cli("n=30", "fuse=random")
    assert (code, err) == (2, "n=30: expected 16 at most, 2 of 32 train images for each\n")
    code, out, err = cli("n=30")
    assert code == 0
    assert "samples.png" in out
    assert "left out fuse: n=30: expected 16 at most, 2 of 32 train images for each\n" in err
    assert "left out arithmetic: expected three" in err


def test_a_folder_that_cannot_be_written_is_one_line(run_of, cli):
    folder = run_of("run")
    (folder / "generated").write_text("in the way")
    code, out, err = cli("what=samples")
    assert (code, out, err) == (2, "", f"{folder}/generated: expected a folder, or nothing yet; a file is in the way\n")


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:900]),
    "no checkpoint": lambda path: path.write_text("hello"),
    "a list": lambda path: torch.save([1, 2], path),
    "without weights": lambda path: torch.save({"epoch": 1}, path),
    "of another model": lambda path: torch.save({"state_dict": {"weight": torch.zeros(2)}}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line(damage, run_of, cli):
    path = run_of("run") / "checkpoints" / "best.ckpt"
    DAMAGES[damage](path)
    code, out, err = cli("what=samples")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"run=outputs/run: {path} is damaged")


def test_a_config_that_lacks_a_key_is_one_line_that_names_the_run(run_of, cli):
    path = run_of("run") / ".hydra" / "config.yaml"
    path.write_text("".join(line for line in path.open() if not line.startswith("latent_dim:")))
    code, out, err = cli("what=samples")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("run=outputs/run: its config.yaml is damaged")
    assert "latent_dim" in err


def test_ctrl_c_is_one_line_and_130(run_of, cli, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    folder = run_of("run")
    monkeypatch.setitem(creations.WHAT, "walk", stopped)
    assert cli("what=[samples,walk]") == (130, "", "stopped; nothing was written\n")
    assert not (folder / "generated").exists()


def test_the_help_names_all_there_is(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for name in creations.WHAT:
        assert f"\n  {name} " in out
