"""Sampled sequences of a run on a genome."""

import csv
import io
from collections import Counter

import numpy as np
import pytest
import toy_dataset
from conftest import compose_config
from PIL import Image

from datamodules.fasta import Fasta
from vae.errors import UserError
from vae.generate.sequences import COLOURS, plot_kmers, sequences
from vae.generate.session import Session
from vae.training.build import build

L = 12


def make_session(tmp_path, **options):
    genome = "".join(np.random.default_rng(0).choice(list("ACGT"), 3000, p=[0.5, 0.25, 0.15, 0.1]))
    (tmp_path / "genome.fa").write_text(f">genome\n{genome}\n")
    keys = [f"dataset.path={tmp_path / 'genome.fa'}", f"dataset.length={L}", "hidden_size=8", "latent_dim=2"]
    cfg = compose_config("dataset=fasta", *keys)
    arguments = {key: value for key, value in cfg.dataset.items() if key != "_target_"}
    data = Fasta(**arguments)
    data.setup()
    return Session(build(cfg, (4, 1, L)).vae, lambda: data, **options)


def test_samples_are_fasta_and_kmers_are_those_of_the_test_windows(tmp_path):
    session = make_session(tmp_path, n=7)
    files = sequences(session)
    lines = files["sequences.fasta"].decode().splitlines()
    assert lines[::2] == [f">sample_{i}" for i in range(7)]
    assert all(len(text) == L and not set(text) - set("ACGT") for text in lines[1::2])
    windows = ["".join("ACGT"[i] for i in x[:, 0].argmax(0)) for x in session.data.x("test")]
    rows = list(csv.DictReader(io.StringIO(files["kmers.csv"].decode())))
    assert len(rows) == 4 + 16 + 64
    for k in (1, 2, 3):
        count = Counter(window[i : i + k] for window in windows for i in range(L - k + 1))
        found = {row["kmer"]: float(row["test"]) for row in rows if len(row["kmer"]) == k}
        assert found == pytest.approx({word: count[word] / count.total() for word in found}, abs=1e-5)
        assert sum(float(row["samples"]) for row in rows if len(row["kmer"]) == k) == pytest.approx(1, abs=1e-3)


def test_a_word_is_drawn_at_its_two_frequencies(monkeypatch):
    drawn = []
    monkeypatch.setattr("vae.generate.sequences.render", lambda figure: drawn.extend(figure.axes))
    samples = [np.array([0.1, 0.2, 0.3, 0.4]), np.arange(16) / 120]
    held_out = [np.array([0.4, 0.3, 0.2, 0.1]), np.arange(16)[::-1] / 120]
    plot_kmers(samples, held_out)
    assert [axes.get_title() for axes in drawn] == ["k = 1", "k = 2"]
    assert {text.get_text(): text.xy for text in drawn[0].texts}["C"] == (0.3, 0.2)
    assert {text.get_text(): text.xy for text in drawn[1].texts}["GT"] == pytest.approx((4 / 120, 11 / 120))


def test_letters_have_the_colours_of_the_samples(tmp_path):
    files = sequences(make_session(tmp_path, n=2))
    texts = files["sequences.fasta"].decode().splitlines()[1::2]
    page = np.asarray(Image.open(io.BytesIO(files["sequences.png"]))).astype(int)
    for colour, letter in zip(COLOURS, "ACGT", strict=True):
        assert (page == colour).all(-1).any() == any(letter in text for text in texts)


def test_other_images_are_refused(tmp_path):
    session = make_session(tmp_path)
    bars = toy_dataset.Bars(str(tmp_path), 20, 0, 60, 0, "none")
    with pytest.raises(UserError, match="expected a run of dataset=fasta"):
        sequences(Session(session.vae, lambda: bars))
