"""What each part of a model costs, in time an image of training, and what compiling it saves: benchmarks/costs.py.

Of each group the first row is the network that the others are compared with. The median of 14 parts of 20 steps each;
start, compilation and the first 20 steps are left out. The table goes to outputs/bench/costs.md.
"""

import csv
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "outputs" / "bench"
GROUPS = [
    [
        "",
        "architecture=conv",
        "likelihood=gaussian dataset.binarize=none",
        "likelihood=discretized_logistic dataset.binarize=none",
    ],
    ["experiment=tomczak2017_vae", "prior=mixture", "prior=flow", "prior=vampprior", "posterior=iaf"],
    [
        "experiment=burda2015_vae",
        "objective=iwae objective.K=5",
        "objective=dreg objective.K=5",
        "objective=iwae objective.K=50",
        "prior=two_layers latent_dim=100",
    ],
]


def seconds(*arguments: str) -> float:
    """Of training, an image."""
    run = OUT / "cost"
    shutil.rmtree(run, ignore_errors=True)
    short = ["trainer.max_steps=300", "log_every_n_steps=20", "test.K=1", "test.images=2", "logger=csv"]
    command = [sys.executable, "train.py", *arguments, *short, f"hydra.run.dir={run}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with (run / "metrics.csv").open(newline="") as file:
        speeds = [float(row["images_per_second"]) for row in csv.DictReader(file) if row["images_per_second"]]
    return 1 / statistics.median(speeds[1:])


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    lines = [
        "| `python train.py` | us an image, compile=false | to its network | with compile=true | to compile=false |",
        "|---|---|---|---|---|",
    ]
    for base, *others in GROUPS:
        first = None
        for line in (base, *(f"{base} {other}".strip() for other in others)):
            plain, compiled = (seconds(*line.split(), f"compile={how}") for how in ("false", "true"))
            first = first or plain
            figures = [f"{1e6 * plain:.0f}", f"{plain / first:.1f}", f"{1e6 * compiled:.0f}", f"{compiled / plain:.2f}"]
            lines.append(f"| `{line}` | {' | '.join(figures)} |".replace("``", "the default"))
            print(lines[-1], flush=True)
    (OUT / "costs.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
