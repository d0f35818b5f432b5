"""Batches as Triton gets them, and its answers as those who wait for them get them.

A batch is a few requests laid end to end; or some rows of one, whose other rows go by themselves;
or one that names shared memory, as it is;
and a member of it may stand for several equal requests. So an answer may be for one caller, for
several, or for nobody yet.
"""

from collections.abc import Iterator
from http import HTTPStatus
from itertools import accumulate
from typing import Final

import msgspec

from tidegate_sidecar.core.batcher import Batch
from tidegate_sidecar.core.compare import Tensors
from tidegate_sidecar.core.dedup import Carrier, Deduplicator, outputs
from tidegate_sidecar.core.exchange import (
    Answer,
    BadReplyError,
    Part,
    Place,
    Rows,
    Splitter,
    read_reply,
    request_json,
)
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal, lost, malformed
from tidegate_sidecar.core.request import Buffer, octets
from tidegate_sidecar.core.slices import Slices

Result = Answer | Refusal

_BEYOND: Final = 600
"""HTTP's statuses are below."""
_TOO_SMALL: Final = "shared memory size specified with the request for output"
"""Begins what Triton answers 500 where a client's own region has no room for an output."""


class Delivery:
    """One model's batches on their way there and back."""

    def __init__(self, model: str, deduplicator: Deduplicator) -> None:
        self._model = model.encode()
        self._deduplicator = deduplicator

    def sizes(self, batch: Batch) -> tuple[int, dict[str, int]]:
        """What of a batch may lie in shared memory: bytes of all inputs, and of each output.

        0 and none where that is not known before, or where Triton may run it only once: it is sent
        again where Triton does not know the memory.
        """
        first = batch.members[0]
        group = first.plan.group
        if not group.batched or group.alone or first.decoded.passed:
            return 0, {}
        given = (first.plan.size or 0) // first.rows * batch.rows
        told = batch.served.told
        names = self._asked(batch)
        if group.classified or not told.keys() >= set(names):
            return given, {}
        return given, {name: told[name] * batch.rows for name in names}

    def encode(self, batch: Batch, place: Place | None = None) -> tuple[bytes, list[Buffer]]:
        """Write a batch for Triton: JSON, and the tensors, for their place or to follow it."""
        members = batch.members
        if passed := members[0].decoded.passed:
            return passed, members[0].buffers
        group = members[0].plan.group
        inputs = range(len(group.inputs))
        if batch.sliced:
            buffers = _cut(batch)
            sizes = tuple(map(len, buffers))
        else:
            buffers = [pending.buffers[i] for i in inputs for pending in members]
            sizes = tuple(sum(len(one.buffers[i]) for one in members) for i in inputs)
        for one in members if self._deduplicator.waiting else ():
            if isinstance(one, Carrier):
                self._deduplicator.sent(one)
        batch.place = place
        return request_json(group, batch.rows, self._asked(batch), sizes, place), buffers

    def _asked(self, batch: Batch) -> tuple[str, ...]:
        """The outputs that any member wants."""
        names: set[str] = set()
        for calls in {pending.plan.call.outputs for pending in batch.members}:
            names.update(one.name for one in calls)
        for one in batch.members if self._deduplicator.waiting else ():
            if isinstance(one, Carrier):
                names |= one.outputs
        return tuple(sorted(names))

    def complete(
        self, batch: Batch, status: int, json_length: int | None, body: Buffer
    ) -> list[Result | None]:
        """Read Triton's answer to a batch: one result for each member, in their order.

        None: other rows of the member are missing, or were answered with an error before.
        """
        if status != HTTPStatus.OK:
            return self.fail(batch, error(status, body))
        if batch.members[0].decoded.passed:
            data = [] if json_length is None else [memoryview(body)[json_length:]]
            return [Answer(octets(body, json_length), data, binary=json_length is not None)]
        try:
            splitter = self.splitter(batch, json_length, body)
            if batch.sliced:
                return [self._add(batch, splitter)]
            results = splitter.split([part(one) for one in batch.members])
            for one, row in _rows(batch) if self._deduplicator.waiting else ():
                if isinstance(one, Carrier):
                    one.answered = splitter.rows(row, one.rows, one.outputs)
        except BadReplyError as bad:
            return self.fail(batch, Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(bad)))
        return list(results)

    def fail(self, batch: Batch, refusal: Refusal) -> list[Result | None]:
        """What the members get where there is no answer, as by ``complete``."""
        if batch.sliced:
            (pending,) = batch.members
            if batch.slices and pending.slices is not batch.slices:
                return [None]
            pending.slices = None
        return [refusal] * len(batch.members)

    def tensors(
        self, batch: Batch, json_length: int | None, body: Buffer
    ) -> list[Tensors | Refusal]:
        """Read Triton's answer to a batch: what each member asked for, in their order."""
        try:
            splitter = self.splitter(batch, json_length, body)
            return [splitter.tensors(part(one), row) for one, row in _rows(batch)]
        except BadReplyError as bad:
            refusal = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(bad))
            return [refusal] * len(batch.members)

    def splitter(self, batch: Batch, json_length: int | None, body: Buffer) -> Splitter:
        """Read the JSON of an answer.

        Raises:
            BadReplyError: it is not understood.
        """
        cut = len(body) if json_length is None else json_length
        label = b'"model_name":"%b","model_version":"%d"' % (self._model, batch.version)
        reply = read_reply(octets(body, cut), batch.place)
        return Splitter(label, reply, memoryview(body)[cut:], batch.rows)

    def _add(self, batch: Batch, splitter: Splitter) -> Result | None:
        """Take in what was answered to some rows.

        Raises:
            BadReplyError: it does not fit the other rows'.
        """
        (pending,) = batch.members
        slices = pending.slices
        if slices is None or slices is not batch.slices:
            return None
        names = pending.outputs if isinstance(pending, Carrier) else outputs(pending)
        whole = slices.add(batch.begin, batch.rows, splitter.rows(0, batch.rows, names))
        if whole is None:
            if isinstance(pending, Carrier) or not pending.cancelled:
                return None
            whole = Rows(splitter.label, {})  # the other rows do not come, and nobody reads it
        pending.slices = None
        if isinstance(pending, Carrier):
            pending.answered = whole
        return whole.answer(part(pending))


def _cut(batch: Batch) -> list[Buffer]:
    """Some rows of a batch's only member."""
    (pending,) = batch.members
    if pending.slices is None:
        pending.slices = Slices(pending.plan.group, pending.rows, pending.buffers)
    batch.slices = pending.slices
    return pending.slices.cut(batch.begin, batch.rows)


def requests(batch: Batch) -> list[Pending]:
    """Whose requests go in a batch: in the place of a carrier those for whom it stands now."""
    found: list[Pending] = []
    for one in batch.members:
        if isinstance(one, Carrier):
            found += one.waiters
        else:
            found.append(one)
    return found


def part(pending: Pending) -> Part:
    """What splitting must know of a member; nothing is written for one that stands for others."""
    if isinstance(pending, Carrier):
        return Part(pending.rows, (), b"")
    return Part(pending.rows, pending.plan.call.outputs, pending.decoded.id)


def error(status: int, body: Buffer) -> Refusal:
    """Triton's error as its callers get it."""
    try:
        message = msgspec.json.decode(body, type=dict[str, str])["error"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        message = f"the model server answered {status}"
    if status == HTTPStatus.NOT_FOUND and "shared memory region" not in message:
        # It was ready when it was asked, so this is not the caller's mistake.
        return lost(message)
    if message.startswith(_TOO_SMALL):
        return malformed(message)
    if status < HTTPStatus.BAD_REQUEST or status >= _BEYOND:
        status = HTTPStatus.INTERNAL_SERVER_ERROR  # a client would take it for no answer, or wait
    return Refusal(status, message)


def _rows(batch: Batch) -> Iterator[tuple[Pending, int]]:
    """The members, each with the row that it begins at."""
    starts = accumulate((one.rows for one in batch.members), initial=0)
    return zip(batch.members, starts, strict=False)
