"""python -m vae.generate: what it makes, beside the same computed by hand; and what it refuses."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from bars import Bars
from conftest import BARS
from hydra import compose
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.distributions import Normal

from datamodules.base import ImageDataModule, Images
from datamodules.folder import decode
from vae.command_line import composing
from vae.config import UserError
from vae.draws import draw, draw_near
from vae.experiment import build
from vae.generate import __main__ as generate
from vae.generate import chosen, creations, sheets, ways
from vae.generate.studio import Studio
from vae.likelihoods import Bernoulli
from vae.model import VAE
from vae.posteriors import DiagonalNormal
from vae.priors import Flow, Mixture, StandardNormal, TwoLayers, VampPrior

SHAPE = (1, 1, 4)
PRIORS = ["standard_normal", "mixture", "vampprior", "flow", "two_layers"]
NAMES = ["pikachu", "charizard", "Mew", "mewtwo", "raichu", "ditto", "onix", "abra"]


class Named(ImageDataModule):
    """Colour, with names and no labels; the whole of it is binarised by nobody."""

    def load(self):
        pixels = torch.randint(256, (48, 3, 6, 5), generator=torch.manual_seed(0)).byte()
        names = [*NAMES, *(f"other-{i}" for i in range(40))]
        return self.hold_out(Images(pixels[8:], names=names[8:])) | {"test": Images(pixels[:8], names=names[:8])}


class Halves(nn.Module):
    """q(z|x) of 4 dimensions: 3 (2 x - 1) of the first two pixels, the second by half; the last two carry nothing."""

    def forward(self, x):
        mean = 3 * (2 * x.flatten(1)[:, :2] - 1) * torch.tensor([0.5, 1.0])
        return DiagonalNormal(torch.cat([mean, 0 * mean], 1), torch.tensor([-4.0, -4.0, 0, 0]).expand(len(x), 4))


class Pixels(nn.Module):
    """p(x|z) of 4 pixels, with the codes as logits."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z):
        return (z * self.scale).unflatten(-1, SHAPE)


class Four(ImageDataModule):
    """Images of 4 pixels, with labels."""

    def load(self):
        pixels = torch.randint(256, (40, *SHAPE), generator=torch.manual_seed(1)).byte()
        return self.hold_out(Images(pixels[10:], torch.arange(30) % 3)) | {"test": Images(pixels[:10])}


def ready(kind):
    data = kind("data", 10, 0, 10, 0, "none")
    data.setup()
    return data


@pytest.fixture
def studio(monkeypatch):
    """A Studio of the hand-made model, whose pictures are the rows and frames that they would be drawn of."""
    monkeypatch.setattr(creations, "sheet", lambda rows: rows)
    monkeypatch.setattr(creations, "png", lambda picture: picture)
    monkeypatch.setattr(creations, "moving", lambda frames, *_, **__: frames)
    monkeypatch.setattr(creations.figures, "grid", lambda x, columns: (x, columns))
    torch.manual_seed(0)
    vae = VAE(nn.Identity(), Halves(), Pixels(), Bernoulli(), StandardNormal(4, SHAPE))
    data = ready(Four)

    def make(**about):
        given = {"n": None, "temperature": 1.0, "source": "prior", "way": "linear", "seed": 0}
        given |= {"images": (), "fuse": (), "arithmetic": ()} | about
        return Studio(vae, data, **given)

    with torch.inference_mode():
        yield make


def code(x):
    """The means of `Halves`, written out."""
    x = x.flatten(1)
    zero = torch.zeros(len(x))
    return torch.stack([3 * x[:, 0] - 1.5, 6 * x[:, 1] - 3, zero, zero], 1)


def test_linear_goes_straight():
    a, b = torch.tensor([0.0, 2.0]), torch.tensor([4.0, 0.0])
    found = ways.linear(a, b, torch.tensor([0.0, 0.25, 1.0]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 2.0], [1.0, 1.5], [4.0, 0.0]]))


def test_spherical_keeps_the_norm_and_turns_evenly():
    torch.manual_seed(0)
    a, b = torch.nn.functional.normalize(torch.randn(2, 5, 7), dim=-1) * 3
    t = torch.linspace(0, 1, 5)
    found = ways.spherical(a, b, t)
    torch.testing.assert_close(found.norm(dim=-1), torch.full((5, 5), 3.0))
    torch.testing.assert_close(found[0], a)
    torch.testing.assert_close(found[-1], b)
    angles = torch.nn.functional.cosine_similarity(found[:-1], found[1:], dim=-1).acos()
    torch.testing.assert_close(angles, angles[:1].expand(4, 5), atol=1e-3, rtol=0)
    longer = ways.spherical(a, 2 * b, t).norm(dim=-1)
    torch.testing.assert_close(longer[2], torch.full((5,), 4.5))


@pytest.mark.parametrize("b", [[-2.0, 0.0], [4.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
def test_spherical_is_straight_where_there_is_no_arc(b):
    a, b, t = torch.tensor([1.0, 0.0]), torch.tensor(b), torch.linspace(0, 1, 5)
    torch.testing.assert_close(ways.spherical(a, b, t), ways.linear(a, b, t))


def test_a_loop_comes_through_every_code_and_closes():
    codes = torch.randn(3, 2, 5)
    found = ways.loop(codes, 40)
    assert found.shape == (120, 2, 5)
    torch.testing.assert_close(found[::40], codes)
    steps = (found - found.roll(1, 0)).norm(dim=-1)  # the last to the first too: nowhere a jump
    assert steps.max() < 0.05 * (codes - codes.roll(1, 0)).norm(dim=-1).sum()


def prior_of(name):
    torch.manual_seed(0)
    about = {"standard_normal": StandardNormal, "mixture": Mixture, "vampprior": VampPrior, "flow": Flow}
    given = {"mixture": (3,), "vampprior": (3, 0.5), "flow": (2, 8)}.get(name, ())
    prior = TwoLayers(4, SHAPE, 2, 8, "tanh") if name == "two_layers" else about[name](4, SHAPE, *given)
    for parameter in prior.parameters():
        if name != "vampprior":
            nn.init.normal_(parameter, std=0.7)
    return prior


def peaks(name, prior):
    """Where p(z) has its peaks, (n, D), each written out."""
    if name == "flow":
        z = torch.zeros(1, 4)
        for step in prior(Halves()).transforms:
            z = step(z)
        return z
    return {
        "standard_normal": lambda: torch.zeros(1, 4),
        "mixture": lambda: prior.means,
        "vampprior": lambda: code(prior.u.clamp(0, 1)),
        "two_layers": lambda: prior.down(torch.zeros(1, 2))[:, :4],
    }[name]()


@pytest.mark.parametrize("name", PRIORS)
@torch.inference_mode()
def test_temperature_0_is_a_peak_of_the_prior_and_1_the_prior(name):
    prior = prior_of(name)
    found = draw(prior(Halves()), 500, 0.0)
    known = peaks(name, prior)
    assert torch.cdist(found, known).min(1).values.max() < 1e-3
    assert torch.cdist(known, found).min(1).values.max() < 1e-3  # and each of the peaks is found
    ours, theirs = draw(prior(Halves()), 20_000, 1.0), prior(Halves()).sample((20_000,))
    far = theirs.std(0)
    torch.testing.assert_close(ours.mean(0) / far, theirs.mean(0) / far, atol=0.05, rtol=0)
    torch.testing.assert_close(
        ours.quantile(torch.tensor([0.1, 0.9]), 0) / far,
        theirs.quantile(torch.tensor([0.1, 0.9]), 0) / far,
        atol=0.08,
        rtol=0,
    )


@pytest.mark.parametrize("name", ["standard_normal", "mixture", "vampprior", "two_layers"])
@torch.inference_mode()
def test_temperature_is_the_spread_about_a_peak(name):
    prior = prior_of(name)
    if name == "mixture":
        prior.means.mul_(100)
    if name == "two_layers":
        prior.down[-1].weight.zero_()  # p(z1|z2) is the same for every z2
    p_z = prior(Halves())
    at = peaks(name, prior)

    def spread(temperature):
        z = draw(p_z, 8000, temperature)
        return (z - at[torch.cdist(z, at).argmin(1)]).std()

    if name != "vampprior":
        assert spread(2.0) / spread(1.0) == pytest.approx(2, rel=0.05)
    assert spread(0.1) / spread(0.05) == pytest.approx(2, rel=0.05)


def test_the_mixture_is_drawn_about_where_the_codes_are():
    torch.manual_seed(0)
    centres = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
    codes = (centres[:, None] + 0.3 * torch.randn(2, 25, 2)).flatten(0, 1)
    assert torch.cdist(draw_near(codes, 100, 0.0), centres).min(1).values.max() < 0.3
    spread = [torch.cdist(draw_near(codes, 500, t), centres).min(1).values.mean() for t in (1.0, 3.0)]
    assert 2 < spread[1] / spread[0] < 4
    found, others = (draw_near(codes, 9, seed=seed).sort(0).values for seed in (0, 1))
    assert not torch.equal(found, others)


def test_images_are_found_by_name_number_and_file(tmp_path):
    data = ready(Named)
    for split in ("train", "val", "test"):
        for row, name in enumerate(data.images[split].names):
            found = chosen.one(data, "fuse", name.upper())
            assert found.names == [name]
            torch.testing.assert_close(found.x[0], data.images[split].pixels[row] / 255)
    torch.testing.assert_close(chosen.one(data, "fuse", 3).x[0], data.images["test"].pixels[3] / 255)
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "mine.png")
    (x,), (name,) = chosen.one(data, "images", str(tmp_path / "mine.png"))
    expected = decode(tmp_path / "mine.png", (6, 5), "RGB").transpose(2, 0, 1)
    np.testing.assert_allclose(x, expected / 255, atol=1e-6)
    assert name == "mine"


def test_a_file_is_grey_and_binary_where_the_images_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = Bars("data", 20, 0, 60, 0, "threshold")
    data.prepare_data()
    data.setup()
    Image.fromarray(np.array([[[250, 200, 180]] * 8] * 4 + [[[20, 90, 60]] * 8] * 4, np.uint8)).save("mine.png")
    x = chosen.one(data, "images", "mine.png").x
    assert x.shape == (1, 1, 8, 8)
    assert x.flatten(1)[:, :24].eq(1).all()
    assert x.flatten(1)[:, -24:].eq(0).all()


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UserError, match=r"fuse=Pikachuu: expected the name .* 0 to 7, or a file; did you mean pikachu"):
        chosen.one(ready(Named), "fuse", "Pikachuu")
    with pytest.raises(UserError, match="did you mean mewtwo or Mew"):
        chosen.one(ready(Named), "fuse", "mewtw")
    with pytest.raises(UserError) as error:
        chosen.one(ready(Four), "fuse", "pikachu")
    assert "name" not in str(error.value)


def test_the_known_codes_are_the_same_whatever_was_drawn_before(studio, monkeypatch):
    made = studio(), studio(), studio(seed=1)
    monkeypatch.setattr(Studio, "codes", lambda _, x: code(x) + torch.randn(len(x), 4))  # as where means are estimated
    first = made[0].known
    torch.manual_seed(5)
    second, other = (one.known for one in made[1:])
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_samples_are_decoded_draws(studio):
    shown, columns = creations.samples(studio(n=12, temperature=0.0))["samples.png"]
    torch.testing.assert_close(shown, torch.full((12, *SHAPE), 0.5))
    assert columns in (3, 4)
    shown, columns = creations.samples(studio(temperature=2.0))["samples.png"]
    assert (shown.shape, columns) == ((100, *SHAPE), 10)
    assert shown.logit().std() == pytest.approx(2, rel=0.15)
    torch.manual_seed(0)
    shown, _ = creations.samples(studio(n=300, source="mixture"))["mixture_samples.png"]
    codes = code(ready(Four).x("train"))
    torch.testing.assert_close(shown.logit().flatten(1).mean(0), codes.mean(0), atol=0.3, rtol=0)
    assert shown.logit().flatten(1)[:, 2:].std() < 0.3  # where the prior has 1


def test_each_image_is_left_of_what_the_model_makes_of_it(studio):
    shown, columns = creations.reconstructions(studio(images=[4, 2, 9]))["reconstructions.png"]
    x = ready(Four).x("test")[[4, 2, 9]]
    torch.testing.assert_close(shown[::2], x)
    torch.testing.assert_close(shown[1::2].flatten(1), code(x).sigmoid())
    assert columns == 6
    assert len(creations.reconstructions(studio(n=7))["reconstructions.png"][0]) == 14


def test_the_middle_of_a_straight_way_is_the_mean_of_two_codes(studio):
    family, strip = creations.fuse(studio(fuse=[1, 6]))["fused.png"]
    x = ready(Four).x("test")[[1, 6]]
    a, b = code(x)
    torch.testing.assert_close(family.images[[0, 2]], x)
    torch.testing.assert_close(family.images[1].flatten(), ((a + b) / 2).sigmoid())
    assert list(strip.captions) == [f"{10 * i}%" for i in range(11)]
    for i, image in enumerate(strip.images):
        torch.testing.assert_close(image.flatten(), (a + (b - a) * i / 10).sigmoid())


def test_the_middle_of_a_spherical_way_bisects_the_angle(studio):
    family, _ = creations.fuse(studio(fuse=[1, 6], way="spherical"))["fused.png"]
    a, b = code(ready(Four).x("test")[[1, 6]])
    middle = a / a.norm() + b / b.norm()
    middle *= (a.norm() + b.norm()) / 2 / middle.norm()
    torch.testing.assert_close(family.images[1].flatten().logit(), middle, atol=1e-4, rtol=1e-4)


def test_a_page_of_children_of_training_images(studio):
    rows = creations.fuse(studio(n=3))["fused_random.png"]
    assert [len(row.images) for row in rows] == [7, 3]
    known = ready(Four).x("train")
    for parents in (rows[0].images[:3], rows[0].images[4:], rows[1].images):
        for parent in parents[[0, 2]]:
            assert (known - parent).abs().flatten(1).sum(1).min() == 0
        middle = code(parents[[0, 2]]).mean(0).sigmoid()
        torch.testing.assert_close(parents[1].flatten(), middle)
    assert rows[0].images[3].eq(1).all()


def test_names_are_fused_too():
    assert creations.child_of(["pikachu", "charizard-mega-x"]) == "pikaizard"
    assert creations.child_of(["test 3", "test 4"]) == "the middle"


def test_interpolation_has_the_images_at_its_ends_and_a_film_goes_there_and_back(studio):
    made = creations.interpolation(studio(images=[0, 5]))
    ((images, captions, *_),) = made["interpolation.png"]
    x = ready(Four).x("test")[[0, 5]]
    torch.testing.assert_close(images[[0, -1]], x)
    torch.testing.assert_close(images[[1, -2]].flatten(1), code(x).sigmoid())
    assert (captions[0], captions[-1], captions[6]) == ("test 0", "test 5", "50%")
    film = made["interpolation.gif"].flatten(1)
    torch.testing.assert_close(film[[0, 24, 33, 57, -1]], code(x)[[0, 1, 1, 0, 0]].sigmoid())
    torch.testing.assert_close(film[[12, 45]], code(x).mean(0).sigmoid().expand(2, 4))


def test_traversal_begins_with_what_carries_most_and_moves_nothing_else(studio):
    start, *rows = creations.traversal(studio(images=[7]))["traversal.png"]
    torch.testing.assert_close(start.images, ready(Four).x("test")[[7]])
    assert [row.label.split()[0] for row in rows] == ["z2", "z1", "z3", "z4"]
    mean = code(ready(Four).x("train"))
    kl = (mean.square() + torch.tensor([-4.0, -4, 0, 0]).exp() - 1 - torch.tensor([-4.0, -4, 0, 0])).mean(0) / 2
    assert [row.label.split(maxsplit=1)[1] for row in rows] == [f"{kl[d]:.2f} nats" for d in (1, 0, 2, 3)]
    base = code(start.images)[0]
    for row, d in zip(rows, (1, 0, 2, 3), strict=True):
        logits = row.images.flatten(1).logit()
        others = [i for i in range(4) if i != d]
        torch.testing.assert_close(logits[:, others], base[others].expand(11, 3), atol=1e-4, rtol=1e-3)
        q = Normal(mean[:, d], 1.0 if d > 1 else math.exp(-2))
        spread = (q.variance.mean() + q.mean.var()).sqrt()
        assert (logits[-1, d] - logits[0, d]).item() == pytest.approx(5 * spread.item(), rel=0.4)
        assert (logits[:, d].diff() > 0).all()
    assert rows[-1].captions[0] == "\N{MINUS SIGN}2.5 sd"
    assert len(creations.traversal(studio(n=2))["traversal.png"]) == 3


def test_what_has_no_kl_of_one_dimension_is_sorted_by_the_variance_of_its_means(studio):
    made = studio(images=[7])
    made.vae.prior = prior_of("mixture")
    _, *rows = creations.traversal(made)["traversal.png"]
    variance = code(ready(Four).x("train")).var(0)
    assert [row.label for row in rows[:2]] == [f"z{d + 1}   {variance[d]:.2f} variance" for d in (1, 0)]


def test_the_nearest_training_images_are_those_of_a_search_by_hand(studio):
    rows = creations.nearest(studio(n=4))["nearest.png"]
    known = ready(Four).x("train")
    assert len(rows) == 4
    for row in rows:
        far = [
            math.sqrt(sum((a - b) ** 2 for a, b in zip(x, row.images[0].flatten().tolist(), strict=True)) / 4)
            for x in known.flatten(1).tolist()
        ]
        order = sorted(range(len(far)), key=lambda i: far[i])[:6]
        torch.testing.assert_close(row.images[1:], known[order])
        assert list(row.captions) == ["sample", *(f"{far[i]:.2f}" for i in order)]


def test_a_walk_stops_at_drawn_codes(studio):
    torch.manual_seed(3)
    film = creations.walk(studio(n=6))["walk.gif"]
    torch.manual_seed(3)
    codes = studio().drawn(5 * 6).view(5, 6, 4)
    assert film.shape == (80, 6, *SHAPE)
    torch.testing.assert_close(film[::16].flatten(2), codes.sigmoid())


def test_a_walk_is_not_of_a_crowd(studio):
    with pytest.raises(creations.Unfit, match="n=37: expected 36"):
        creations.walk(studio(n=37))


def test_arithmetic_is_of_the_mean_codes_of_labels_or_of_images(studio):
    ((images, captions, *_),) = creations.arithmetic(studio(arithmetic=[2, 0, 1]))["arithmetic.png"]
    data = ready(Four)
    x, labels = data.x("train"), data.images["train"].labels
    a, b, c = (code(x[labels == kind]).mean(0) for kind in (2, 0, 1))
    torch.testing.assert_close(images.flatten(1), torch.stack([a, b, c, a - b + c]).sigmoid())
    assert captions == ["all of 2", "\N{MINUS SIGN} all of 0", "+ all of 1", "="]
    with pytest.raises(UserError, match=r"arithmetic=5: expected a label of training images, such as \[0, 1, 2\]"):
        creations.arithmetic(studio(arithmetic=[2, 0, 5]))


def test_a_manifold_is_of_two_dimensions(studio):
    with pytest.raises(creations.Unfit, match=r"what=manifold: expected a run with latent_dim=2, .* here it is 4"):
        creations.manifold(studio())


@pytest.mark.parametrize(("name", "by_codes"), [("standard_normal", False), ("mixture", True)])
def test_a_manifold_is_of_the_prior_where_its_quantiles_are_known(name, by_codes, studio, monkeypatch):
    made = studio()
    made.vae.prior = prior_of(name)
    made.__dict__["known"] = torch.randn(9, 2)
    monkeypatch.setattr(creations.figures, "manifold", lambda _, codes: codes)
    found = creations.manifold(made)["manifold.png"]
    assert found is (made.known if by_codes else None)


def test_a_manifold_of_another_prior_goes_through_the_quantiles_of_the_codes(monkeypatch):
    monkeypatch.setattr(creations, "png", lambda picture: picture)
    seen = []
    vae = VAE(nn.Identity(), Halves(), Pixels(), Bernoulli(), StandardNormal(2, SHAPE))
    monkeypatch.setattr(vae, "picture", lambda z: seen.append(z) or torch.zeros(len(z), *SHAPE))
    codes = torch.stack([torch.linspace(0, 1, 401) ** 2 * 8, torch.linspace(-1, 0, 401)], 1)
    creations.figures.manifold(vae, 2, codes)
    expected = [[0.25**2 * 8, -0.25], [0.75**2 * 8, -0.25], [0.25**2 * 8, -0.75], [0.75**2 * 8, -0.75]]
    torch.testing.assert_close(seen[0], torch.tensor(expected))


def test_a_sheet_shows_every_pixel_where_it_belongs():
    x = torch.rand(3, 1, 2, 4, generator=torch.manual_seed(0))
    page = sheets.sheet([sheets.Row(x[:2], ["a", "b" * 200], side=8), sheets.Row(x[2:], label="label", side=4)])
    expected = (x * 255).round().byte().numpy()
    text = sheets.font(sheets.TEXT).getlength("label")
    left = sheets.MARGIN + round(text) + sheets.GAP
    for i, at in enumerate((left, left + 16 + sheets.GAP)):
        place = page[sheets.MARGIN : sheets.MARGIN + 8, at : at + 16]
        np.testing.assert_array_equal(place, np.kron(expected[i, 0], np.ones((4, 4)))[..., None].repeat(3, 2))
    assert page.shape[1] == left + 2 * 16 + sheets.GAP + sheets.MARGIN
    top = sheets.MARGIN + 8 + sheets.TEXT + 8 + sheets.GAP
    at = left + (2 * 16 + sheets.GAP - 8) // 2
    np.testing.assert_array_equal(page[top : top + 4 : 2, at : at + 8 : 2, 1], expected[2, 0])
    assert page[: sheets.MARGIN].min() == 255
    assert page[:, -sheets.MARGIN + sheets.GAP :].min() == 255  # no caption leaves the page
    ink = np.argwhere(page[sheets.MARGIN + 8 : top - sheets.GAP].min(-1) < 200)
    assert len(ink) > 3


def test_a_gif_loops_through_its_frames_and_is_no_larger_than_allowed(monkeypatch):
    frames = torch.linspace(0, 1, 12).view(12, 1, 1, 1, 1) * torch.ones(12, 5, 1, 4, 4)
    film = Image.open(io.BytesIO(sheets.moving(frames, 3, 50, width=42)))
    assert (film.n_frames, film.info["loop"], film.info["duration"]) == (12, 0, 50)
    assert film.size == (3 * 14 + 4 - 4, 2 * 14 - 2) or film.size[0] == 3 * 18 - 2
    for i in range(12):
        film.seek(i)
        shown = np.asarray(film.convert("L")).astype(int)
        assert abs(shown[3, 3] - 255 * i / 11) < 3
        assert shown[-1, -1] == 255  # there is no sixth image
    noise = torch.rand(6, 2, 3, 20, 20, generator=torch.manual_seed(0))
    large = sheets.moving(noise, 2, 50, 400)
    monkeypatch.setattr(sheets, "MOST", len(large) - 1)
    smaller = sheets.moving(noise, 2, 50, 400)
    assert len(smaller) < len(large)
    assert Image.open(io.BytesIO(smaller)).size[0] < Image.open(io.BytesIO(large)).size[0]
    monkeypatch.setattr(sheets, "MOST", len(sheets.moving(noise, 2, 50, 40)) - 1)  # less than every pixel once
    smallest = Image.open(io.BytesIO(sheets.moving(noise, 2, 50, 400)))
    assert (smallest.size, smallest.n_frames) == ((22, 10), 6)
    shown = np.asarray(smallest.convert("RGB"))[:, :10].mean((0, 1))
    np.testing.assert_allclose(shown, 255 * noise[0, 0].mean((1, 2)), atol=12)


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
COLOUR = ["dataset._target_=test_generate.Named", "dataset.val_size=8", "dataset.binarize=none"]


@pytest.mark.parametrize(
    "about",
    [
        *([f"prior={prior}", "latent_dim=2"] for prior in PRIORS),
        ["posterior=iaf"],
        ["objective=autoencoder"],
        [*COLOUR, "likelihood=shades", "architecture=conv"],
        [*COLOUR, "likelihood=discretized_logistic"],
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
    assert ("left out manifold" in err) == (fit != EVERY)
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
    assert cli("from=mixture", "what=samples", "n=3")[1] == "outputs/run/generated/mixture_samples.png\n"


REFUSED = {
    "what=sample": ["what=sample", "did you mean samples?"],
    "what=[samples,wlak]": ["what=wlak", "did you mean walk?"],
    "what=[samples,manifold]": ["what=manifold", "latent_dim=2", "3"],
    "what=arithmetic": ["arithmetic", "three"],
    "what=[]": ["what=[]", "expected a name"],
    "what=[samples": ["what=[samples", "[a,b]"],
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
    "images=[0,1,2]": ["images", "two", "3"],
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
    "run=nowhere": ["run=nowhere", "finished run", "summary.json"],
    "samples": ["samples", "key=value"],
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_cannot_be_is_one_line_and_nothing_is_written(argument, run_of, cli):
    folder = run_of("run", *COLOUR)
    Path("bad.png").write_text("no picture")
    code, out, err = cli(argument)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    for words in REFUSED[argument]:
        assert words in err
    assert not (folder / "generated").exists()


def test_more_images_than_there_are_is_one_line(run_of, cli):
    run_of("run", *COLOUR)
    code, _, err = cli("n=30", "fuse=random")
    assert (code, err) == (2, "n=30: expected 16 at most, 2 of 32 train images for each\n")


def test_a_folder_that_cannot_be_written_is_one_line(run_of, cli):
    folder = run_of("run")
    (folder / "generated").write_text("in the way")
    code, out, err = cli("what=samples")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "generated" in err


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
