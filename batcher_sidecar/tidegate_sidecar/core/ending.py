"""How a request ends, and is counted, by what it was answered."""

from http import HTTPStatus

from tidegate_sidecar.core.compare import Tensors
from tidegate_sidecar.core.counters import Outcome
from tidegate_sidecar.core.delivery import Result
from tidegate_sidecar.core.exchange import Answer
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal, Unserved


def outcome_of(result: Result | Tensors) -> Outcome:
    """What an answer counts as."""
    if not isinstance(result, Refusal):
        return "ok"
    server = result.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return "server_error" if server else "client_error"


def end(pending: Pending, result: Result, now: float) -> None:
    """Count a request that was sent, by what was answered."""
    if isinstance(result, Answer) and not pending.cancelled:  # almost all
        pending.end("ok", now)
        return
    outcome = outcome_of(result)
    if isinstance(result, Unserved):
        if not pending.cancelled:
            pending.end_unserved()
    elif pending.cancelled:
        pending.end_cancelled(failed=outcome == "server_error")
    else:
        pending.end(outcome, now)
