"""Plot the reconstruction error against the MIG of the runs of a sweep: python benchmarks/disentangling.py FOLDER.

The runs are of dataset=shapes, with several values of objective.beta and seed. Writes docs/images/disentangling.png,
and the means and standard deviations over seeds to docs/tables/disentangling.md.
"""

import statistics
import sys
from collections import defaultdict
from pathlib import Path

import torch
from doc_tables import describe_machine, markdown_table, write_table

import vae
from vae.latent.disentanglement import TITLES
from vae.latent.evaluation import encode, evaluate_dimensions

FIGURE = Path(__file__).parent.parent / "docs" / "images" / "disentangling.png"
SCORES = {"squared_error": "squared error", "kl": "KL"} | TITLES


@torch.inference_mode()
def scores(run: vae.Run) -> dict[str, float]:
    """Return the scores of the test images of a run, as its test and `vae.latent` give them."""
    data, factors = run.data, run.data.images["test"].factors
    assert factors is not None
    found = evaluate_dimensions(run.vae, data, encode(run.vae, data.x("test")), factors, "test", 10_000)
    tested = {name: run.summary[f"test/{name}"] for name in ("squared_error", "kl")}
    return tested | found["found"]["codes"]


def main(folder: str) -> None:
    from matplotlib.figure import Figure

    runs = defaultdict(list)
    for run in vae.load_runs(folder):
        found = scores(run)
        runs[run.config.objective.beta].append(found)
        print(run.config.objective.beta, run.config.seed, {name: round(found[name], 3) for name in SCORES}, flush=True)
    figure = Figure(figsize=(6, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    rows = []
    for beta, found in sorted(runs.items()):
        columns = {name: [one[name] for one in found] for name in SCORES}
        axes.plot(columns["squared_error"], columns["mig"], "o", label=f"beta = {beta:g}, {len(found)} seeds")
        cells = [f"{statistics.mean(values):#.3g} +- {statistics.stdev(values):.2g}" for values in columns.values()]
        rows.append([f"{beta:g}", str(len(found)), *cells])
    axes.set(xlabel="squared error of test images, per image", ylabel="MIG")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(FIGURE)
    print(write_table("disentangling", markdown_table(["beta", "seeds", *SCORES.values()], rows), describe_machine()))


if __name__ == "__main__":
    main(sys.argv[1])
