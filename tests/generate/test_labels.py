"""What vae.generate and a Run make with a conditional model whose codes and pictures are known for each label."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import LOGITS, SHIFTS, code, conditional_model
from omegaconf import OmegaConf
from torch.testing import assert_close

from vae.api.run import Run
from vae.errors import UserError
from vae.generate import pictures
from vae.generate.session import Session

NAMES = ["0", "1", "2"]


def picture(z, label):
    """Return the pictures of codes (..., 4) with a label, by hand, (..., 4)."""
    return (z + LOGITS[label]).sigmoid()


def own_code(data, row):
    """Return the code (4,) of a test image, whose label is row % 3."""
    return code(data.x("test"))[row] + SHIFTS[row % 3]


@pytest.fixture
def make_session(monkeypatch):
    """make(**options): a Session of the conditional model. Pictures are returned as rows and frames."""
    monkeypatch.setattr(pictures, "render_rows", lambda rows: rows)
    monkeypatch.setattr(pictures, "encode_png", lambda picture: picture)
    monkeypatch.setattr(pictures, "animate", lambda frames, *_, **__: frames)
    monkeypatch.setattr(pictures.figures, "grid", lambda x, _: x)
    vae, data = conditional_model()

    def make(**options):
        options = {"interpolation": "linear", "label_names": NAMES} | options
        return Session(vae, lambda: data, **options)

    torch.manual_seed(0)
    with torch.inference_mode():
        yield make


@pytest.fixture
def run():
    vae, data = conditional_model()
    config = OmegaConf.create({"latent_dim": 4, "dataset": "four"})
    run = Run(Path("outputs/four"), config, {}, (), {}, None)
    module, about = SimpleNamespace(vae=vae, has_elbo=True), SimpleNamespace(labels=NAMES)
    run.__dict__.update(data=data, module=module, about_images=about)
    return run


@pytest.mark.parametrize(("label", "labels"), [(None, [0, 1, 2, 0, 1]), ("2", [2] * 5), (1, [1] * 5)])
def test_samples_have_the_label(label, labels, make_session):
    session = make_session(n=5, label=label)
    found = pictures.samples(session)["samples.png"].flatten(1)
    torch.manual_seed(1)
    found = pictures.samples(session)["samples.png"].flatten(1)
    torch.manual_seed(1)
    z = torch.randn(5, 4)
    assert_close(found, torch.stack([picture(z[i], label) for i, label in enumerate(labels)]))


def test_reconstructions_have_the_labels_of_their_images_or_another_one(make_session):
    for label in (None, 2):
        session = make_session(images=[4, 8], label=label)
        _, first, _, second = pictures.reconstructions(session)["reconstructions.png"].flatten(1)
        assert_close(first, picture(own_code(session.data, 4), label or 1))
        assert_close(second, picture(own_code(session.data, 8), label or 2))


def test_styles_keep_the_code_of_a_row_and_the_label_of_a_column(make_session):
    session = make_session(images=[4, 8, 0])
    rows = pictures.styles(session)["styles.png"]
    for row, number in zip(rows, [4, 8, 0], strict=True):
        z = own_code(session.data, number)
        expected = [session.data.x("test")[number].flatten(), *(picture(z, label) for label in range(3))]
        assert_close(row.images.flatten(1), torch.stack(expected))
    assert rows[-1].captions == ("image", *NAMES)
    assert len(pictures.styles(make_session())["styles.png"]) == 10


def test_interpolation_and_fusion_change_the_label_and_keep_the_style(make_session):
    session = make_session(fuse=[4, 8], images=[4, 8])
    a, b = own_code(session.data, 4), own_code(session.data, 8)
    middle = ((a + b) / 2 + (LOGITS[1] + LOGITS[2]) / 2).sigmoid()
    family, strip, style_of_a, style_of_b = pictures.fuse(session)["fused.png"]
    assert_close(family.images[1].flatten(), middle)
    assert_close(strip.images[[0, 10]].flatten(1), torch.stack([picture(a, 1), picture(b, 2)]))
    assert_close(style_of_a.images[[0, 10]].flatten(1), torch.stack([picture(a, 1), picture(a, 2)]))
    assert_close(style_of_b.images[[0, 10]].flatten(1), torch.stack([picture(b, 1), picture(b, 2)]))
    (row,) = pictures.interpolation(make_session(images=[4, 8], label=0))["interpolation.png"]
    assert_close(row.images[[1, 11]].flatten(1), torch.stack([picture(a, 0), picture(b, 0)]))
    assert len(pictures.fuse(make_session(fuse=[0, 3]))["fused.png"]) == 2  # both have the label 0
    family, strip = pictures.fuse(make_session(fuse=[4, 8], label=0))["fused.png"]  # no label changes
    assert_close(strip.images[[0, 10]].flatten(1), torch.stack([picture(a, 0), picture(b, 0)]))


def test_walks_and_traversals_keep_their_labels(make_session):
    session = make_session(n=3, images=[8])
    frames = pictures.walk(session)["walk.gif"]
    logits = frames.flatten(2).logit() - LOGITS
    assert logits.abs().max() < 5.5  # codes near N(0, I), without the logits of the labels
    assert ((frames.flatten(2).logit() - LOGITS.roll(1, 0)).abs().amax((0, 2)) > 4).all()
    _, *rows = pictures.traversal(session)["traversal.png"]
    fixed = [row.images.flatten(1)[:, 2:] for row in rows if row.label.startswith(("z1", "z2"))]
    assert_close(fixed[0], picture(own_code(session.data, 8), 2)[2:].expand(11, 2))


def test_arithmetic_has_the_label_of_the_last_operand(make_session):
    session = make_session(arithmetic=["test:4", "test:8", "test:0"])
    (row,) = pictures.arithmetic(session)["arithmetic.png"]
    a, b, c = (own_code(session.data, i) for i in (4, 8, 0))
    expected = [picture(a, 1), picture(b, 2), picture(c, 0), picture(a - b + c, 0)]
    assert_close(row.images.flatten(1), torch.stack(expected))


def test_a_run_from_python(run):
    x = torch.tensor(run.images("test").array).flatten(1)
    own = [row % 3 for row in range(12)]
    z = torch.from_numpy(run.encode(list(range(12))))
    assert_close(z, code(x) + SHIFTS[own])
    assert_close(torch.from_numpy(run.encode(x.view(-1, 1, 1, 4), labels=own)), z)
    reconstructed = run.reconstruct([4, 8]).x.flatten(1)
    assert_close(reconstructed, torch.stack([picture(z[4], 1), picture(z[8], 2)]))
    assert_close(run.reconstruct(x[4:5].view(1, 4), labels="1").x.flatten(), reconstructed[0])
    assert_close(run.decode(z[:2], labels=2).x.flatten(1), picture(z[:2], 2))
    assert_close(run.decode(z[:2], labels=[2, 0]).x[1].flatten(), picture(z[1], 0))
    samples = run.sample(16, label=1, seed=3).x.flatten(1).logit()
    assert_close(samples - LOGITS[1], run.sample(16, label=0, seed=3).x.flatten(1).logit(), atol=1e-4, rtol=1e-4)
    assert_close(run.interpolate(4, 8).x[[0, -1]].flatten(1), reconstructed)
    four = x[4:5].view(1, 4)
    assert run.log_px([4]) == run.log_px(four, labels=1) != run.log_px(four, labels=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.sample(2, label=7), "label=7: expected one of the labels 0, 1, 2"),
        (lambda run: run.sample(3, label=[0, 1]), "label: expected one label, or one for each of 3; got 2"),
        (lambda run: run.encode(np.zeros((2, 1, 4))), "labels: expected the label of each image"),
        (lambda run: run.decode(np.zeros((2, 4))), "labels: expected the label of each picture"),
    ],
)
def test_wrong_labels_are_one_line(call, message, run):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        call(run)


def test_a_label_for_an_unconditional_run_is_one_line(run):
    run.__dict__["about_images"].labels = []
    with pytest.raises(UserError, match="label=8: expected only for a run with conditional=true"):
        run.sample(2, label=8)
