"""Names that users, the operator and the sidecar must spell alike.

Group and kinds, labels and annotations, ports, headers, metrics and their labels, and the one
function that derives a Kubernetes object's name from a Triton model's name.
"""

import hashlib
import re
from typing import Final

GROUP: Final = "tidegate.dev"
API_VERSION: Final = "v1alpha1"

LABEL_MODEL: Final = f"{GROUP}/model"
ANNOTATION_RELOADER_IGNORE: Final = "reloader.stakater.com/ignore"
FIELD_MANAGER: Final = "tidegate-operator"

PORT_HTTP: Final = 9000
PORT_GRPC: Final = 9001
PORT_ADMIN: Final = 9002

TABLE_KEY: Final = "table.json"
DIGEST_KEY: Final = "table.json.sha256"

HEADER_MODEL: Final = "tidegate-model"
HEADER_VERSION: Final = "tidegate-version"
HEADER_ARM: Final = "tidegate-arm"
HEADER_PRIORITY: Final = "tidegate-priority"
HEADER_DEADLINE: Final = "tidegate-deadline-ms"
"""Milliseconds from its arrival until a request is worth nothing unless answered."""
HEADER_FEEDBACK: Final = "tidegate-feedback"
HEADER_TOKEN: Final = "tidegate-token"  # noqa: S105 - the header's name
"""What opens the sampled pairs where ``Authorization`` is the API server's own."""

ARM_STABLE: Final = "stable"
ARM_CANARY: Final = "canary"
ARM_CONTROL: Final = "control"
ARM_TREATMENT: Final = "treatment"
ARM_SHADOW: Final = "shadow"
"""Copies of stable's requests that a canary answers to nobody."""
ARM_UNASSIGNED: Final = "unassigned"
"""Requests without the key that a test assigns by: control serves them, outside the evidence."""
ARM_DIRECT: Final = "direct"
"""A request that named its version itself: served, and no evidence for or against anybody."""
ARM_NONE: Final = "none"
"""A request that was refused before it was routed."""

METRIC_CHECK_REQUESTS: Final = "tidegate_check_requests"
METRIC_CHECK_BAD: Final = "tidegate_check_bad"
METRIC_DURATION: Final = "tidegate_request_duration_seconds"
METRIC_REQUESTS: Final = "tidegate_requests"
METRIC_RESTARTS: Final = "tidegate_triton_restarts"
METRIC_TOKENS: Final = "tidegate_feedback_tokens"
METRIC_FEEDBACK: Final = "tidegate_feedback_value"
"""Prefix of the sums that outcomes are told by: ``_count``, ``_pos``, ``_neg``, ``_squares``, and
with a covariate ``_covariate_pos``, ``_covariate_neg``, ``_covariate_squares``, ``_cross_pos``,
``_cross_neg``. What may be negative is kept in two parts, as a counter must not fall."""

BUCKETS: Final = 64
"""Groups of users, by a second hash of their key: what is counted of an assigned split is counted
by bucket, so that the differences between users can be told from those between versions."""

MODEL_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"
MODEL_MAX_LENGTH: Final = 63


def object_name(prefix: str, model: str) -> str:
    """Derive the name of a Kubernetes object that belongs to a model.

    Lower-cased, and what a name may not hold becomes ``-``; if that changed anything, eight hex
    digits of sha256(model) keep two models apart that would otherwise collide::

        object_name("tidegate-routing", "digits")   -> "tidegate-routing-digits"
        object_name("tidegate-routing", "Resnet50") -> "tidegate-routing-resnet50-59a8f79c"
    """
    derived = re.sub(r"[^a-z0-9-]", "-", model.lower())
    if derived != model:
        derived += "-" + hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"{prefix}-{derived}"


def feedback_secret_name(model: str) -> str:
    """Name of the Secret whose ``key`` signs a test's feedback tokens."""
    return object_name("tidegate-feedback", model)


def pairs_secret_name(model: str) -> str:
    """Name of the Secret whose ``token`` opens the sampled pairs of shadow answers."""
    return object_name("tidegate-pairs", model)


def routing_table_name(model: str) -> str:
    """Name of the ConfigMap that holds a model's routing table."""
    return object_name("tidegate-routing", model)
