"""A run of the documentation, trained as a user would: it ends in the numbers of its row."""

import json
import os
import re
import subprocess
import sys

import pytest
from run_outputs import ROOT


@pytest.mark.slow
def test_the_run_on_digits_ends_in_the_documented_numbers(tmp_path):
    page = (ROOT / "docs" / "results.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `dataset=digits` | 1,797 |"))
    elbo, log_px = (float(number) for number in re.findall(r"-\d+\.\d\d", row)[:2])
    command = [sys.executable, str(ROOT / "train.py"), "dataset=digits", "logger=csv", f"hydra.run.dir={tmp_path}/run"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["test/elbo"] == pytest.approx(elbo, abs=0.2)
    assert summary["test/log_px"] == pytest.approx(log_px, abs=0.2)
