"""A run in one process or, for trainer=ddp, in several that train one model together. Nothing here imports torch."""

import logging.config
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

GRACE = 60  # seconds the others have to end by themselves, and to send what W&B has not yet, once a process has failed
STOP = {signal.SIGINT, signal.SIGTERM}


def run(cfg: DictConfig, folder: Path) -> None:
    """The run of this config in its folder, in as many processes as trainer.devices says; without that, in this one."""
    if "devices" in cfg.trainer:
        together(cfg, folder)
    else:
        alone(cfg, folder)


def alone(cfg: DictConfig, folder: Path) -> None:
    from vae.experiment import run

    run(cfg, folder)


def together(cfg: DictConfig, folder: Path) -> None:
    """The whole run in each of several new processes; the first error among them is raised here.

    They are new rather than forks, since a fork of a process that has used the GPU, or two threads, cannot. Each is a
    group of its own, so that Ctrl-C is what this process passes on to them, once.
    """
    context = multiprocessing.get_context("spawn")
    errors = context.SimpleQueue()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    logs = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True)
    ranks = [
        context.Process(target=one_of_them, args=(rank, port, logs, errors, cfg, folder))
        for rank in range(cfg.trainer.devices)
    ]

    def pass_on(signum: int, _frame: FrameType | None) -> None:
        for rank in ranks:
            if rank.is_alive():
                os.kill(rank.pid or 0, signum)

    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)  # until they can be passed on, and they be understood
    for rank in ranks:
        rank.start()
    before = {signum: signal.signal(signum, pass_on) for signum in STOP}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)

    wait_for(ranks)
    for signum, handler in before.items():
        signal.signal(signum, handler)
    if not errors.empty():
        raise errors.get()
    if codes := [rank.exitcode for rank in ranks if rank.exitcode]:
        raise ChildProcessError(f"trainer=ddp: a process ended with code {codes[0]}")


def wait_for(ranks: Sequence[BaseProcess]) -> None:
    """Return when all have ended; once one has failed, the others are given GRACE seconds."""
    while alive := [rank for rank in ranks if rank.is_alive()]:
        failed = any(rank.exitcode for rank in ranks)
        if not wait([rank.sentinel for rank in alive], GRACE if failed else None):
            for rank in alive:
                rank.kill()


def one_of_them(rank: int, port: int, logs: dict[str, Any], errors: Any, cfg: DictConfig, folder: Path) -> None:
    """The run as the process of this rank has it; the first alone has something to say."""
    os.setpgid(0, 0)
    for signum in STOP:
        signal.signal(signum, lambda signum, _frame: sys.exit(128 + signum))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    Thread(target=stop_with_the_parent, daemon=True).start()
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_PORT": str(port), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if rank == 0:
        logging.config.dictConfig(logs)
    else:
        for output in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    try:
        alone(cfg, folder)
    except BaseException as error:  # noqa: BLE001 (it is raised where the run was started)
        error.add_note(traceback.format_exc())
        errors.put(error)
        sys.exit(1)


def stop_with_the_parent() -> None:
    """Ctrl-C, should the process that started this one be killed."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
