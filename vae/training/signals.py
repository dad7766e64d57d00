"""What Ctrl-C (SIGINT), SIGTERM and SIGHUP do to train.py. Nothing here imports torch.

Before and after training, the process exits immediately: `exit_on_signal`. During training, the callback
GracefulShutdown first finishes the current batches and saves a checkpoint. With trainer=ddp, the parent process
forwards signals to the processes that train: `run_distributed` in ddp.py. The exit code is 128 + signal.

Python ignores an exception that a handler raises inside a finalizer or a weakref callback. So handlers also remember
the signal, and `exit_if_signalled` is called between the stages of a run.
"""

import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM]
if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # the terminal is closed; `nohup` ignores it
    STOP_SIGNALS.append(signal.SIGHUP)

_received: list[int] = []  # the signals of this process


def exit_on_signal() -> None:
    """Make Ctrl-C, SIGTERM and SIGHUP exit this process immediately."""
    forget_signals()
    handle_signals(exit_now)


def handle_signals(handler: Any) -> dict[int, Any]:
    """Set the handler of all STOP_SIGNALS; return the previous handlers.

    Only the main thread may do this. In another thread nothing changes, and no handlers are returned.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {signum: signal.signal(signum, handler) for signum in STOP_SIGNALS}


def restore_handlers(handlers: Mapping[int, Any]) -> None:
    """Set the handlers that `handle_signals` returned."""
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def forget_signals() -> None:
    """Forget the signals that were received: another training begins."""
    _received.clear()


def exit_now(signum: int, _frame: FrameType | None) -> None:
    """Signal handler: exit."""
    _received.append(signum)
    exit_if_signalled()


def exit_later(signum: int, frame: FrameType | None) -> None:
    """Signal handler: remember the first signal, and exit at the second."""
    if _received:
        exit_now(signum, frame)
    _received.append(signum)


def signal_exit_code() -> int:
    """Return 128 + the first signal that this process received, or 0."""
    return 128 + _received[0] if _received else 0


def exit_if_signalled() -> None:
    """Exit if this process received a signal."""
    if code := signal_exit_code():
        sys.exit(code)
