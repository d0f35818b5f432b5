"""Coverage-guided fuzzing of HTTP heads and bodies, by atheris; not part of the suite.

    pip install atheris
    python tests/fuzz/http_requests.py -max_total_time=600 corpus/

Arguments are libFuzzer's; what crashes is written to a file, which as the only argument is run
again. Each input is what one client sends: everything but an answer, a close or a wait for more is
a finding, and so is a 5xx, as nothing here is the server's fault.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install atheris")

with atheris.instrument_imports(include=["tidegate_sidecar", "tidegate_batcher"]):
    from tidegate_contract.acknowledgement import Tensor
    from tidegate_contract.table import Arm, BatchSettings, LoadedVersion, RoutingTable, Share
    from tidegate_sidecar.core.request import Buffer
    from tidegate_sidecar.core.runtime import ModelRuntime
    from tidegate_sidecar.core.version import VersionInfo
    from tidegate_sidecar.shell import upstream
    from tidegate_sidecar.shell.connection import Connection
    from tidegate_sidecar.shell.server import DataPlane


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.protocol: asyncio.BaseProtocol | None = None
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def feed(self, data: bytes) -> None:
        """As an event loop would, whatever protocol it has at the time."""
        while data and isinstance(self.protocol, asyncio.BufferedProtocol):
            room = memoryview(self.protocol.get_buffer(-1))
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            self.protocol.buffer_updated(count)
        if data and isinstance(self.protocol, asyncio.Protocol):
            self.protocol.data_received(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        """Nothing: the client reads on."""

    def pause_reading(self) -> None:
        """Nothing: an input is short."""

    def resume_reading(self) -> None:
        """Nothing, as above."""

    def get_write_buffer_size(self) -> int:
        return 0


class Triton:
    """Refuses every batch, as the client's mistake."""

    url = "triton:8000"

    def send(self, _: Sequence[Buffer], done: upstream.Done) -> None:
        answer = upstream.Response(400, None, "application/json", b'{"error":"no"}')
        asyncio.get_running_loop().call_soon(done, answer)

    async def request(self, _: Sequence[Buffer]) -> upstream.Response:
        return upstream.Response(200, None, "application/json", b"{}")


def served() -> DataPlane:
    """A data plane with model m, which takes rows of two floats."""
    x, y = (Tensor(name=name, datatype="FP32", shape=[2]) for name in "xy")
    runtime = ModelRuntime("m", "pod", shared_memory=True)
    runtime.apply(
        RoutingTable(
            namespace="default",
            model="m",
            revision=1,
            split_revision=1,
            split=[Arm(name="stable", version=1, weight=10_000)],
            versions=[LoadedVersion(version=1)],
            baseline=[Share(version=1, weight=10_000)],
            batch=BatchSettings(max_wait=0.0),
        )
    )
    runtime.version_ready(
        VersionInfo(
            version=1, max_batch_size=8, batchable=True, instances=1, inputs=(x,), outputs=(y,)
        )
    )
    plane = DataPlane({"m": runtime}, Triton.url, shared_memory=True)
    plane.health_ready = lambda: True
    triton: Any = Triton()
    plane._triton = triton
    for model in plane._models.values():
        model._triton = triton
    return plane


def main() -> None:
    """Fuzz until told to stop."""
    loop = asyncio.new_event_loop()
    faults: list[Any] = []
    loop.set_exception_handler(lambda _, fault: faults.append(fault))
    plane = served()

    async def talk(data: bytes) -> Transport:
        transport, connection = Transport(), Connection(plane)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        transport.feed(data)
        for _ in range(20):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return transport

    def once(data: bytes) -> None:
        transport = loop.run_until_complete(talk(data))
        if faults:
            raise RuntimeError(faults)
        if b"HTTP/1.1 5" in transport.written:
            raise RuntimeError(bytes(transport.written))

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
