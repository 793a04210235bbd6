"""Filling a draft: cloned, copied inside the kernel, or written block by block, with holes."""

from __future__ import annotations

import errno
import functools
import os
from typing import Final

from imgstore.data.extents import GRAIN, next_extent
from imgstore.data.opened import SourceFile
from imgstore.data.streams import Body
from imgstore.data.units import MIB
from imgstore.drivers import _linux
from imgstore.drivers.filesystem.calls import OpenFile

# Dirty pages are handed to the disk in steps of this size while digests are computed.
_WRITEBACK: Final = 32 * MIB


def fill(body: Body, target: OpenFile, *, thin: bool, block_size: int, sync: bool) -> None:
    """Write the whole of ``body`` to an empty file.

    Holes of a source that is a file stay holes. With ``thin``, zeros become holes too, which
    takes reading them; otherwise the kernel clones or copies where source and target allow.
    With ``sync``, an fsync follows.
    """
    source = body.file
    if source is not None and not thin and _copy_in_kernel(body, source, target):
        return
    _write(body, target, thin=thin, block_size=block_size, sync=sync)


def _copy_in_kernel(body: Body, source: SourceFile, target: OpenFile) -> bool:
    status = os.fstat(source.fd)
    whole = source.offset == 0 and source.length == status.st_size
    if whole and target(lambda fd: _linux.clone(source.fd, fd)):
        length = target(os.fstat).st_size
        body.adopt(length, lambda offset, n: target(os.pread, n, offset))
        return True
    if not source.length or not target(_linux.copies_ranges):
        return False
    return _copy_extents(body, source, target)


def _copy_extents(body: Body, source: SourceFile, target: OpenFile) -> bool:
    """Copy the data and leave the holes; False, and nothing done, if the kernel cannot."""
    # At its full size from the start, or xfs keeps space for more after each stretch of data.
    target(os.ftruncate, source.length)
    position = 0
    while position < source.length:
        start, end = next_extent(source, position)
        position = _copy_extent(body, source, target, start, end)
        if position < 0:
            target(os.ftruncate, 0)
            return False
        if position < end:  # the source became shorter, which adopt() finds out
            target(os.ftruncate, position)
            break
    body.adopt(position, lambda offset, n: target(os.pread, n, offset))
    return True


def _copy_extent(body: Body, source: SourceFile, target: OpenFile, start: int, end: int) -> int:
    """Return how far the copy came, -1 if the kernel cannot copy between these files."""
    while start < end:
        step = functools.partial(
            _linux.copy_range,
            source.fd,
            offset=source.offset + start,
            to=start,
            length=min(end - start, _WRITEBACK if target.has_time_limit else body.step),
        )
        copied = target(step)
        if copied and target.has_time_limit:
            target(os.fdatasync)  # so that no single call takes long
        if copied is None:
            return -1
        if copied == 0:
            # Some kernels and file systems give 0 where they cannot copy.
            if os.fstat(source.fd).st_size > source.offset + start:
                return -1
            break
        start += copied
        body.copied(start)
    return start


def _write(body: Body, target: OpenFile, *, thin: bool, block_size: int, sync: bool) -> None:
    """Write blocks at increasing positions, and keep the disk busy meanwhile."""
    # One block that has no holes: it needs none of the steps below.
    if not thin and body.file is None and body.size is not None and body.size <= block_size:
        _write_at(target, memoryview(body.read(block_size)), 0)
        return
    end = flushed = 0
    for position, length, data in body.stretches(lambda: block_size, grain=GRAIN, thin=thin):
        if data is None:
            continue
        _write_at(target, data, position)
        end = position + length
        if end - flushed < _WRITEBACK:
            continue
        if target.has_time_limit:
            target(os.fdatasync)  # so that no single call takes long
        elif sync:
            _linux.start_writeback(target.fd, flushed, end - flushed)
        flushed = end
    if body.total > end:
        target(os.ftruncate, body.total)


def _write_at(target: OpenFile, data: memoryview, position: int) -> None:
    while data:
        written = target(os.pwrite, data, position)
        if not written:
            raise OSError(errno.EIO, "the file system takes no bytes and reports no error")
        data = data[written:]
        position += written


def grain_of(chunk_size: int) -> int:
    """Return the size of blocks to write: at least 1 MiB, whole grains, at most 64 MiB."""
    size = min(max(chunk_size, MIB), 64 * MIB)
    return size - size % GRAIN
