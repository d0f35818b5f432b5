"""The few HTTP requests that the tools make: health probes and the Kubernetes API.

Only to addresses of this machine: proxies of the environment are not asked.
"""

import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
_NO_PROXIES = urllib.request.ProxyHandler({})
_plain = urllib.request.build_opener(_NO_PROXIES)


def answers(url: str, timeout: float = 0.5, context: ssl.SSLContext | None = None) -> bool:
    """Whether a GET is answered with 200 in time."""
    opener = _plain
    if context:
        handler = urllib.request.HTTPSHandler(context=context)
        opener = urllib.request.build_opener(_NO_PROXIES, handler)
    try:
        with opener.open(url, timeout=timeout) as response:
            return bool(response.status == http.client.OK)
    except (OSError, http.client.HTTPException):
        return False


class ApiError(Exception):
    """The API server refused, or (status 0) could not be reached."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Api:
    """Raw requests to a Kubernetes API server, as the owner of a token."""

    server: str
    ca: Path
    token: str

    @cached_property
    def context(self) -> ssl.SSLContext:
        """What the server's certificate is checked against."""
        return ssl.create_default_context(cafile=str(self.ca))

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        handler = urllib.request.HTTPSHandler(context=self.context)
        return urllib.request.build_opener(_NO_PROXIES, handler)

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = JSON,
        timeout: float = 5.0,
    ) -> dict[str, Any]:
        """One request; the decoded answer, or an `ApiError`."""
        request = urllib.request.Request(  # noqa: S310 - the scheme is ours
            self.server + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.token}",
                "Content-Type": content_type,
                "Accept": JSON,
            },
        )
        try:
            with self._opener.open(request, timeout=timeout) as response:
                answer: dict[str, Any] = json.loads(response.read())
                return answer
        except urllib.error.HTTPError as error:
            raise ApiError(error.code, _message(error.read())) from None
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise ApiError(0, str(error)) from error


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return body.decode(errors="replace")[:500]
