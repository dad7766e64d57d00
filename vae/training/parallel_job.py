"""Jobs of a sweep that run at the same time, in processes of hydra/launcher=joblib. Nothing here imports torch."""

import logging
import multiprocessing
import os
import signal
import sys
import time
from functools import cache
from threading import Thread

from vae.process import prepare_process
from vae.training.ddp import SHUTDOWN_TIMEOUT
from vae.training.signals import exit_on_signal


class LabelledFormatter(logging.Formatter):
    """Formats log records as another formatter does, with a label before each line."""

    def __init__(self, label: str, formatter: logging.Formatter) -> None:
        super().__init__()
        self.label, self.formatter = label, formatter

    def format(self, record: logging.LogRecord) -> str:
        lines = self.formatter.format(record).split("\n")
        return "\n".join(f"{self.label}  {line}" if line else "" for line in lines)


def is_parallel_job() -> bool:
    """Return whether this process is a worker that runs jobs of a sweep beside other workers."""
    return multiprocessing.parent_process() is not None


def prepare_parallel_job(label: str) -> None:
    """Label the lines of a job on the terminal, and stop it if the process that started it is killed."""
    prepare_worker()
    for handler in logging.root.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stdout)  # which prepare_worker has replaced
            handler.setFormatter(LabelledFormatter(label, handler.formatter or logging.Formatter()))


@cache
def prepare_worker() -> int:
    """Prepare this process, which runs several jobs one after the other. Return the id of its parent process."""
    prepare_process()
    exit_on_signal()
    parent = os.getppid()
    Thread(target=stop_when_orphaned, args=(parent,), daemon=True).start()
    return parent


def stop_when_orphaned(parent: int) -> None:
    """Send SIGTERM to this process when its parent is gone; exit if that does not stop it within SHUTDOWN_TIMEOUT s."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SHUTDOWN_TIMEOUT)
    os._exit(1)


def exit_if_orphaned() -> None:
    """Exit if the parent of this worker is gone: joblib would wait minutes for other jobs."""
    if is_parallel_job() and os.getppid() != prepare_worker():
        os._exit(1)
