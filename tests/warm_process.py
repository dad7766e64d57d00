"""Run commands as `python` does, in new processes that have imported torch and Lightning already, to save time."""

import multiprocessing
import os
import runpy
import sys
import tempfile

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["vae.training.experiment", "sklearn.mixture", "torch._inductor.compile_fx"])
TIMEOUT = 400  # seconds


def run_python(folder, *typed, code=0):
    """Run `python <typed>` in a folder: a script, -m module or -c code. Return what it printed."""
    with tempfile.NamedTemporaryFile("r") as output:
        process = CONTEXT.Process(target=_execute, args=(typed, str(folder), dict(os.environ), output.name))
        process.start()
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
        printed = output.read()
    assert process.exitcode == code, printed
    return printed


def _execute(typed, folder, environment, output):
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if typed[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *typed[2:]]
        exec(typed[1], {"__name__": "__main__"})
    elif typed[0] == "-m":
        sys.path.insert(0, folder)
        sys.argv = list(typed[1:])
        runpy.run_module(typed[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(typed[0]))
        sys.argv = list(typed)
        runpy.run_path(typed[0], run_name="__main__")
