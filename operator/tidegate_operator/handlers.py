"""kopf: which watch event leads to which look. Nothing else knows kopf.

Only plain event handlers are used: no finalizers (a deletion must not wait for an operator that
is down), no timers and no patches of kopf's, which end for good when one of them fails.

kopf gets a thread and a loop of its own: it takes over the signals of the main thread, and at its
end waits for every task of its loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory
from typing_extensions import override

from tidegate_contract import names
from tidegate_operator.adapters.cluster import CONFIG_MAP, PLURALS, POD
from tidegate_operator.reconciler import Reconciler

_WORKERS = 64
_IDLE = 0.01
"""Seconds for which an object's worker lingers; until then it keeps the object, and other objects
may wait for its place.
"""
_PAGE = 100
_BACKOFFS = (1, 1, 2, 3, 5, 5, 5, 5, 5, 5)
"""Seconds between attempts to reach the API server: a watch is to be back soon after it is."""
_AGAIN = 0.1
"""Seconds after which a task that goes on is cancelled once more."""
_PAUSE = 2.0
"""Seconds between the end of all watches and their next beginning."""
_log = logging.getLogger(__name__)


class _NoDiffs(kopf.DiffBaseStorage):
    """No handler asks what has changed in an object; to know it, kopf would copy each one whole."""

    @override
    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    @override
    def fetch(self, **_: Any) -> None:
        return None

    @override
    def store(self, **_: Any) -> None:
        pass


class _NoMemories(ResourceMemories):
    """What kopf keeps of every object for daemons, retries and handlers that resume: there are none
    here, and tens of thousands of objects.
    """

    @override
    async def recall(self, raw_body: kopf.RawBody, **given: Any) -> ResourceMemory:
        return await super().recall(raw_body, **{**given, "ephemeral": True})


def register(
    registry: kopf.OperatorRegistry, observe: Callable[..., None], doubt: Callable[[], object]
) -> None:
    """Hand every watch event over, as ``Reconciler.observe`` takes it. ``doubt``: is called where
    kopf has listed anew, which tells no deletions.
    """

    def forward(kind: str) -> Any:
        async def handler(event: kopf.RawEvent, **_: Any) -> None:
            if event["type"] is None:
                doubt()
            deleted = event["type"] == "DELETED"
            observe(kind, dict(event["object"]), deleted=deleted)

        handler.__name__ = f"on_{kind.lower()}"
        return handler

    for kind, plural in PLURALS.items():
        kopf.on.event(names.GROUP, names.API_VERSION, plural, registry=registry)(forward(kind))
    kopf.on.event("", "v1", "pods", registry=registry)(forward(POD))
    kopf.on.event(
        "", "v1", "configmaps", labels={names.LABEL_MODEL: kopf.PRESENT}, registry=registry
    )(forward(CONFIG_MAP))
    kopf.on.startup(registry=registry)(configure)
    kopf.on.login(registry=registry)(login)


async def watch(reconciler: Reconciler, namespaces: tuple[str, ...]) -> None:
    """Watch until cancelled. ``namespaces``: empty for all of them.

    kopf gives all watches up where one meets what it does not expect (an error within a stream, or
    a kind that an API server which is starting does not know yet): then they begin anew.
    """
    loop = asyncio.get_running_loop()

    def observe(*seen: Any, **how: Any) -> None:
        loop.call_soon_threadsafe(partial(reconciler.observe, *seen, **how))

    doubt = partial(loop.call_soon_threadsafe, reconciler.doubt)
    while True:
        try:
            await _watch_once(observe, doubt, namespaces)
        except Exception:  # noqa: BLE001 - whatever it was, without watches nothing goes on
            _log.exception("the watches ended; they begin anew")
        reconciler.doubt()
        await asyncio.sleep(_PAUSE)


async def _watch_once(
    observe: Callable[..., None], doubt: Callable[[], object], namespaces: tuple[str, ...]
) -> None:
    """Watch until the first of kopf's tasks ends, which none does while all is well."""
    registry = kopf.OperatorRegistry()
    register(registry, observe, doubt)
    begun: Future[Callable[[], object]] = Future()

    async def operate() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        begun.set_result(partial(loop.call_soon_threadsafe, task.cancel))
        try:
            tasks = await kopf.spawn_tasks(
                registry=registry,
                memories=_NoMemories(),
                standalone=True,
                clusterwide=not namespaces,
                namespaces=namespaces,
            )
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                one.result()
        finally:
            await _end_others()

    with ThreadPoolExecutor(1, thread_name_prefix="kopf") as thread:
        working = thread.submit(asyncio.run, operate())
        try:
            await asyncio.wrap_future(working)
        finally:
            with contextlib.suppress(RuntimeError):  # its loop has ended by itself
                begun.result()()


async def _end_others() -> None:
    """Cancel all other tasks of this loop until there are none: kopf, which cancels once, waits for
    ever for one of its own that goes on after that.
    """
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        for one in others:
            one.cancel()
        await asyncio.wait(others, timeout=_AGAIN)


async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """The pod's service account, else the kubeconfig."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Watches that notice a dead connection, no events of kopf's own, and, as every object has a
    worker while it changes, few that linger.
    """
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.queueing.worker_limit = _WORKERS
    settings.queueing.idle_timeout = _IDLE
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _BACKOFFS
    settings.watching.chunk_size = _PAGE
    settings.watching.inactivity_timeout = 120
    settings.watching.server_timeout = 300
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
