"""``GET /pairs?model=M`` on port 9002: the sampled pairs of shadow answers, for who has the token.

They hold what users sent, so none is kept, and none shown, without a token: the entry ``token`` of
Secret ``tidegate-pairs-<model>``. It comes as ``Authorization: Bearer TOKEN``, or in the header
``tidegate-token`` where an API server that passes the request on takes the other for itself.
"""

import asyncio
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from tidegate_contract import names
from tidegate_sidecar.core.pairs import Pairs, to_json

_SCHEME: Final = "Bearer "


class PairsPage:
    """Shows the pairs of all models. ``clock`` is the data plane's."""

    def __init__(
        self, pairs: Mapping[str, Pairs], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pairs = pairs
        self._clock = clock
        self._tokens: dict[str, bytes] = {}

    def open(self, model: str, token: bytes) -> None:
        """Keep a model's pairs from now on, for who has this token; an empty one is none."""
        self._tokens[model] = token.strip()
        self._pairs[model].wanted = bool(token.strip())

    def close(self, model: str) -> None:
        """Forget a model's pairs and keep no more."""
        self._tokens.pop(model, None)
        self._pairs[model].wanted = False

    async def answer(self, request: web.Request) -> web.Response:
        """Answer with the pairs of the model that is asked for, or with why not."""
        model = request.query.get("model", "")
        if model not in self._pairs:
            return _refused(404, f"model {model!r} is not served here: ask for ?model=NAME")
        token = self._tokens.get(model)
        if not token:
            secret = names.pairs_secret_name(model)
            return _refused(404, f"no pairs are kept: there is no token in Secret {secret}")
        shown = _shown(request)
        if shown is None:
            return _refused(401, "a token is needed: Authorization: Bearer TOKEN")
        if not hmac.compare_digest(shown.encode(errors="surrogateescape"), token):
            return _refused(403, "this is not the token")
        kept, epoch = self._pairs[model].kept, time.time() - self._clock()
        # Many numbers are written: requests go on meanwhile.
        body = await asyncio.to_thread(to_json, kept, epoch)
        return web.Response(body=body, content_type="application/json")


def _shown(request: web.Request) -> str | None:
    given = request.headers.get("Authorization", "")
    if given.startswith(_SCHEME):
        return given.removeprefix(_SCHEME).strip()
    return request.headers.get(names.HEADER_TOKEN)


def _refused(status: int, reason: str) -> web.Response:
    fields = {"WWW-Authenticate": "Bearer"} if status == web.HTTPUnauthorized.status_code else None
    return web.json_response({"error": reason}, status=status, headers=fields)
