"""Interrupts adds at one point after another where Python looks for signals, and says what stays.

``python interrupted_adds.py FIRST STEP DATADIR…`` prints a line for each fault, and how many adds
were interrupted.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import threading
import time
from types import CodeType, FrameType
from typing import Any

import imgstore
from imgstore.drivers.filesystem import FilesystemStore

PACKAGE = os.path.dirname(imgstore.__file__)
DATA = bytes(1024 * 1024) + os.urandom(100_000)  # from 1 MiB on, digests have threads
PATIENCE = 10  # seconds


@functools.cache
def calls_and_jumps(code: CodeType) -> set[int]:
    """Return where the steps are after which Python looks for signals."""
    names = ("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE")
    return {each.offset for each in dis.get_instructions(code) if each.opname.startswith(names)}


class Interrupt:
    """Raises KeyboardInterrupt at the n-th point; ``at`` says where that was."""

    def __init__(self, nth: int) -> None:
        self.left = nth
        self.at: str | None = None
        self._last: dict[FrameType, int] = {}

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE) or code.co_name == "__del__":
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            last = self._last.get(frame)
            self._last[frame] = frame.f_lasti
            if last is None or last in calls_and_jumps(frame.f_code):
                self.left -= 1
            if not self.left and self.at is None:
                self.at = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self._step


def descriptors() -> set[tuple[str, str]]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
        except FileNotFoundError:
            continue  # that of the listing itself
    return {(fd, path) for fd, path in found if not path.startswith("/proc/")}


def main(first: int, step: int, roots: list[str]) -> None:
    with FilesystemStore("file", datadirs=roots, fsync=False) as store:
        store.delete(store.add("image", DATA).location)
        before = descriptors(), threading.active_count()
        nth, tried = first, 0
        while True:
            interrupt, returned, said = Interrupt(nth), False, False
            sys.settrace(interrupt)
            try:
                store.add("image", DATA)
                sys.settrace(None)
                returned = True
            except KeyboardInterrupt as exc:
                sys.settrace(None)
                said = getattr(exc, "indeterminate", False)
            names = sorted(name for root in roots for name in os.listdir(root))
            left = [name for name in names if name not in {"image", ".imgstore-lock"}]
            if left or ("image" in names and not (returned or said)):
                sys.stdout.write(f"{interrupt.at}: {names} stay\n")
            for root in roots:
                for name in set(os.listdir(root)) - {".imgstore-lock"}:
                    os.unlink(os.path.join(root, name))
            # A thread that finds nothing left to do ends by itself, in its own time.
            deadline = time.monotonic() + PATIENCE
            while (descriptors(), threading.active_count()) != before and (
                time.monotonic() < deadline
            ):
                time.sleep(0.01)
            if (descriptors(), threading.active_count()) != before:
                sys.stdout.write(
                    f"{interrupt.at}: {descriptors() - before[0]}, {threading.enumerate()} stay\n"
                )
                before = descriptors(), threading.active_count()
            if interrupt.at is None:
                break
            nth, tried = nth + step, tried + 1
    sys.stdout.write(f"{tried} interrupted\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
