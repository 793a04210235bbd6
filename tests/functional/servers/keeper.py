"""The program between a test run and a real server: the server never outlives the run.

``python keeper.py OWNER REPORT COMMAND...`` runs COMMAND as its child, writes the child's pid as
one line to the descriptor REPORT, and ends when the child ends, with the child's status. When the
process OWNER ends, in whatever way, the child and everything it started are killed.

A process of its own, because the simpler ways do not hold: PR_SET_PDEATHSIG follows the *thread*
that forked, so a server started from a worker thread would die with that thread, and it needs
preexec_fn, which may deadlock where threads run. Here there is one thread. A pipe from the owner
would stay open in whatever else the owner forked; a pidfd does not.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILL_SECONDS = 10.0


def main(arguments: list[str]) -> int:
    """Keep one server; the exit status is the server's, or 128 + the signal that ended it."""
    owner, report, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    os.set_inheritable(report, False)
    owner_fd = os.pidfd_open(owner)
    if os.getppid() != owner:
        return 1  # the owner was gone before the descriptor was opened
    # Daemons that leave the server's process group become our children and can be found.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = _start(command)
    child_fd = os.pidfd_open(child)
    os.write(report, f"{child}\n".encode())
    os.close(report)
    waiter = select.poll()
    waiter.register(owner_fd, select.POLLIN)
    waiter.register(child_fd, select.POLLIN)
    waiter.poll()
    # The child stays a zombie until here, so its pid cannot be reused while the keeper runs.
    if child_fd not in dict(waiter.poll(0)):
        _kill(child)
    status = os.waitpid(child, 0)[1]
    end_children()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _start(command: list[str]) -> int:
    keeper = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == keeper:
            os.execvp(command[0], command)
    except OSError as exc:
        os.write(2, f"{command[0]}: {exc}\n".encode())
    finally:
        os._exit(127)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def end_children() -> None:
    """Kill every child of this process, and wait until there is none, for at most 10 s."""
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        for pid in _children():
            _kill(pid)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.01)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found.append(int(status.parent.name))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
