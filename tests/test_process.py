"""A process whose output cannot be read, or that was started from a notebook."""

import os
import subprocess
import sys

import pytest
from run_outputs import ROOT

SCRIPT = """
import sys
from vae.process import prepare_process
prepare_process()
for line in range(20_000):
    print("line", line, flush=True)
print("error", file=sys.stderr, flush=True)
import matplotlib
with open("done", "w") as file:
    file.write("done")
"""


@pytest.mark.parametrize("redirection", ["| head -1", "2>&-", "<&- >&- 2>&-", "2>&1 | head -1"])
def test_the_work_is_done_when_the_output_is_closed(redirection, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "module://not_installed.backend_inline"}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{sys.executable}' -c '{SCRIPT}' {redirection}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "Traceback" not in done.stdout + done.stderr
    assert (tmp_path / "done").read_text() == "done"


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_threads_wait_in_a_loop_for_a_bounded_time_unless_the_user_decides(given, spins):
    environment = {name: os.environ[name] for name in ("PATH",)} | {"PYTHONPATH": str(ROOT)} | given
    script = "import vae, sys, os; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == spins
