"""Sampled sequences of a run on a genome: as FASTA, as coloured letters, and their k-mers beside the genome's."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.fasta import LETTERS, Fasta
from vae.errors import UserError
from vae.figures import Picture, render
from vae.generate.session import Session
from vae.image_grid import MARGIN, encode_png, font

COLOURS = ((0, 150, 0), (0, 0, 220), (209, 113, 5), (220, 0, 0))  # of A, C, G and T, as in sequence logos
MAX_K = 3
N_COUNTED = 2000  # sampled sequences whose k-mers are counted
ROW, COLUMN = 18, 12  # pixels of a letter


def letter_indices(x: Tensor) -> np.ndarray:
    """Return the numbers of the letters of one-hot sequences, (N, 4, 1, L): (N, L)."""
    return x[:, :, 0].argmax(1).cpu().numpy()


def kmer_frequencies(letters: np.ndarray, k: int) -> np.ndarray:
    """Return the frequencies of the 4^k words of k letters in sequences (N, L), in alphabetical order."""
    words = np.lib.stride_tricks.sliding_window_view(letters, k, axis=1) @ (len(LETTERS) ** np.arange(k)[::-1])
    return np.bincount(words.ravel(), minlength=len(LETTERS) ** k) / words.size


def draw_letters(letters: np.ndarray) -> Picture:
    """Draw sequences (N, L), one a row, in coloured letters."""
    n, length = letters.shape
    page = Image.new("RGB", (length * COLUMN + 2 * MARGIN, n * ROW + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for y, row in enumerate(letters.tolist()):
        for x, i in enumerate(row):
            at = MARGIN + (x + 0.5) * COLUMN, MARGIN + (y + 0.5) * ROW
            draw.text(at, LETTERS[i], COLOURS[i], font(ROW - 4), "mm")
    return np.asarray(page)


def words_of(k: int) -> list[str]:
    """Return the words of k letters in alphabetical order."""
    return ["".join(LETTERS[i] for i in word) for word in np.ndindex((len(LETTERS),) * k)]


def plot_kmers(sampled: Sequence[np.ndarray], held_out: Sequence[np.ndarray]) -> Picture:
    """Plot the frequencies of the words of 1, 2, ... letters in samples against those in test windows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4 * len(sampled), 4.8), dpi=100, layout="constrained")
    for k, (axes, ours, theirs) in enumerate(zip(figure.subplots(1, len(sampled)), sampled, held_out, strict=True), 1):
        both = np.concatenate([ours, theirs])
        limits = 0.9 * both.min(), 1.05 * both.max()
        axes.plot(limits, limits, color="lightgrey", linewidth=1)
        for word, x, y in zip(words_of(k), theirs, ours, strict=True):
            axes.annotate(word, (x, y), ha="center", va="center", fontsize=11 - 2 * k)
        axes.set(xlim=limits, ylim=limits, xlabel="frequency in test windows", aspect="equal")
        axes.set_title(f"k = {k}")
    figure.axes[0].set_ylabel("frequency in samples")
    return render(figure)


@torch.inference_mode()
def sequences(session: Session) -> dict[str, bytes]:
    """Sample sequences from p(x|z), and count their k-mers and those of the test windows."""
    if not isinstance(session.data, Fasta):
        raise UserError("what=sequences: expected a run of dataset=fasta")
    n = session.n or 100
    codes = session.sample(max(n, N_COUNTED))
    sampled = letter_indices(torch.cat([session.vae.p_x(z).sample() for z in codes.split(500)]))
    held_out = letter_indices(session.data.x("test"))
    texts = ["".join(LETTERS[i] for i in row) for row in sampled[:n].tolist()]
    ours, theirs = ([kmer_frequencies(letters, k + 1) for k in range(MAX_K)] for letters in (sampled, held_out))
    rows = ["kmer,samples,test"]
    for k in range(MAX_K):
        frequencies = zip(words_of(k + 1), ours[k], theirs[k], strict=True)
        rows += [f"{word},{of_samples:.5f},{of_test:.5f}" for word, of_samples, of_test in frequencies]
    return {
        "sequences.fasta": "".join(f">sample_{i}\n{text}\n" for i, text in enumerate(texts)).encode(),
        "sequences.png": encode_png(draw_letters(sampled[:n])),
        "kmers.png": encode_png(plot_kmers(ours, theirs)),
        "kmers.csv": ("\n".join(rows) + "\n").encode(),
    }
