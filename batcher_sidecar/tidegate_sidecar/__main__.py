"""The sidecar's process: puts its parts together, runs them, and drains them at its end."""

import asyncio
import gc
import inspect
import logging
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn

import uvloop
from kubernetes.aio.client import ApiClient
from kubernetes.aio.config import ConfigException

from tidegate_batcher.device import Device
from tidegate_contract import names
from tidegate_contract.acknowledgement import Acknowledgement, PodReport
from tidegate_contract.table import RoutingTable
from tidegate_sidecar.core.forwarding import Forwarding
from tidegate_sidecar.core.memory import Pressure
from tidegate_sidecar.core.room import Room
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell.admin import Admin
from tidegate_sidecar.shell.config import Settings, connect, read_settings, traces
from tidegate_sidecar.shell.grpc_server import GrpcServer
from tidegate_sidecar.shell.lender import Lender
from tidegate_sidecar.shell.loading import VersionKeeper
from tidegate_sidecar.shell.memory_limit import memory_limit
from tidegate_sidecar.shell.metrics import render
from tidegate_sidecar.shell.pairs import PairsPage
from tidegate_sidecar.shell.pressure import PressureWatch
from tidegate_sidecar.shell.secret import SecretWatcher
from tidegate_sidecar.shell.server import DataPlane, Spans
from tidegate_sidecar.shell.strategies import installed
from tidegate_sidecar.shell.triton import Triton
from tidegate_sidecar.shell.watcher import TableWatcher

RESTART_PAUSE: Final = 1.0
FLUSH_SECONDS: Final = 3.0
"""Of the time to drain, at most, for spans that are not exported yet."""
_BODIES_PART: Final = 2
"""Of the memory, for requests: the rest is for answers, for copies of both and for the program."""
COMPILED: Final = not inspect.isfunction(ModelRuntime.submit)
"""Whether the hot path is extension modules, or the plain Python that they are made from."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """The parts that serve one model."""

    runtime: ModelRuntime
    watcher: TableWatcher
    keeper: VersionKeeper
    feedback_key: SecretWatcher
    pairs_token: SecretWatcher

    def acknowledge(self) -> Acknowledgement:
        """What the pod says of the model."""
        runtime = self.runtime
        to_epoch = time.time() - time.monotonic()
        return self.watcher.acknowledge(
            self.keeper.states(),
            undeclared=self.keeper.undeclared(),
            direct_at={version: at + to_epoch for version, at in runtime.direct_at.items()},
            users=runtime.users.sample(),
            live=runtime.live(time.monotonic()),
        )

    def problems(self) -> list[str]:
        """What keeps the model from being ready here."""
        name, table = self.runtime.model, self.runtime.table
        if table is None:
            return [f"{name}: there is no routing table"]
        found = []
        if not self.watcher.current:
            found.append(f"{name}: the API server has not said yet which table is current")
        if not self.keeper.alive:
            found.append(f"{name}: Triton does not answer")
        for share in table.baseline:
            if share.weight and share.version not in self.runtime.ready:
                state = self.keeper.states().get(share.version)
                reason = f": {state.error}" if state and state.error else ""
                found.append(f"{name}: version {share.version} is not ready{reason}")
        return found


class Sidecar:
    """All models of one pod."""

    def __init__(self, settings: Settings, spans: Spans | None = None) -> None:
        self._settings = settings
        self._spans = spans
        self._draining = False
        self._models: list[Model] = []
        device, strategies = Device(), installed()
        pattern = settings.forward_headers
        forwarding = None if pattern is None else Forwarding(pattern)
        self._pressure = Pressure()
        self._pressure_watch = PressureWatch(
            self._pressure, settings.triton_metrics, self._press_batches
        )
        self._runtimes = {
            model: ModelRuntime(
                model,
                settings.pod_uid,
                issuer=secrets.randbits(64),
                device=device,
                cores=settings.triton_cores or len(os.sched_getaffinity(0)),
                strategies=strategies,
                shared_memory=settings.allow_client_shm,
                forwarding=forwarding,
            )
            for model in settings.models
        }
        shared_memory = settings.allow_client_shm
        # Clients that may name regions could name ours, where their neighbours' tensors are.
        lent = 0 if shared_memory else settings.triton_shm * 2**20
        self._lender = Lender(lent, settings.triton)
        self._plane = DataPlane(
            self._runtimes,
            settings.triton,
            shared_memory=shared_memory,
            lender=self._lender,
            spans=spans,
            room=Room(memory_limit() // _BODIES_PART),
        )
        self._plane.health_ready = lambda: not self._problems()
        self._grpc = GrpcServer(
            self._plane,
            self._runtimes,
            settings.triton_grpc,
            shared_memory=shared_memory,
            forwarding=forwarding,
        )
        self._pairs = PairsPage({name: one.mirror.pairs for name, one in self._runtimes.items()})

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then drain.

        Raises:
            ConfigException: KUBECONFIG cannot be used.
            OSError: a port is taken.
        """
        settings = self._settings
        async with AsyncExitStack() as stack:
            api = await connect()
            if api:
                stack.push_async_callback(api.close)
            else:
                _log.warning("no API server is known: tables come from files alone")
            triton = await stack.enter_async_context(Triton(settings.triton))
            self._models = [self._model(one, triton, api) for one in self._runtimes.values()]
            for model in self._models:
                model.watcher.boot()
            await self._plane.start(settings.host or "", settings.port)
            await self._grpc.start(settings.host or "", settings.grpc_port)
            admin = Admin(
                problems=self._problems,
                acknowledge=self._report,
                metrics=lambda: render(self._runtimes),
                profile=self._profile,
                pairs=self._pairs.answer,
            )
            stack.push_async_callback(admin.stop)
            await admin.start(settings.host, settings.admin_port)
            loops = [asyncio.create_task(_for_ever(loop)) for loop in self._loops(triton)]
            await stop.wait()
            _log.info("draining for at most %g s", settings.drain_grace)
            self._draining = True
            grace = settings.drain_grace
            end = time.monotonic() + grace
            await asyncio.gather(self._plane.drain(grace), self._grpc.stop(grace))
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await self._lender.close(triton)
            if self._spans is not None:
                await self._spans.close(min(FLUSH_SECONDS, max(end - time.monotonic(), 0.0)))

    def _loops(self, triton: Triton) -> Iterator[Callable[[], Awaitable[None]]]:
        yield self._pressure_watch.run
        yield partial(self._lender.run, triton)
        for model in self._models:
            yield from (model.watcher.run, model.keeper.watch, model.keeper.act)
            yield from (model.feedback_key.run, model.pairs_token.run)

    def _model(self, runtime: ModelRuntime, triton: Triton, api: ApiClient | None) -> Model:
        name, settings = runtime.model, self._settings

        def changed() -> None:
            self._plane.table_changed(name)

        def apply(table: RoutingTable) -> None:
            runtime.apply(table)
            changed()
            keeper.wake()

        keeper = VersionKeeper(
            runtime,
            triton,
            repository=settings.model_repository,
            pod_uid=settings.pod_uid,
            changed=changed,
            clear_of=self._plane.clear_of,
            memory_short=lambda: self._pressure.short,
        )
        watcher = TableWatcher(
            settings.namespace,
            name,
            apply,
            api=api,
            state_directory=settings.state_directory,
            table_directory=settings.table_directory,
        )
        keys = self._feedback_key(runtime, api), self._pairs_token(runtime, api)
        return Model(runtime, watcher, keeper, *keys)

    def _feedback_key(self, runtime: ModelRuntime, api: ApiClient | None) -> SecretWatcher:
        return SecretWatcher(
            self._settings.namespace,
            names.feedback_secret_name(runtime.model),
            "key",
            take=runtime.feedback.use,
            wanted=lambda: runtime.feedback.experiment is not None,
            api=api,
            directory=self._settings.secret_directory,
        )

    def _pairs_token(self, runtime: ModelRuntime, api: ApiClient | None) -> SecretWatcher:
        mirror = runtime.mirror
        return SecretWatcher(
            self._settings.namespace,
            names.pairs_secret_name(runtime.model),
            "token",
            take=partial(self._pairs.open, runtime.model),
            wanted=lambda: mirror.on or mirror.pairs.wanted,
            api=api,
            directory=self._settings.secret_directory,
            gone=partial(self._pairs.close, runtime.model),
        )

    def _press_batches(self) -> None:
        for runtime in self._runtimes.values():
            runtime.press(self._pressure.share, self._pressure.note)

    def _problems(self) -> list[str]:
        draining = ["the pod is shutting down"] if self._draining else []
        return [*draining, *(found for model in self._models for found in model.problems())]

    def _profile(self) -> dict[str, Any]:
        now = time.monotonic()
        return {"models": {name: one.describe(now) for name, one in self._runtimes.items()}}

    def _report(self) -> PodReport:
        return PodReport(
            pod=self._settings.pod,
            pod_uid=self._settings.pod_uid,
            ready=not self._problems(),
            models={model.runtime.model: model.acknowledge() for model in self._models},
        )


async def _for_ever(run: Callable[[], Awaitable[None]]) -> NoReturn:
    """Run a control loop; a fault in one must not end the serving beside it."""
    while True:
        try:
            await run()
        except Exception:  # noqa: BLE001 - logged; what serves goes on
            _log.exception("a control loop failed; it starts again")
        await asyncio.sleep(RESTART_PAUSE)


def _spans(settings: Settings) -> Spans | None:
    """Whoever makes spans of batches, where they are wanted.

    Raises:
        SystemExit: with status 2 after one line on stderr, where a variable cannot be used.
    """
    if not traces(os.environ):
        return None
    from tidegate_sidecar.shell.tracing import exported  # noqa: PLC0415 - only where wanted

    try:
        return exported(pod=settings.pod, pod_uid=settings.pod_uid, namespace=settings.namespace)
    except ValueError as error:
        sys.stderr.write(f"tidegate-sidecar: error: a variable of OpenTelemetry: {error}\n")
        sys.exit(2)


async def _serve(settings: Settings, spans: Spans | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # What the imports left is never garbage, and a full collection of it holds the loop for 50 ms.
    gc.freeze()
    await Sidecar(settings, spans).run(stop)


def main() -> None:
    """Entry point; status 2 where a setting is wrong, 1 where a port is taken."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = read_settings(sys.argv[1:], os.environ)
    # The usual 1,024 are too few connections, and are so low only for programs that use select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _log.info("the hot path is %s", "compiled" if COMPILED else "plain Python")
    spans = _spans(settings)
    try:
        uvloop.run(_serve(settings, spans))
    except ConfigException as error:
        sys.stderr.write(f"tidegate-sidecar: error: KUBECONFIG cannot be used: {error}\n")
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"tidegate-sidecar: error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
