"""A BatchPolicy's status: for which of its models it holds, and on how many pods it is live."""

from collections.abc import Mapping
from dataclasses import dataclass

from tidegate_operator.api.batchpolicy import BatchPolicy, Status
from tidegate_operator.api.meta import condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A model's part. ``holder``: name of the policy that holds, None where no policy does.
    ``pods``/``total``: Ready pods that apply the table with it, of all Ready pods.
    """

    holder: str | None
    pods: int
    total: int


def _applied_before(one: BatchPolicy) -> bool:
    """Whether all pods applied this very policy: the tables that come after carry it along."""
    status = one.status
    return status.phase == "Applied" and status.observed_generation == one.metadata.generation


def tell(one: BatchPolicy, parts: Mapping[str, Applied], now: float) -> Status:
    """The whole status. ``parts``: by model, of those models that anybody knows of."""
    mine = [parts[m] for m in one.spec.models if m in parts]
    held = {
        model: parts[model].holder
        for model in one.spec.models
        if model in parts and parts[model].holder not in {None, one.metadata.name}
    }
    unknown = [model for model in one.spec.models if model not in parts]
    live = [part for part in mine if part.holder == one.metadata.name]
    pods, total = sum(part.pods for part in live), sum(part.total for part in live)
    if held:
        phase = "Waiting"
        listed = ", ".join(f"{model} by {holder}" for model, holder in held.items())
        message = f"An older BatchPolicy holds: {listed}; delete it, or this one"
    elif unknown:
        phase, message = "Pending", f"No ModelVersion of {', '.join(unknown)} is served yet"
    elif (pods < total or not total) and not _applied_before(one):
        phase, message = "Applying", f"{pods} of {total} pods apply it"
    else:
        phase, message = "Applied", "All pods apply it"
    words = {
        "Ready": (phase == "Applied", phase),
        "Reconciling": (phase in {"Applying", "Pending"}, phase),
        "WaitingForOwner": (bool(held), "OlderPolicy" if held else "Holds"),
    }
    size = one.spec.max_batch_size
    return Status(
        phase=phase,
        applied_pods=pods,
        total_pods=total,
        message=message,
        display={
            "models": ",".join(one.spec.models),
            "batch": str(size) if size else "model's",
            "applied": f"{pods}/{total}",
        },
        conditions=[
            condition(
                one.status.conditions,
                type_,
                word,
                reason,
                message,
                now=now,
                generation=one.metadata.generation,
            )
            for type_, (word, reason) in words.items()
        ],
        observed_generation=one.metadata.generation,
    )
