"""Answers as http.client reads them, in bounded time and from one framing (RFC 9112).

http.client bounds every wait for a byte, but neither a head that trickles in, nor interim answers,
nor trailers that never end; it ignores what follows the stated length and what ends a chunk; and it
quotes a server's text, which may echo a signature or a password, in what it raises.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import re
import socket
import time
from http import HTTPStatus
from typing import Any, ClassVar, Final

from imgstore.data.units import MIB
from imgstore.drivers._http.urls import INSTALL
from imgstore.drivers._numbers import whole_number
from imgstore.errors import IntegrityError
from imgstore.process import lazy

_LINE: Final = 65536  # bytes of a header, as http.client has it
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;[^\r\n]*)?\r?\n")


class _Wire(io.RawIOBase):
    """A connection's bytes; hands out at most ``allowance`` of them, until ``deadline`` if any."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._socket = sock
        self._raw = raw
        self.deadline: float | None = None
        self.allowance = 16 * MIB
        self.has_ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the head of the answer is not complete in time")
            self._socket.settimeout(left)
        count: int | None = self._raw.readinto(buffer)
        self.has_ended = count == 0
        self.allowance -= count or 0
        if self.allowance < 0:
            raise http.client.HTTPException("the answer is framing without end")
        return count

    def let_through(self) -> None:
        """Count no more: TLS hands out 16 KiB at a time, and each call costs."""
        self.readinto = self._raw.readinto  # type: ignore[assignment,method-assign]

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class Answer(http.client.HTTPResponse):
    """An answer whose head arrives in bounded time and whose body has the length it states.

    The head has what the socket's time-out says, all of it together; each piece of the body has
    ``read_timeout`` seconds.
    """

    read_timeout: ClassVar[float]

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._socket = sock
        self._wire = _Wire(sock, self.fp.detach())
        self.fp = io.BufferedReader(self._wire)
        self._final: tuple[str, int, str] | None = None  # a status line that was read already

    def is_final(self) -> bool:
        """Read a status line; return whether it is that of an answer after which none comes."""
        self._limit()
        line = self._status_line()
        if is_interim(line[1]):
            self._skip_head()
            return False
        self._final = line
        return True

    def _read_status(self) -> tuple[str, int, str]:
        if self._wire.deadline is None:
            self._limit()  # it is a proxy's answer to CONNECT
        line, self._final = self._final or self._status_line(), None
        while is_interim(line[1]):
            self._skip_head()
            line = self._status_line()
        return line

    def _status_line(self) -> tuple[str, int, str]:
        try:
            version, status, _ = super()._read_status()  # type: ignore[misc]
        except ConnectionError:  # which RemoteDisconnected is
            raise
        except http.client.HTTPException as exc:
            line = str(getattr(exc, "line", ""))
            if self._wire.has_ended and "HTTP/".startswith(line[:5]):
                raise _broken_off() from None
            status = 0
        if status == 0:
            raise http.client.HTTPException("the answer has no status line")
        return version, status, http.client.responses.get(status, "")

    def _skip_head(self) -> None:
        while self.fp.readline(_LINE).strip():
            pass

    def _limit(self) -> None:
        seconds = self._socket.gettimeout()
        self._wire.deadline = None if seconds is None else time.monotonic() + seconds

    def begin(self) -> None:
        is_early = self._final is not None
        self._limit()
        if not self._begin():
            raise http.client.HTTPException("the head of the answer is not sound")
        self._wire.deadline = None
        self._socket.settimeout(self.read_timeout)
        if is_early:  # the server may still wait for the body
            self.will_close = True
        if self.length is not None:
            self._wire.let_through()

    def _begin(self) -> bool:
        """Read the head; return whether it is sound, for urllib3 logs all of what is not."""
        parsing = lazy.load("urllib3.util.response", install=INSTALL)
        errors = lazy.load("urllib3.exceptions", install=INSTALL)
        try:
            super().begin()
            parsing.assert_header_parsing(self.headers)
        except ConnectionError:
            raise
        except (http.client.HTTPException, errors.HeaderParsingError):
            is_sound = False
        else:
            is_sound = True
        # http.client takes the end of a connection for that of a head.
        if self._wire.has_ended and isinstance(self.status, int):
            raise _broken_off()
        if not is_sound:
            return False
        framings = [
            text.strip(" \t").lower() for text in self.headers.get_all("Transfer-Encoding", [])
        ]
        if len(framings) > 1 or (framings == ["chunked"] and not self.chunked):
            return False
        stated = set(self.headers.get_all("Content-Length", []))
        # urllib3 would find this out too late to close the connection.
        return len(stated) <= 1 and None not in map(whole_number, map(str.strip, stated))

    def hurry(self, seconds: float) -> None:
        """Let the next wait for a byte take no longer."""
        self._socket.settimeout(seconds)

    def read(self, amt: int | None = None) -> bytes:
        # A chunk of one byte has five bytes of framing.
        self._wire.allowance = MIB + 16 * (self.length or MIB if amt is None else amt)
        if amt is None or self.chunked or not self.length or self.length > amt:
            return super().read(amt)
        start = super().read(self.length - 1)
        if self.length == 1 and self._goes_on():
            raise IntegrityError("the server sends more bytes than it stated")
        return start + super().read(1)

    def _goes_on(self) -> bool:
        """Tell whether bytes beyond the last one have arrived."""
        ahead = len(self.fp.peek(2)) if self.fp is not None else 0
        if ahead != 1 or type(self._socket) is not socket.socket:
            return ahead > 1
        try:
            self._socket.settimeout(0)
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:  # nothing is there, or it was reset after the last byte: that harms nobody
            return False
        finally:
            with contextlib.suppress(OSError):
                self._socket.settimeout(self.read_timeout)

    def _get_chunk_left(self) -> int | None:
        if self.chunk_left == 0:
            if self._safe_read(2) != b"\r\n":  # type: ignore[attr-defined]
                raise self._unsound("a chunk is longer than it says")
            self.chunk_left = None
        left: int | None = super()._get_chunk_left()  # type: ignore[misc]
        return left

    def _read_next_chunk_size(self) -> int:
        line = self.fp.readline(_LINE)
        match = _CHUNK.fullmatch(line)
        if match is not None:
            return int(match[1], 16)
        if len(line) < _LINE and not line.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")
        raise self._unsound("a chunk does not say how long it is")

    def _unsound(self, reason: str) -> Exception:
        self._close_conn()  # type: ignore[attr-defined]
        return http.client.HTTPException(reason)


def _broken_off() -> Exception:
    return ConnectionResetError(errno.ECONNRESET, "it ended in the head of an answer")


def is_interim(status: int) -> bool:
    """Tell whether another answer follows (RFC 9110 15.2); after 101 follows no HTTP."""
    return 100 <= status < 200 and status != HTTPStatus.SWITCHING_PROTOCOLS
