"""COPY on an asynchronous connection, which psycopg2 refuses and libpq has always had.

Taking a batch by COPY costs PostgreSQL about half of what the best INSERT costs it, and the sender has
nothing to quote. *Measured*, batches of 2,000 lines of 450 bytes, processor time a row: backend 2.9–4.4 µs
against 6.6–8.1, sender 0.25–0.5 µs against 1.1–1.2.

psycopg2 hands out libpq's connection (`pgconn_ptr`, documented for use by ctypes), and libpq's own
asynchronous interface does the rest (PostgreSQL's manual, "Asynchronous Command Processing" and "Functions
Associated with the COPY Command"):

- A statement string is one transaction, also with a COPY in it: what stands before the COPY takes effect
  together with the rows, or not at all. Its answer is here before the first row is sent, so we can still
  say no: a COPY that the client ends with an error undoes the whole string.
- libpq's functions are found through psycopg2's extension module. Another copy of libpq, if the machine has
  one, would not know this connection.
- While we talk to libpq nobody else may: aiopg would read our answers. Its reader in the event loop is
  replaced by ours and put back at the end.
- Whoever closes the connection frees what `pgconn_ptr` points to. So nothing of libpq is called after a wait
  before the connection was seen to be open.
- Data is handed over in slices. After each send libpq moves what the kernel did not take to the front of
  its buffer, which for megabytes at once costs more than sending them.

`conversation` decides what comes next and does not wait; `copy_in` waits with the event loop.

Must not know: what is copied.
"""

import asyncio
import ctypes
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import aiopg
from psycopg2 import _psycopg

SLICE_BYTES: Final = 128 << 10
# How long after somebody has closed the connection a COPY that waits on it notices.
LOOK_EVERY_S: Final = 0.25


class Wanted(Enum):
    """What a conversation waits for."""

    READ = "read"
    WRITE = "write, or read"


class CopyLost(Exception):
    """The connection is gone, or must go; whether the statement took effect is unknown."""


class CopyRefused(Exception):
    """PostgreSQL refused the statement string; nothing of it took effect and the connection is fine."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


@dataclass(slots=True)
class _Results:
    """What the statements of one string have answered."""

    value: str | None = None
    error: CopyRefused | None = None
    asked_for_data: bool = False


Conversation = Generator[Wanted, None, str | None]


def conversation(pgconn: int, statement: bytes, data: bytes) -> Conversation:
    """Run "condition; COPY … FROM STDIN; more" as one transaction; a generator that yields what to wait for.

    The condition is a statement that returns a row. Returns that row's first value, as text; without a row
    nothing is copied, nothing of the string takes effect, and None is returned. What statements behind
    the COPY answer, if there are any, is passed over. The connection must be
    idle and non-blocking. Raises CopyLost or CopyRefused.
    """
    try:
        return (yield from _converse(pgconn, statement, data))
    except CopyLost as lost:
        raise CopyLost(_last_words(pgconn) or str(lost)) from None


def _converse(pgconn: int, statement: bytes, data: bytes) -> Conversation:
    _check(pgconn, _send_query(pgconn, statement))
    yield from _flush_all(pgconn)
    results = _Results()
    while True:
        while _is_busy(pgconn):
            yield Wanted.READ
            _check(pgconn, _consume_input(pgconn))
        result = _get_result(pgconn)
        if not result:
            break
        status = _take(result, results)
        if status == _COPY_IN and not results.asked_for_data:
            results.asked_for_data = True
            no_row = results.value is None
            yield from _put_all(pgconn, b"" if no_row else data, _NO_ROW if no_row else None)
        elif status in _COPIES:
            # Not what we are made for, and there is no way on from here.
            raise CopyLost("the statement string asks for another COPY")
    if results.error is not None:
        if results.asked_for_data and results.value is None and _is_open(pgconn):
            # Our own no.
            return None
        # The server says so when it ends a session; the connection is of no use then.
        if results.error.sqlstate in ("", *_SESSION_ENDS) or not _is_open(pgconn):
            raise CopyLost(str(results.error))
        raise results.error
    return results.value


def _last_words(pgconn: int) -> str | None:
    """What PostgreSQL said of the end, where libpq has received it and only tells that there was one.

    While we send data libpq reads no answer (*measured*: "server closed the connection unexpectedly", and
    in its memory lay "terminating connection due to administrator command").
    """
    if _is_open(pgconn):
        # To ask for an answer might mean to wait for it.
        return None
    # Nothing is sent any more; it has libpq read answers again.
    _put_copy_end(pgconn, None)
    results = _Results()
    while results.error is None and (result := _get_result(pgconn)):
        if _take(result, results) in _COPIES:
            return None
    return str(results.error) if results.error is not None and results.error.sqlstate else None


async def copy_in(
    connection: aiopg.Connection, statement: bytes, data: bytes, *, timeout_s: float
) -> str | None:
    """`conversation` on an idle connection of aiopg.

    Raises CopyLost or CopyRefused. Whatever else ends it (the time, a cancellation) closes the connection,
    as it does for any statement of aiopg.
    """
    if connection.closed:
        raise CopyLost("the connection is closed")
    # aiopg keeps these to itself; there is no public way to lend the descriptor to somebody else.
    descriptor, aiopg_reader = connection.raw.fileno(), connection._ready
    loop = asyncio.get_running_loop()
    steps = conversation(connection.raw.pgconn_ptr, statement, data)
    waiter = _Waiter(loop)
    loop.add_reader(descriptor, waiter.wake)
    try:
        async with asyncio.timeout(timeout_s):
            return await _drive(connection, steps, waiter, descriptor)
    except CopyRefused:
        raise
    except TimeoutError:
        connection.close()
        raise CopyLost(f"no answer within {timeout_s:g} s") from None
    except BaseException:
        connection.close()
        raise
    finally:
        if not connection.closed:
            loop.add_reader(descriptor, aiopg_reader, connection._weakref)


class _Waiter:
    """Woken by the event loop when the descriptor is ready, and now and then by the clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        self._future = self._loop.create_future()
        timer = self._loop.call_later(LOOK_EVERY_S, self.wake)
        try:
            await self._future
        finally:
            self._future = None
            timer.cancel()


async def _drive(
    connection: aiopg.Connection, steps: Conversation, waiter: _Waiter, descriptor: int
) -> str | None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            try:
                wanted = next(steps)
            except StopIteration as end:
                value: str | None = end.value
                return value
            # Told to aiopg, so that whoever closes the connection takes our writer out of the loop, too:
            # one that stays behind fails whoever gets the descriptor's number next.
            if (wanted is Wanted.WRITE) is not connection._writing:
                connection._writing = not connection._writing
                if connection._writing:
                    loop.add_writer(descriptor, waiter.wake)
                else:
                    loop.remove_writer(descriptor)
            await waiter.wait()
            if connection.closed:
                raise CopyLost("the connection was closed")
    finally:
        # A closed one has left the loop already, and its number may be somebody else's by now.
        if connection._writing and not connection.closed:
            connection._writing = False
            loop.remove_writer(descriptor)


# -- libpq -----------------------------------------------------------------------------------------

_COPY_OUT, _COPY_IN, _COPY_BOTH = 3, 4, 8
_COPIES = (_COPY_OUT, _COPY_IN, _COPY_BOTH)
_TUPLES_OK = 2
_BAD_RESPONSE, _FATAL_ERROR = 5, 7
_CONNECTION_OK = 0
_NO_ROW = b"the condition returned no row"
_FIELD_SQLSTATE, _FIELD_MESSAGE = ord("C"), ord("M")
# admin_shutdown, crash_shutdown, cannot_connect_now, database_dropped, idle_session_timeout.
_SESSION_ENDS = ("57P01", "57P02", "57P03", "57P04", "57P05")


def _put_all(pgconn: int, data: bytes, no: bytes | None) -> Generator[Wanted, None, None]:
    # libpq copies each slice into its buffer; `data` stays where it is as long as this frame holds it.
    address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
    for start in range(0, len(data), SLICE_BYTES):
        size = min(SLICE_BYTES, len(data) - start)
        while not _check(pgconn, _put_copy_data(pgconn, address + start, size), least=0):
            yield from _flush_all(pgconn)
        yield from _flush_all(pgconn)
    while not _check(pgconn, _put_copy_end(pgconn, no), least=0):
        yield from _flush_all(pgconn)
    yield from _flush_all(pgconn)


def _flush_all(pgconn: int) -> Generator[Wanted, None, None]:
    while _check(pgconn, _flush(pgconn), least=0):
        yield Wanted.WRITE
        # What the server says meanwhile must be read, or both sides wait for the other to read.
        _check(pgconn, _consume_input(pgconn))


def _take(result: int, results: _Results) -> int:
    """Keep what this result says, free it, and tell its kind."""
    status: int = _result_status(result)
    condition = status == _TUPLES_OK and not results.asked_for_data
    if condition and _rows(result) and _columns(result):
        value = _get_value(result, _rows(result) - 1, 0)
        results.value = value.decode()
    elif status in (_BAD_RESPONSE, _FATAL_ERROR) and results.error is None:
        message = _error_field(result, _FIELD_MESSAGE) or _result_message(result)
        sqlstate = _error_field(result, _FIELD_SQLSTATE) or b""
        results.error = CopyRefused(_text(message), sqlstate.decode())
    _clear(result)
    return status


def _check(pgconn: int, answer: int, *, least: int = 1) -> int:
    if answer < least:
        raise CopyLost(_text(_error_message(pgconn)))
    return answer


def _is_open(pgconn: int) -> bool:
    return bool(_connection_status(pgconn) == _CONNECTION_OK)


def _text(message: bytes | None) -> str:
    lines = (message or b"").decode(errors="replace").strip().splitlines()
    return lines[0] if lines else "the connection failed"


# The interpreter's lock is kept: none of these calls waits.
_libpq = ctypes.PyDLL(_psycopg.__file__)


def _function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    function = getattr(_libpq, name)
    function.restype, function.argtypes = result, arguments
    return function  # type: ignore[no-any-return]


_pointer, _int, _bytes = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_send_query = _function("PQsendQuery", _int, _pointer, _bytes)
_flush = _function("PQflush", _int, _pointer)
_consume_input = _function("PQconsumeInput", _int, _pointer)
_is_busy = _function("PQisBusy", _int, _pointer)
_get_result = _function("PQgetResult", _pointer, _pointer)
_connection_status = _function("PQstatus", _int, _pointer)
_error_message = _function("PQerrorMessage", _bytes, _pointer)
_result_status = _function("PQresultStatus", _int, _pointer)
_result_message = _function("PQresultErrorMessage", _bytes, _pointer)
_error_field = _function("PQresultErrorField", _bytes, _pointer, _int)
_rows = _function("PQntuples", _int, _pointer)
_columns = _function("PQnfields", _int, _pointer)
_get_value = _function("PQgetvalue", _bytes, _pointer, _int, _int)
_clear = _function("PQclear", None, _pointer)
_put_copy_data = _function("PQputCopyData", _int, _pointer, _pointer, _int)
_put_copy_end = _function("PQputCopyEnd", _int, _pointer, _bytes)
