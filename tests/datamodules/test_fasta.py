"""Windows of sequences in made-up FASTA files."""

import gzip

import numpy as np
import pytest
import torch
from dataset_helpers import DEFAULTS, prepare

from datamodules.fasta import Fasta
from vae.errors import UserError

RNG = np.random.default_rng(0)
SEQUENCES = ["".join(RNG.choice(list("ACGT"), n)) for n in (3000, 2000)]


def write(path, sequences, compress=False):
    lines = [f">record {i}\n" + "\n".join(s[j : j + 70] for j in range(0, len(s), 70)) for i, s in enumerate(sequences)]
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if compress else text)
    return path


def make_fasta(path, **changes):
    options = {"val_size": 0.2, "test_size": 0.2, "length": 8, "stride": 3, "reverse_complement": False}
    return Fasta(data_dir=str(path.parent), path=str(path), **(DEFAULTS | options | changes))


def texts(pixels):
    """Return windows (N, 4, 1, L) as strings."""
    return ["".join("ACGT"[i] for i in window) for window in pixels[:, :, 0].int().argmax(1).tolist()]


@pytest.mark.parametrize("compress", [False, True])
def test_windows_are_those_of_the_sequences_and_do_not_overlap_across_splits(tmp_path, compress):
    mixed = [SEQUENCES[0][:1000] + "NNNR" + SEQUENCES[0][1000:].lower(), SEQUENCES[1]]
    data = prepare(make_fasta(write(tmp_path / "genome.fa", mixed, compress)))
    parts = [SEQUENCES[0][:1000], SEQUENCES[0][1000:], SEQUENCES[1]]
    covered = {}
    for split, images in data.images.items():
        assert (images.pixels.sum(1) == 1).all()
        found = set()
        for text in texts(images.pixels):
            positions = {
                (i, at) for i, part in enumerate(parts) for at in range(len(part)) if part.startswith(text, at)
            }
            assert positions
            if len(positions) == 1:  # a few windows of 8 letters are found twice
                (i, at), *_ = positions
                found |= {(i, at + j) for j in range(8)}
        covered[split] = found
    assert not covered["train"] & covered["val"]
    assert not covered["train"] & covered["test"]
    assert not covered["val"] & covered["test"]
    assert sum(map(len, covered.values())) > 4700


def test_half_of_the_training_windows_are_reverse_complements(tmp_path):
    data = prepare(make_fasta(write(tmp_path / "genome.fa", SEQUENCES), reverse_complement=True))
    pixels = data.images["train"].pixels
    given, seen = texts(pixels), texts(data.augment(pixels, torch.Generator().manual_seed(0)))
    reverse = [text[::-1].translate(str.maketrans("ACGT", "TGCA")) for text in given]
    assert all(s in pair for s, *pair in zip(seen, given, reverse, strict=True))
    assert 0.4 < np.mean([s == r for s, r in zip(seen, reverse, strict=True)]) < 0.6


@pytest.mark.parametrize("content", [b"ACGT", b"", b"\xff\xfe", b"\x1f\x8bgarbage", b">one\nACGTACGTACGT\n", None])
def test_another_file_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "genome.fa"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"^dataset.path=.*genome.fa: [^\n]+$"):
        prepare(make_fasta(path))
