"""One entry of one Secret, while it is needed: from the API server, or from a mounted folder.

Few pods need one, and only at times: the API server is asked for nothing until then. Whether a
value goes with its Secret is its user's business.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kubernetes.aio.client import ApiClient

from tidegate_sidecar.shell.follower import Followed, Follower

LOOK_SECONDS: Final = 0.5
"""Between two looks at whether it is needed, and at the mounted file."""

_log = logging.getLogger(__name__)


class SecretWatcher:
    """``take`` is called with each new value, ``wanted`` says whether one is needed now, ``gone``
    is called where the Secret is seen to be deleted.

    ``directory``: where Secrets are mounted, each in a folder of its name.
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        entry: str,
        *,
        take: Callable[[bytes], None],
        wanted: Callable[[], bool],
        api: ApiClient | None,
        directory: Path | None = None,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._entry = entry
        self._take = take
        self._wanted = wanted
        self._gone = gone
        self._file = directory / name / entry if directory else None
        self._last: bytes | None = None
        self._said: str | None = None
        self._follower = (
            Follower(
                api,
                namespace,
                "secrets",
                name,
                found=self._found,
                failed=self._say,
                deleted=self._deleted,
            )
            if api and not directory
            else None
        )

    async def run(self) -> None:
        """Watch it for ever."""
        while True:
            if self._wanted():
                if self._follower:
                    await self._follower.run(self._wanted)
                else:
                    self._look_at_file()
            await asyncio.sleep(LOOK_SECONDS)

    def _look_at_file(self) -> None:
        if not self._file:
            self._say("there is neither an API server nor a folder to read it from")
            return
        try:
            self._offer(self._file.read_bytes().strip())
        except OSError as error:
            self._say(str(error))

    def _found(self, secret: Followed) -> None:
        try:
            self._offer(base64.b64decode(secret.data.get(self._entry, ""), validate=True))
        except binascii.Error as error:
            self._say(str(error))

    def _deleted(self) -> None:
        self._last = None
        self._gone()

    def _offer(self, value: bytes) -> None:
        if not value:
            self._say(f"it has no {self._entry}")
        elif value != self._last:
            self._last = value
            self._said = None
            self._take(value)

    def _say(self, text: str) -> None:
        """Log what lasts once, not at every look."""
        if text != self._said:
            _log.warning("Secret %s: %s", self._name, text)
        self._said = text
