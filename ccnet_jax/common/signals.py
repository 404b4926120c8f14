"""Ctrl-C before and outside of work that has to be saved, which is `ccnet_jax.engine.stopping`'s.

While a program starts, and where nothing needs an end of its own, Ctrl-C ends it at once: Python's own way,
KeyboardInterrupt, would be a traceback while modules are imported, and is lost where a callback of JAX
receives it.
"""

import contextlib
import gc
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator

# That ask a program to end, all being saved: Ctrl-C, a scheduler's end, a terminal that is closed, and the
# warning that SLURM is told to send with `--signal=USR1@SECONDS`.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def begin_program() -> None:
    """Prepare for the seconds in which one of our programs imports what it needs.

    It does nothing in other processes. Ctrl-C ends the program at once. The garbage collector rests: it would
    take a fifth of that time to find nothing.
    """
    if is_program(sys.orig_argv):
        gc.disable()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def end_imports() -> None:
    """Go back to Python's own ways, after `begin_program`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not gc.isenabled():
        gc.freeze()  # what was imported stays; the end of the program would look through all of it again
        gc.enable()


@contextlib.contextmanager
def interrupted_at_once() -> Iterator[None]:
    """Inside, Ctrl-C ends the process wherever it is; in the main thread alone."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def leave_closed_terminal() -> None:
    """Where standard output or error is a terminal that is gone, send what is written there to nowhere.

    Each line would be an error.
    """
    for stream in (1, 2):
        look = select.poll()
        try:
            look.register(stream, 0)
            gone = any(events & (select.POLLHUP | select.POLLERR) for _, events in look.poll(0))
            if gone and stat.S_ISCHR(os.fstat(stream).st_mode):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream)
                os.close(null)
        except OSError:
            continue


def is_program(words: list[str]) -> bool:
    """Whether the words, of `sys.orig_argv`, start one of our programs."""
    module = words[words.index("-m") + 1 :][:1] if "-m" in words else []
    started = module[0].partition(".")[0] == "ccnet_jax" if module else False
    return started or any(word.rpartition("/")[2] == "ccnet" for word in words[:2])
