"""python -m vae.generate: the files it writes and its error messages."""

import io
from pathlib import Path

import pytest
import torch
from conftest import BARS
from fakes import PRIORS
from hydra import compose
from omegaconf import OmegaConf
from PIL import Image

from vae.config.command_line import initialize_conf
from vae.generate import __main__ as generate
from vae.generate import pictures
from vae.training.build import build


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """make(name, *overrides) writes the folder of a finished run with the initial weights of its model."""
    monkeypatch.chdir(tmp_path)

    def make(name, *overrides):
        with initialize_conf():
            cfg = compose("config", overrides=[*BARS, "logger=none", *overrides])
        folder = Path("outputs") / name
        (folder / ".hydra").mkdir(parents=True)
        (folder / "checkpoints").mkdir()
        OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
        (folder / ".hydra" / "overrides.yaml").write_text("[]")
        (folder / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {}}}")
        (folder / "summary.json").write_text('{"test/elbo": -1.0}')
        torch.manual_seed(0)
        shape = (3, 6, 5) if "Named" in str(overrides) else (1, 8, 8)
        torch.save({"state_dict": build(cfg, shape).state_dict()}, folder / "checkpoints" / "best.ckpt")
        return folder

    return make


@pytest.fixture
def cli(module_cli):
    return module_cli(generate)


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder / "generated").iterdir()}


ALL_FILES = {
    *("samples.png", "reconstructions.png", "interpolation.png", "interpolation.gif", "traversal.png"),
    *("manifold.png", "nearest.png", "walk.gif", "fused_random.png"),
}
COLOUR = ["dataset._target_=fakes.Named", "dataset.val_size=8", "dataset.binarize=none"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
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
def test_default_makes_all_that_applies_and_the_seed_reproduces_it(overrides, make_run, cli):
    folder = make_run("run", *overrides)
    code, out, err = cli(f"run={folder}", "seed=3", "n=5")
    assert code == 0, err
    expected = ALL_FILES if "latent_dim=2" in overrides else ALL_FILES - {"manifold.png"}
    assert {Path(line).name for line in out.split()} == expected
    assert all(Path(line).is_file() for line in out.split())
    assert ("skipped what=manifold: expected a run with latent_dim=2" in err) == (expected != ALL_FILES)
    first = contents(folder)
    assert set(first) == expected
    for content in first.values():
        Image.open(io.BytesIO(content)).load()
    subset = "walk.gif", "nearest.png", "traversal.png"
    assert cli(f"run={folder}", "seed=3", "n=5", "what=[walk,nearest,traversal]")[0] == 0
    again = contents(folder)
    assert all(first[name] == again[name] for name in subset)
    assert cli(f"run={folder}", "seed=4", "n=5", "what=[walk,nearest]")[0] == 0
    other = contents(folder)
    assert first["nearest.png"] != other["nearest.png"]
    assert first["reconstructions.png"] == other["reconstructions.png"]  # files that were not requested stay


def test_default_run_is_the_newest_finished_run(make_run, cli):
    code, out, err = cli("what=samples")
    assert (code, out, err) == (2, "", "run: expected the folder of a finished run; there is none in outputs/\n")
    for name in ("b/one", "a/two"):
        make_run(name)
    Path("outputs", "z").mkdir()
    Path("outputs", "z", "summary.json").write_text("{}")  # a run without weights
    code, out, _ = cli("what=samples")
    assert (code, out) == (0, "outputs/a/two/generated/samples.png\n")
    (Path("outputs") / "a" / "two" / "summary.json").unlink()
    assert cli("what=samples")[1] == "outputs/b/one/generated/samples.png\n"


def test_keys_imply_what(make_run, cli):
    make_run("run", *COLOUR)
    assert cli("fuse=[pikachu,charizard]")[1] == "outputs/run/generated/fused.png\n"
    assert cli("fuse=random", "n=2")[1] == "outputs/run/generated/fused_random.png\n"
    assert cli("arithmetic=[mewtwo,mew,3]")[1] == "outputs/run/generated/arithmetic.png\n"
    assert cli("images=[ditto]")[1] == "outputs/run/generated/reconstructions.png\n"
    assert cli("images=[ditto,0]")[1].count("\n") == 3
    assert cli("images=[ditto,0,mew]")[1] == "outputs/run/generated/reconstructions.png\n"
    both = cli("images=[ditto]", "fuse=[mew,ditto]")[1]
    assert both == "outputs/run/generated/fused.png\noutputs/run/generated/reconstructions.png\n"
    assert cli("source=mixture", "what=samples", "n=3")[1] == "outputs/run/generated/mixture_samples.png\n"


USER_ERRORS = {
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
    "source=mixtures": ["source=mixtures", "'prior' or 'mixture'", "did you mean mixture?"],
    "sorce=prior": ["sorce: no such key", "did you mean source?"],
    "from=mixture": ["from: no such key; did you mean source?"],
    "interpolation=sphere": ["interpolation=sphere", "'linear' or 'spherical'"],
    "way=linear": ["way: no such key; did you mean interpolation?"],
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
    "dimensions=[4]": ["dimensions=4", "expected 1 to 3; the most informative are "],
    "run=nowhere": ["run=nowhere", "finished run", "summary.json"],
    "samples": ["samples", "key=value"],
}


@pytest.mark.parametrize("argument", USER_ERRORS)
def test_user_error_is_one_line_and_writes_nothing(argument, make_run, cli):
    folder = make_run("run", *COLOUR)
    Path("bad.png").write_text("no picture")
    code, out, err = cli(*argument.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    for words in USER_ERRORS[argument]:
        assert words in err
    assert not (folder / "generated").exists()


EXAMPLES = {
    **{"n": "n=3", "temperature": "temperature=0.5", "source": "source=mixture"},
    **{"images": "images=[0]", "fuse": "fuse=[0,1]", "arithmetic": "arithmetic=[0,1,2]"},
    **{"dimensions": "dimensions=[1]", "interpolation": "interpolation=linear", "label": "label=8"},
    "candidates": "candidates=2",
}


@pytest.mark.parametrize("name", pictures.GENERATORS)
def test_unused_key_is_an_error_and_help_lists_the_used_ones(name, make_run, cli):
    folder = make_run("run", *COLOUR)
    line = cli("--help")[1].partition(f"\n  {name} ")[2].partition("\n")[0]
    *_, defaults = line.rsplit("  ", 1)
    documented = {key for key in EXAMPLES if f"{key}=" in line or key in defaults.split(", ")}
    assert documented == {*generate.ACCEPTED_KEYS[name]}
    for key in EXAMPLES.keys() - documented:
        code, out, err = cli(f"what={name}", EXAMPLES[key])
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"{key}=")
        assert f"not with {name}" in err
    assert not (folder / "generated").exists()


def test_more_images_than_available_is_one_line(make_run, cli):
    make_run("run", *COLOUR)
    code, _, err = cli("n=30", "fuse=random")
    assert (code, err) == (2, "n=30: expected 16 or fewer; each uses 2 of 32 train images\n")
    code, out, err = cli("n=30")
    assert code == 0
    assert "samples.png" in out
    assert "skipped fuse: n=30: expected 16 or fewer; each uses 2 of 32 train images\n" in err
    assert "skipped arithmetic: expected three" in err


def test_unwritable_folder_is_one_line(make_run, cli):
    folder = make_run("run")
    (folder / "generated").write_text("in the way")
    code, out, err = cli("what=samples")
    assert (code, out, err) == (2, "", f"{folder}/generated: expected a folder or a new path, but this is a file\n")


DAMAGED = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:900]),
    "text": lambda path: path.write_text("hello"),
    "a list": lambda path: torch.save([1, 2], path),
    "without weights": lambda path: torch.save({"epoch": 1}, path),
    "of another model": lambda path: torch.save({"state_dict": {"weight": torch.zeros(2)}}, path),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_checkpoint_is_one_line(damage, make_run, cli):
    path = make_run("run") / "checkpoints" / "best.ckpt"
    DAMAGED[damage](path)
    code, out, err = cli("what=samples")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"run=outputs/run: {path} is damaged")


def test_config_without_a_key_is_one_line_that_names_the_run(make_run, cli):
    path = make_run("run") / ".hydra" / "config.yaml"
    path.write_text("".join(line for line in path.open() if not line.startswith("latent_dim:")))
    code, out, err = cli("what=samples")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("run=outputs/run: its config.yaml is damaged")
    assert "latent_dim" in err


def test_ctrl_c_is_one_line_and_exit_code_130(make_run, cli, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    folder = make_run("run")
    monkeypatch.setitem(pictures.GENERATORS, "walk", interrupt)
    assert cli("what=[samples,walk]") == (130, "", "stopped; nothing was written\n")
    assert not (folder / "generated").exists()


def test_help_lists_every_what(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for name in pictures.GENERATORS:
        assert f"\n  {name} " in out
