"""Connection: one client's HTTP connection, which is closed if the client does not go on with its request."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from server.errors import RETRY_AFTER_SECONDS, RefusedRequest
from server.interruption import interrupt
from server.request_log import HEADER, note_unread
from server.schemas import ErrorBody

CAN_PROBE = hasattr(socket, "TCP_INFO")  # on Linux
TCP_CLOSE = 7  # of include/net/tcp_states.h: the connection is reset
FIRST_PROBE_SECONDS, LAST_PROBE_SECONDS = 0.02, 1.0
EMPTY_LINES = re.compile(rb"(\r?\n)*")
LONGEST_HEADER = 65_536  # bytes of a request line and the header behind it
FAREWELL_PROBE_SECONDS = 0.1  # for a reset to come from a client that has gone in the midst of its body


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds that a server waits for a client: for a request's `header` from the connection's beginning or the
    request's first byte, for the `body` behind it (and for the client to take what is sent), and, `idle`, for another
    request."""

    header: float = 15.0
    body: float = 30.0
    idle: float = 75.0  # proxies keep connections for 60 s, mostly


PATIENCE = Patience()


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()  # another request
    HEADER = auto()  # the rest of a request's header
    BODY = auto()  # the rest of a request's body
    ANSWER = auto()  # the application


class Requests(h11.Connection):
    """h11's reader of requests, which passes over empty lines before a request (RFC 9112, 2.2), and also refuses a
    header that is too long where it comes in one piece."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=LONGEST_HEADER)

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.IDLE:
            received = self.trailing_data[0]
            if received.startswith((b"\r", b"\n")):
                empty = EMPTY_LINES.match(received)
                assert empty is not None
                self._receive_buffer.maybe_extract_at_most(empty.end())
                if received[empty.end() :] == b"\r":  # of another one, whose end is on its way
                    return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Request):
            line = len(event.method) + len(event.target) + len(b"  HTTP/1.1\r\n")
            length = line + sum(len(name) + len(value) + len(b": \r\n") for name, value in event.headers) + len(b"\r\n")
            if length > LONGEST_HEADER:
                raise h11.RemoteProtocolError("header too long", error_status_hint=431)
        return event


class Connection(H11Protocol):
    """uvicorn's protocol, with an end to waiting for the client.

    A client that is too slow is told so (408) where part of a request is there, and closed without a word where none
    is. A client that closes its writing half behind a whole request gets its answer; one that closes the connection is
    told from it as `eof_received` says, and its request is cancelled.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        patience: Patience,
        admits: Callable[[Connection], bool],
        headers_unseen: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """`admits` says whether there is room for it, when it begins.

        `headers_unseen` are those of an answer to what is no request, or not yet: the application answers all others.
        """
        super().__init__(config, server_state, app_state)
        self.conn = Requests()
        self._admits = admits
        self._headers_unseen = headers_unseen
        self.waiting_since: float | None = None  # the loop's time since which it waits for the client, if it does
        self._patience = patience
        self._phase = Phase.ANSWER
        self._clocked: object = None  # the request that the phase belongs to
        self._half_closed = False
        self._served = False
        self._impatience: asyncio.TimerHandle | None = None  # ends the wait for the client's next bytes
        self._stalled: asyncio.TimerHandle | None = None  # ends the wait for the client to take what is sent
        self._probing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that writing is paused for as long as anything is not taken
        self._enter(self._current_phase())
        if not self._admits(self):
            self._refuse(503, "unavailable", "too many connections are open; come back later")

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state in (h11.MUST_CLOSE, h11.ERROR):
            return  # there is no request behind the last one, which keeps its answer
        super().data_received(data)
        self._enter(self._current_phase())

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._served = True
        self._unset_keepalive_if_required()  # `_impatience` is the only clock
        self._enter(self._current_phase())
        if self._half_closed and self._phase is not Phase.ANSWER:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client does not take what is sent: it is given up unless it does in time, also where it is closed."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self._patience.body, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._trust_to_read()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's always closes
        """Whether the connection stays open for the answer: the client has sent a request, or part of one, then FIN.

        FIN comes from a client that closed its writing half, and from one that has gone. An urgent byte tells them
        apart: it stands outside the stream, so that the former does not see it, and the latter's system answers it
        with a reset, at once or when the client closes.
        """
        if self._half_closed:  # it is told again when reading goes on
            return True
        if self._phase is Phase.HEADER and self.conn.trailing_data[0]:
            self._refuse(400, "malformed_request", "the header ends early")
            return True
        unanswered = self.cycle is not None and not self.cycle.response_complete
        if not unanswered or (not CAN_PROBE and self._phase is Phase.ANSWER):
            return False
        if CAN_PROBE and not self._send_urgent_byte():
            return False
        self._half_closed = True
        if CAN_PROBE:
            self._probe(FIRST_PROBE_SECONDS)
        if self._phase is Phase.BODY:
            refusal = (400, "incomplete_body", "the body ends early: the connection was closed before it was whole")
            self.loop.call_later(FAREWELL_PROBE_SECONDS, self._refuse, *refusal)
        return True

    def _send_urgent_byte(self) -> bool:
        """Whether the connection still lives, as far as this system knows."""
        try:
            with self.transport.get_extra_info("socket").dup() as client:
                client.send(b"\0", socket.MSG_OOB)
        except BlockingIOError:
            pass  # what is on its way to the client does as well
        except OSError:
            return False
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._enter(Phase.ANSWER)
        self._trust_to_read()
        if self._probing is not None:
            self._probing.cancel()
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """Says nothing: clients offer HTTP/2 with every request, and go on without it."""

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls it while it handles h11's error, which knows more than `msg`."""
        del msg
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status == 431:
            in_body = self.cycle is not None and not self.cycle.response_complete
            what = (
                "a line between the body's chunks, or the trailer, has"
                if in_body
                else "the request line and the header have"
            )
            self._refuse(431, "header_too_long", f"{what} more than {LONGEST_HEADER} bytes")
        elif status == 501:
            self._refuse(
                501, "wrong_transfer_encoding", "the only Transfer-Encoding that is read is chunked, by itself"
            )
        else:
            self._refuse(400, "malformed_request", "this is not a request of HTTP/1.1")

    def shed(self) -> None:
        """Ends it at once: another connection needs its place."""
        self.waiting_since = None  # it is on its way
        self.transport.abort()

    def _current_phase(self) -> Phase:
        if self.conn.their_state is h11.SEND_BODY:
            return Phase.BODY
        if self.conn.their_state is not h11.IDLE:
            return Phase.ANSWER
        return Phase.IDLE if self._served and not self.conn.trailing_data[0] else Phase.HEADER

    def _enter(self, phase: Phase) -> None:
        """Starts the clock of a phase, unless it runs already for this request."""
        if phase is self._phase and self.cycle is self._clocked:
            return
        self._phase, self._clocked = phase, self.cycle
        if self._impatience is not None:
            self._impatience.cancel()
        if phase is Phase.ANSWER:
            self.waiting_since = None
            return
        seconds = {
            Phase.IDLE: self._patience.idle,
            Phase.HEADER: self._patience.header,
            Phase.BODY: self._patience.body,
        }
        self.waiting_since = self.loop.time()
        self._impatience = self.loop.call_later(seconds[phase], self._give_up, seconds[phase])

    def _give_up(self, seconds: float) -> None:
        """The client was too slow."""
        if self._phase is Phase.BODY:
            self._refuse(408, "request_timeout", f"the body did not come within {seconds:g} s")
        elif self.conn.trailing_data[0]:
            self._refuse(408, "request_timeout", f"the header did not come within {seconds:g} s")
        else:
            self.transport.close()

    def _refuse(self, status: int, kind: str, message: str) -> None:
        """Ends the connection with an error: the application's answer to the request under way, or one without it.

        A request that is answered, or nearly, keeps its answer.
        """
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            interrupt(self.cycle.scope, RefusedRequest(status, kind, message, headers={"Connection": "close"}))
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
            self._enter(Phase.ANSWER)  # the first error stands
        else:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self._answer_unread(status, ErrorBody.of(kind, message))
            self.transport.close()

    def _answer_unread(self, status: int, error: ErrorBody) -> None:
        """Answers what is no request, or not yet."""
        body = error.json_bytes()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            (HEADER.lower().encode(), note_unread(status, error.error.type).encode()),
            *([(b"retry-after", str(RETRY_AFTER_SECONDS).encode())] if status == 503 else []),
            *self._headers_unseen,
        ]
        answer = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
        for part in (answer, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(part) or b"")

    def _trust_to_read(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _probe(self, seconds: float) -> None:
        """Ends the connection once the client's system has reset it, which nothing else would notice."""
        if self.transport.is_closing():
            return
        state = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == TCP_CLOSE:
            self.transport.abort()
        else:
            self._probing = self.loop.call_later(seconds, self._probe, min(2 * seconds, LAST_PROBE_SECONDS))
