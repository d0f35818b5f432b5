"""Instant queries to Prometheus, read as they arrive.

One answer may hold the samples of thousands of models: hundreds of MB of JSON. It is decoded in
pieces of whole rows, into the few labels that matter, and never stands in memory as a whole.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
import requests
import urllib3
from prometheus_api_client import PrometheusConnect
from urllib3.util.retry import Retry

SILENCE: Final = 5.0
WHOLE: Final = 20.0
_CHUNK: Final = 1 << 18
_PIECE: Final = 1 << 20
_ROW, _NEXT_ROW = b'{"metric"', b'},{"metric"'
"""Inside of a string the quotation mark would have a backslash before it: no label looks so."""
_OK: Final = 200
_THREADS: Final = 4
_LONG: Final = 2048
"""Characters of a query from which on it goes in the body: as an address, servers refuse it."""

Kind = Literal["matrix", "vector", "scalar", "string"]
T = TypeVar("T")


class PrometheusError(Exception):
    """There is no answer, or not a whole one; the message is for people, always the same for the
    same trouble.
    """


class QueryRefusedError(PrometheusError):
    """Prometheus answers that the query itself is at fault."""


class Labels(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The labels that anything here is told apart by; ``name`` is the metric's."""

    name: str = ""
    namespace: str = ""
    pod: str = ""
    model: str = ""
    version: str = ""
    arm: str = ""
    check: str = ""
    priority: str = ""
    bucket: str = ""
    metric: str = ""
    outcome: str = ""
    le: str = ""
    quantile: str = ""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One series of an answer: ``values`` of a matrix, ``value`` of a vector, in JSON."""

    metric: Labels
    values: msgspec.Raw = msgspec.Raw(b"[]")
    value: msgspec.Raw = msgspec.Raw(b"[]")


class _Data(msgspec.Struct, rename="camel"):
    result_type: Kind
    result: msgspec.Raw


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str = ""
    warnings: list[str] = []


class Prometheus:
    """One Prometheus. Everything here blocks: call it by ``in_thread``.

    ``url`` may have parameters of its own, as proxies ask for. ``namespace_label``, ``pod_label``:
    what the scrape calls the target's namespace and pod. ``silence``: seconds without a byte after
    which an answer is given up; ``whole``: that all of it may take.
    """

    def __init__(
        self,
        url: str,
        *,
        namespace_label: str = "namespace",
        pod_label: str = "pod",
        silence: float = SILENCE,
        whole: float = WHOLE,
    ) -> None:
        self._silence, self._whole = silence, whole
        self._session = requests.Session()
        pool = requests.adapters.HTTPAdapter(pool_maxsize=_THREADS)
        self._session.mount("http://", pool)
        self._session.mount("https://", pool)
        connection = PrometheusConnect(
            url=url.rstrip("/"),
            retry=Retry(total=0, read=False),
            timeout=silence,
            session=self._session,
        )
        base = urlsplit(connection.url)
        self._url = base._replace(path=f"{base.path.rstrip('/')}/api/v1/query").geturl()
        spelled = {"name": "__name__", "namespace": namespace_label, "pod": pod_label}
        labels = msgspec.defstruct(
            "ConfiguredLabels",
            [(name, str, "") for name in Labels.__struct_fields__],
            rename=spelled,
            frozen=True,
            gc=False,
        )
        row = msgspec.defstruct(
            "ConfiguredRow",
            [
                ("metric", labels),
                ("values", msgspec.Raw, msgspec.Raw(b"[]")),
                ("value", msgspec.Raw, msgspec.Raw(b"[]")),
            ],
            frozen=True,
            gc=False,
        )
        self._rows: msgspec.json.Decoder[list[Row]] = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]

    def rows(
        self, query: str, kind: Kind, at: float | None = None, *, silence: float | None = None
    ) -> Iterator[list[Row]]:
        """The rows of an answer, in pieces. What came before an error is no answer. ``silence``:
        seconds, where another than the usual one is to be suffered.

        Raises:
            PrometheusError: no answer, or not a whole one.
        """
        pieces = _Pieces()
        for chunk in self._read(query, at, silence or self._silence):
            if piece := pieces.add(chunk):
                yield self._decoded(piece)
        found = _answer(pieces.rest())
        if found.result_type != kind:
            raise PrometheusError(f"answered with a {found.result_type}, not with a {kind}")
        yield self._decoded(bytes(found.result))

    def result(self, query: str) -> tuple[Kind, bytes]:
        """The kind of a small answer, and its result in JSON.

        Raises:
            PrometheusError: no answer, or not a whole one. QueryRefusedError: a wrong query.
        """
        found = _answer(b"".join(self._read(query, None, self._silence)))
        return found.result_type, bytes(found.result)

    def _decoded(self, rows: bytes) -> list[Row]:
        try:
            return self._rows.decode(rows)
        except msgspec.DecodeError as error:
            raise PrometheusError(f"unexpected answer: {error}") from error

    def _read(self, query: str, at: float | None, silence: float) -> Iterator[bytes]:
        """The body in chunks. It is not asked for compressed: that costs Prometheus more than
        sending it.
        """
        parameters = {"query": query, **({} if at is None else {"time": f"{at:.3f}"})}
        long = len(query) > _LONG
        end = time.monotonic() + self._whole
        try:
            with self._session.request(
                "POST" if long else "GET",
                self._url,
                params=None if long else parameters,
                data=parameters if long else None,
                headers={"Accept-Encoding": "identity"},
                stream=True,
                timeout=silence,
            ) as response:
                if response.status_code != _OK:
                    raise _refusal(response.status_code, response.content)
                while chunk := response.raw.read1(_CHUNK, decode_content=True):
                    yield chunk
                    if time.monotonic() > end:
                        raise PrometheusError(f"no whole answer within {self._whole:g}s")
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise PrometheusError(f"no answer within {silence:g}s") from error
        except urllib3.exceptions.ProtocolError as error:
            raise PrometheusError("the connection broke in the middle of an answer") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise PrometheusError(f"{type(error).__name__}: {_cause(error)}") from error


async def in_thread(read: Callable[[], T]) -> T:
    """What a function that blocks returns, or raises. Nothing waits for its thread, so that the
    operator can end while a server does not answer.
    """
    loop = asyncio.get_running_loop()
    found: asyncio.Future[T] = loop.create_future()

    def tell(set_it: Callable[[], None]) -> None:
        if not found.done():
            set_it()

    def work() -> None:
        try:
            told = partial(found.set_result, read())
        except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
            told = partial(found.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, told)

    threading.Thread(target=work, name="prometheus", daemon=True).start()
    return await found


class _Pieces:
    """Cuts a body between rows. What is kept back is at every time a document with the same
    envelope and fewer rows, if the whole is one.
    """

    def __init__(self) -> None:
        self._kept = bytearray()
        self._searched = 0

    def add(self, chunk: bytes) -> bytes:
        """Take a chunk in; gives whole rows as a JSON array once there are enough."""
        self._kept += chunk
        if len(self._kept) < _PIECE:
            return b""
        first, last = self._kept.find(_ROW), self._kept.rfind(_NEXT_ROW)
        if not 0 <= first < last:
            return b""
        piece = b"[" + bytes(self._kept[first : last + 1]) + b"]"
        del self._kept[first : last + 2]
        return piece

    def rest(self) -> bytes:
        """The envelope with the last rows."""
        return bytes(self._kept)


def _answer(body: bytes) -> _Data:
    try:
        found = msgspec.json.decode(body, type=_Answer)
    except msgspec.ValidationError as error:
        raise PrometheusError(f"unexpected answer: {error}") from error
    except msgspec.DecodeError as error:
        raise PrometheusError("what answers there is no Prometheus: not JSON") from error
    if found.status != "success" or found.data is None:
        raise PrometheusError(f"unexpected answer: {found.error[:200] or found.status}")
    if found.warnings:
        raise PrometheusError(f"a partial answer: {'; '.join(found.warnings)[:200]}")
    return found.data


def _refusal(status: int, body: bytes) -> PrometheusError:
    try:
        words = msgspec.json.decode(body, type=_Answer).error
    except msgspec.DecodeError:
        words = ""
    message = f"HTTP status {status}: {words or body[:100].decode(errors='replace').strip()}"
    kind = QueryRefusedError if words and status in {400, 422} else PrometheusError
    return kind(message[:300])


def _cause(error: Exception) -> str:
    """The innermost words; without an object's address, so that they stay the same."""
    text = str(error)
    return text.rsplit("]", 1)[-1].strip(" :)'\"") or text[:200]
