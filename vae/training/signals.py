"""What Ctrl-C (SIGINT) and SIGTERM do to train.py. Nothing here imports torch.

Before and after training, the process exits immediately: `exit_on_signal`. During training, the callback
GracefulShutdown first finishes the current batches and saves a checkpoint. With trainer=ddp, the parent process
forwards signals to the processes that train: `run_distributed` in ddp.py. The exit code is 128 + signal.
"""

import signal
import sys

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def exit_on_signal() -> None:
    """Make Ctrl-C and SIGTERM exit this process immediately."""
    for signum in STOP_SIGNALS:
        signal.signal(signum, lambda signum, _frame: sys.exit(128 + signum))
