"""Objects of each kind, and changes that make them wrong, or only just do not, with the answers."""

import json
from typing import Any, NamedTuple

Spec = dict[str, Any]

COMPLETE: dict[str, Spec] = {
    "ModelVersion": {
        "model": "Resnet50_v1.5",
        "version": 2,
        "lifecycle": "Active",
        "trafficPercent": 30,
        "podSelector": {
            "matchLabels": {"app": "digits", "example.com/tier": ""},
            "matchExpressions": [
                {"key": "zone", "operator": "NotIn", "values": ["b", "c"]},
                {"key": "gpu", "operator": "Exists"},
            ],
        },
        "compatibility": "Ignore",
        "metadata": {"framework": "sklearn", "accuracy": "0.981"},
    },
    "CanaryRollout": {
        "model": "digits",
        "stableVersion": 1,
        "canaryVersion": 2,
        "initialPercent": 5,
        "stepPercent": 15,
        "maxPercent": 50,
        "stepDuration": "1h30m",
        "mirrorPercent": 10,
        "autoPromote": False,
        "gatingDeadline": "5m",
        "progressDeadline": "48h",
        "onDeadline": "Rollback",
        "unloadDelay": "0s",
        "rollbackWindow": "0s",
        "suspend": True,
        "assignment": {"header": "x-user-id"},
        "analysis": {
            "interval": "10s",
            "warmup": "0s",
            "minRequests": 50,
            "significanceLevel": 0.05,
            "passOn": "Proven",
            "maxStableSlowdown": 1,
            "onNoData": "Continue",
            "onError": "Rollback",
            "ackTimeout": "30s",
            "metrics": [
                {
                    "name": "errors",
                    "dryRun": False,
                    "errorRate": {"success": 0, "rollback": 0.05, "maxRatioToStable": 1.5},
                },
                {
                    "name": "latency",
                    "dryRun": False,
                    "latency": {
                        "quantile": 0.95,
                        "success": "100ms",
                        "rollback": "1s500ms",
                        "maxRatioToStable": 0.5,
                        "priorities": [1, 2],
                    },
                },
                {
                    "name": "agreement",
                    "dryRun": False,
                    "disagreement": {
                        "max": 0.02,
                        "tolerance": 0,
                        "compare": "Argmax",
                        "baseline": True,
                    },
                },
                {
                    "name": "revenue",
                    "dryRun": True,
                    "prometheus": {
                        "query": 'sum(rate(orders_total{version="$canary"}[1m]))',
                        "success": {"min": 3, "max": 1e6},
                        "rollback": {"min": -1, "max": 1},
                        "failureLimit": 1,
                    },
                },
            ],
        },
    },
    "ABTest": {
        "model": "digits",
        "controlVersion": 1,
        "treatmentVersion": 2,
        "treatmentPercent": 20,
        "assignment": {"header": "x-user-id"},
        "startTime": "2026-12-01T09:00:00Z",
        "endTime": "2026-12-04T09:00:00+01:00",
        "minSamples": 500,
        "significanceLevel": 0.01,
        "successMetrics": [
            {
                "name": "accuracy",
                "feedback": {"kind": "Binary", "goal": "Increase", "minEffect": 0.005},
            },
            {
                "name": "rating",
                "feedback": {
                    "kind": "Value",
                    "goal": "Decrease",
                    "minEffect": 2,
                    "range": [-10, 10],
                },
            },
            {
                "name": "orders",
                "prometheus": {
                    "successes": 'sum(orders_total{arm="$arm"})',
                    "total": 'sum(visits_total{arm="$arm"})',
                    "goal": "Increase",
                    "minEffect": 0.01,
                },
            },
        ],
        "guardrails": [
            {"name": "errors", "errorRate": {"maxRatioToControl": 1.5, "maxExcess": 0.001}},
            {
                "name": "latency",
                "latency": {"quantile": 0.95, "maxRatioToControl": 1.2, "priorities": [1]},
            },
        ],
        "covariate": {"header": "x-user-history"},
        "expectedSamples": 8000,
        "feedbackDelay": "1h",
        "stopEarly": False,
        "onFinish": "PromoteWinner",
        "suspend": True,
    },
    "BatchPolicy": {
        "models": ["digits", "Resnet50"],
        "strategy": "by-the_book.v2",
        "minBatchSize": 4,
        "maxBatchSize": 32,
        "maxWait": "5ms",
        "targetLatency": "50ms",
        "optimize": "Latency",
        "hardware": "GPU",
        "memoryLimit": "2Gi",
        "queue": {"maxSize": 200, "onFull": "DropLowest"},
        "priorities": {
            "default": 2,
            "agingAfter": "1s",
            "agingReserve": 0.1,
            "levels": [
                {"level": 1, "name": "vip", "waitMultiplier": 0, "maxQueue": 200},
                {"level": 7, "name": "night", "maxSliceLatency": "2ms", "waitMultiplier": 8},
            ],
        },
        "deadline": {"default": "5s", "earlyDrop": False},
        "deduplication": {"enabled": True, "ttl": "1m", "maxEntries": 500, "maxBytes": "8Mi"},
    },
}
MINIMAL: dict[str, Spec] = {
    "ModelVersion": {"model": "digits", "version": 1},
    "CanaryRollout": {"model": "digits", "canaryVersion": 2},
    "ABTest": {
        "model": "digits",
        "controlVersion": 1,
        "treatmentVersion": 2,
        "duration": "72h",
        "successMetrics": [{"name": "accuracy", "feedback": {"kind": "Binary"}}],
    },
    "BatchPolicy": {"models": ["digits"]},
}
FILLED_IN: dict[str, Spec] = {
    "ModelVersion": {"lifecycle": "Testing", "compatibility": "Strict"},
    "CanaryRollout": {
        "mirrorPercent": 0,
        "autoPromote": True,
        "gatingDeadline": "15m",
        "progressDeadline": "24h",
        "onDeadline": "Hold",
        "unloadDelay": "10m",
        "rollbackWindow": "24h",
        "suspend": False,
        "analysis": {
            "interval": "30s",
            "warmup": "30s",
            "minRequests": 100,
            "significanceLevel": 0.01,
            "passOn": "NoHarm",
            "maxStableSlowdown": 1.25,
            "onNoData": "Hold",
            "onError": "Hold",
            "ackTimeout": "60s",
        },
    },
    "ABTest": {
        "treatmentPercent": 50,
        "minSamples": 1000,
        "significanceLevel": 0.05,
        "successMetrics": [
            {"name": "accuracy", "feedback": {"kind": "Binary", "goal": "Increase"}}
        ],
        "expectedSamples": 5000,
        "feedbackDelay": "0s",
        "stopEarly": True,
        "onFinish": "RevertToControl",
        "suspend": False,
    },
    "BatchPolicy": {
        "strategy": "Adaptive",
        "minBatchSize": 1,
        "optimize": "Throughput",
        "hardware": "Auto",
        "queue": {"maxSize": 1000, "onFull": "Reject"},
        "priorities": {"agingAfter": "2s", "agingReserve": 0.05},
        "deadline": {"default": "30s", "earlyDrop": True},
        "deduplication": {
            "enabled": False,
            "ttl": "10s",
            "maxEntries": 10000,
            "maxBytes": "64Mi",
        },
    },
}


class Case(NamedTuple):
    """A change of an object and, where it is wrong, what must be answered: where, and what."""

    kind: str
    change: Spec
    path: str = ""
    says: str = ""

    def __str__(self) -> str:
        return f"{self.path}-{json.dumps(self.change)[:60]}"


NO_STEP_FIELDS = dict.fromkeys(("initialPercent", "stepPercent", "maxPercent", "stepDuration"))
ERRORS_ONLY = {"metrics": [{"name": "m", "errorRate": {"success": 0.1}}]}
SHADOW_ONLY = {"initialPercent": None, "maxPercent": 0, "analysis": ERRORS_ONLY}


def mver(change: Spec, path: str = "", says: str = "") -> Case:
    return Case("ModelVersion", change, f"spec.{path}", says)


def cro(change: Spec, path: str = "", says: str = "") -> Case:
    return Case("CanaryRollout", change, f"spec.{path}", says)


def abt(change: Spec, path: str = "", says: str = "") -> Case:
    return Case("ABTest", change, f"spec.{path}".removesuffix("."), says)


def bpol(change: Spec, path: str = "", says: str = "") -> Case:
    return Case("BatchPolicy", change, f"spec.{path}", says)


def level(change: Spec, path: str = "", says: str = "") -> Case:
    """A BatchPolicy with one level only."""
    one = given({"level": 3}, change)
    priorities = {"default": None, "levels": [one]}
    return bpol({"priorities": priorities}, f"priorities.levels[0]{path}", says)


def given(fields: Spec, change: Spec) -> Spec:
    """The fields with the change's in place of theirs; None takes one away."""
    return {name: value for name, value in {**fields, **change}.items() if value is not None}


def analysis(change: Spec, path: str = "", says: str = "") -> Case:
    return cro({"analysis": change}, f"analysis.{path}", says)


def metric(change: Spec, path: str = "", says: str = "") -> Case:
    return analysis({"metrics": [{"name": "m", **change}]}, f"metrics[0]{path}", says)


def errors(change: Spec, path: str = "", says: str = "") -> Case:
    return metric({"errorRate": change}, f".errorRate{path}", says)


def latency(change: Spec, path: str = "", says: str = "") -> Case:
    return metric({"latency": given({"quantile": 0.95}, change)}, f".latency{path}", says)


def disagreement(change: Spec, path: str = "", says: str = "") -> Case:
    return metric({"disagreement": given({"max": 0.1}, change)}, f".disagreement{path}", says)


def promql(change: Spec, path: str = "", says: str = "") -> Case:
    query = {"query": "up", "success": {"min": 3}}
    return metric({"prometheus": given(query, change)}, f".prometheus{path}", says)


def steps(change: list[Spec], path: str = "", says: str = "") -> Case:
    return cro({**NO_STEP_FIELDS, "steps": change}, f"steps{path}", says)


def outcome(change: Spec, path: str = "", says: str = "") -> Case:
    return abt({"successMetrics": [{"name": "m", **change}]}, f"successMetrics[0]{path}", says)


def feedback(change: Spec, path: str = "", says: str = "") -> Case:
    return outcome({"feedback": change}, f".feedback{path}", says)


def counted(change: Spec, path: str = "", says: str = "") -> Case:
    queries = {"successes": "a", "total": "b"}
    return outcome({"prometheus": given(queries, change)}, f".prometheus{path}", says)


def guardrail(change: Spec, path: str = "", says: str = "") -> Case:
    return abt({"guardrails": [{"name": "m", **change}]}, f"guardrails[0]{path}", says)


def expressions(change: Spec, path: str, says: str) -> Case:
    requirement = {"key": "zone", "operator": "In", "values": ["a"], **change}
    return mver(
        {"podSelector": {"matchExpressions": [requirement]}},
        f"podSelector.matchExpressions[0]{path}",
        says,
    )


MODEL_NAME = (
    'must be a model\'s name in Triton, of letters, digits, "_", "." and "-", '
    "beginning and ending with a letter or digit"
)
LABEL_VALUE = (
    'must be a label\'s value, of letters, digits, "_", "." and "-", '
    "beginning and ending with a letter or digit"
)
METRIC_NAME = (
    'must be of letters, digits, "_", "." and "-", beginning and ending with a letter or digit'
)
FIRST_SHARE = (
    "must be from 1 to 99, as a canary that has everything from the start cannot be judged"
)
UP_TO_720H = "must be a duration from 1s to 720h, such as 90s, 10m or 1h30m"
UP_TO_24H = "must be a duration from 1s to 24h, such as 90s, 10m or 1h30m"
INTERVAL = "must be a duration from 1s to 1h, such as 10s or 1m30s"
WARMUP = "must be a duration from 0s to 24h, such as 30s or 5m"
LEVEL = "must be from 0.000001 to 0.5, such as 0.01 for one rollout in a hundred"
ACK_TIMEOUT = "must be a duration from 1s to 1h, such as 60s or 2m"
SUCCESS_SHARE = "must be a share from 0 to below 1, such as 0.01 for one request in a hundred"
ROLLBACK_SHARE = "must be a share from 0 to below 1, such as 0.05 for five requests in a hundred"
SUCCESS_TIME = "must be a duration from 1ms to 1h, such as 100ms or 2s"
ROLLBACK_TIME = "must be a duration from 1ms to 1h, such as 500ms or 2s"
QUANTILE = "must be from 0.5 to 0.9999, such as 0.95 for the 95th percentile"
MAX_WAIT = "must be a duration from 0s to 10s, such as 5ms"
STRATEGY = (
    "must be Adaptive, Fixed or an installed strategy's name, of letters, digits, "
    '"_", "." and "-", beginning and ending with a letter or digit'
)
LEVEL_NAME = (
    'must be of letters, digits, "_", "." and "-", beginning and ending with a letter or digit'
)
TARGET = "must be a duration from 1ms to 10m, such as 50ms"
BELOW_TARGET = "must be below targetLatency, which includes the wait"
BEFORE_DEADLINE = (
    "must be below deadline.default, as no batch waits for longer than its requests may"
)
NOT_WEIGHED = (
    "has no effect with the strategy Fixed, which goes by maxBatchSize and maxWait alone; "
    "leave it out, or use Adaptive"
)
NO_LEAST = (
    "has no effect with the strategy Fixed, which waits for a full batch; leave it out and set "
    "maxBatchSize, or use Adaptive"
)
NOTHING_WAITS = (
    "has no effect where maxWait is 0s, as no batch waits for more rows then; leave it out, or "
    "let batches wait"
)
ONE_LEVEL = (
    "has no effect with a single level, as nobody waits below anybody; leave it out, or list a "
    "lower level"
)
HIGHEST = (
    "has no effect at level 1, as no higher level is there to make way for; leave it out, or give "
    "it to a lower level"
)
WITHIN_DEADLINE = "must not be above deadline.default, at which requests are given up"
BYTES = "must be an amount of memory from 1 byte to 1Pi, such as 2Gi, 512Mi or 1000000"
QUEUE_OF_LEVEL = "must not have a maxQueue above queue.maxSize, which bounds all levels together"
ONE_OF_LEVELS = "must be one of the levels, the last of which is the highest number in levels"
ONE_OF_FIVE = "must be one of the levels, which are 1 to 5 where levels lists none"
AGING_AFTER = "must be a duration from 1ms to 1h, such as 2s"
AGING_RESERVE = "must be a fraction from 0 to 0.5, such as 0.05"
MULTIPLIER = "must be a number from 0 to 100, such as 0.5"
SLICE = "must be a duration from 1ms to 10s, such as 2ms"
DEADLINE = "must be a duration from 0s to 1h, such as 30s"
TTL = "must be a duration from 0s to 24h, such as 10s"
EMPTY_SELECTOR = (
    "is empty and would select every pod of the namespace; leave podSelector out to select the "
    "pods labelled tidegate.dev/model: <model>"
)
VALUES_RULE = "operators In and NotIn need values, Exists and DoesNotExist must have none"
LABEL_NAME = "must be a label's name, such as app or example.com/app"
LABEL_KEYS = "has a key that cannot be a label's name; such names look like app or example.com/app"
ONE_KIND = "must have exactly one of errorRate, latency, disagreement and prometheus"
ONE_BOUND = "needs at least one of success, rollback and maxRatioToStable"
ONE_RANGE = "needs at least one of success and rollback"
ONE_END = "needs at least one of min and max"
NOT_ABOVE_MAX = "must not be above max"
OVERLAP = "must not overlap success, as no value can be good and bad"
RATIO = "must be above 0 and at most 100, such as 1.5 for one and a half times stable's"
SLOWDOWN = "must be from 1 to 100, such as 1.25 for a quarter slower"
DISAGREEING = "must be a share from 0 to below 1, such as 0.02 for two requests in a hundred"
TOLERANCE = "must be from 0 to 1000000, such as 0.001"
UP_TO_A_YEAR = "must be a duration from 1s to 8760h, such as 24h"
WINDOW = "must be a duration from 0s to 8760h, such as 24h"
UNLOAD_DELAY = "must be a duration from 0s to 720h, such as 10m"
IN_PLACE_OF = (
    "stands in place of initialPercent, stepPercent, maxPercent and stepDuration; "
    "give either steps or those"
)
RISING = "must rise from step to step in percent"
BEGINNING = (
    "must begin below 100 percent, as a canary that has everything from the start cannot be judged"
)
STEP_DURATION = "is needed by a step below 100 percent"
MIRROR_ONLY = (
    "is 0, so that the canary gets mirrored requests only, and needs mirrorPercent above 0"
)
SHADOW_METRICS = (
    "must be of errorRate or disagreement where maxPercent is 0, "
    "as nothing else is judged by mirrored requests"
)
MIRROR_NEEDED = (
    "must be above 0 for a metric of disagreement, which compares the answers to mirrored requests"
)
PROVABLE = (
    "must have maxRatioToStable of at least 0.2 where passOn is Proven, "
    "as no canary's traffic could prove less"
)
METADATA_KEYS = "has a key that is empty or longer than 63 characters"
BOTH_ARMS = "must be from 1 to 99, as both arms need traffic"
ONE_END_OF_TEST = "must have exactly one of duration and endTime"
TEST_DURATION = "must be a duration from 1s to 8760h, such as 72h"
FEEDBACK_DELAY = "must be a duration from 0s to 720h, such as 1h"
TEST_LEVEL = "must be from 0.000001 to 0.5, such as 0.05 for one test in twenty"
NEEDS_USERS = "is a number for each user and needs assignment, which says who that is"
OTHER_NAMES = "must have other names than successMetrics"
ONE_SOURCE = "must have exactly one of feedback and prometheus"
ONE_GUARDRAIL = "must have exactly one of errorRate and latency"
RANGE_FOR_VALUES = "is needed for kind Value, and has no meaning for kind Binary"
RANGE = "must be the lowest and the highest value, neither beyond a billion, such as [0, 10]"
EFFECT = "must be above 0, such as 0.005"
EFFECT_IN_RANGE = "must be smaller than the largest possible difference, which is 1 for kind Binary"
EFFECT_SHARE = "must be above 0 and below 1, such as 0.005"
RATIO_TO_CONTROL = "must be above 0 and at most 100, such as 1.5 for one and a half times control's"
EXCESS = "must be a share from 0 to below 1, such as 0.001 for one request in a thousand"
COVARIATE_HEADER = "must be the name of an HTTP header, such as x-user-history"
NOT_ABOVE = "must not be above rollback"
HEADER = "must be the name of an HTTP header, such as x-user-id"

WRONG_AT_CREATION: list[Case] = [
    mver({"model": None}, "model", "Required value"),
    mver({"model": ""}, "model", MODEL_NAME),
    mver({"model": "a" * 64}, "model", "may not be more than 63"),
    mver({"model": "-digits"}, "model", MODEL_NAME),
    mver({"model": "digits/2"}, "model", MODEL_NAME),
    mver({"version": None}, "version", "Required value"),
    mver({"version": 0}, "version", "should be greater than or equal to 1"),
    mver({"version": "2"}, "version", "must be of type integer"),
    mver({"lifecycle": "active"}, "lifecycle", 'supported values: "Testing", "Active"'),
    mver({"trafficPercent": -1}, "trafficPercent", "should be greater than or equal to 0"),
    mver({"trafficPercent": 101}, "trafficPercent", "should be less than or equal to 100"),
    mver({"trafficPercent": 12.5}, "trafficPercent", "must be of type integer"),
    mver({"compatibility": "Loose"}, "compatibility", 'supported values: "Strict", "Ignore"'),
    mver(
        {"podSelector": {"matchLabels": None, "matchExpressions": None}},
        "podSelector",
        EMPTY_SELECTOR,
    ),
    mver(
        {
            "podSelector": {
                "matchLabels": {"app": None, "example.com/tier": None},
                "matchExpressions": [],
            }
        },
        "podSelector",
        EMPTY_SELECTOR,
    ),
    mver({"podSelector": {"matchLabels": {"a b": "c"}}}, "podSelector.matchLabels", LABEL_KEYS),
    mver({"podSelector": {"matchLabels": {"/a": "c"}}}, "podSelector.matchLabels", LABEL_KEYS),
    mver(
        {"podSelector": {"matchLabels": {"app": "b c"}}},
        "podSelector.matchLabels[app]",
        LABEL_VALUE,
    ),
    expressions({"key": "a b"}, ".key", LABEL_NAME),
    expressions({"operator": "Equals"}, ".operator", 'supported values: "In", "NotIn"'),
    expressions({"values": []}, "", VALUES_RULE),
    expressions({"operator": "Exists"}, "", VALUES_RULE),
    expressions({"values": ["a", "b c"]}, ".values[1]", LABEL_VALUE),
    mver({"metadata": {"accuracy": 0.981}}, "metadata.accuracy", "must be of type string"),
    mver({"metadata": {"notes": "n" * 257}}, "metadata.notes", "may not be more than 256"),
    mver({"metadata": {f"k{i}": "" for i in range(15)}}, "metadata", "must have at most 16 items"),
    mver({"metadata": {"": "empty"}}, "metadata", METADATA_KEYS),
    mver({"metadata": {"k" * 64: "long"}}, "metadata", METADATA_KEYS),
    cro({"model": "digits_"}, "model", MODEL_NAME),
    cro({"canaryVersion": None}, "canaryVersion", "Required value"),
    cro({"canaryVersion": 0}, "canaryVersion", "should be greater than or equal to 1"),
    cro({"stableVersion": 2}, "canaryVersion", "must be another version than stableVersion"),
    cro({"initialPercent": 0}, "initialPercent", FIRST_SHARE),
    cro({"initialPercent": 100}, "initialPercent", FIRST_SHARE),
    cro({"stepPercent": 0}, "stepPercent", "should be greater than or equal to 1"),
    cro({"maxPercent": -1}, "maxPercent", "should be greater than or equal to 0"),
    cro({"maxPercent": 101}, "maxPercent", "should be less than or equal to 100"),
    cro({**SHADOW_ONLY, "mirrorPercent": 0}, "maxPercent", MIRROR_ONLY),
    cro({**SHADOW_ONLY, "mirrorPercent": None}, "maxPercent", MIRROR_ONLY),
    *(
        cro(
            {**SHADOW_ONLY, "analysis": {"metrics": [{"name": "m", **measured}]}},
            "analysis.metrics",
            SHADOW_METRICS,
        )
        for measured in (
            {"latency": {"quantile": 0.95, "success": "1s"}},
            {"prometheus": {"query": "up", "success": {"min": 1}}},
        )
    ),
    cro({"mirrorPercent": 0}, "mirrorPercent", MIRROR_NEEDED),
    cro({"mirrorPercent": -1}, "mirrorPercent", "should be greater than or equal to 0"),
    cro({"mirrorPercent": 101}, "mirrorPercent", "should be less than or equal to 100"),
    *(
        cro(
            {**NO_STEP_FIELDS, name: value, "steps": [{"percent": 5, "duration": "1m"}]},
            "steps",
            IN_PLACE_OF,
        )
        for name, value in (
            ("initialPercent", 5),
            ("stepPercent", 5),
            ("maxPercent", 50),
            ("stepDuration", "1m"),
        )
    ),
    steps([], "", "should have at least 1 items"),
    steps(
        [{"percent": i, "duration": "1m"} for i in range(1, 22)], "", "must have at most 20 items"
    ),
    steps([{"percent": 20, "duration": "1m"}, {"percent": 10, "duration": "1m"}], "", RISING),
    steps([{"percent": 20, "duration": "1m"}] * 2, "", RISING),
    steps([{"percent": 100}], "", BEGINNING),
    steps([{"duration": "1m"}], "[0].percent", "Required value"),
    steps([{"percent": 0, "duration": "1m"}], "[0].percent", "greater than or equal to 1"),
    steps(
        [{"percent": 5, "duration": "1m"}, {"percent": 101}], "[1].percent", "less than or equal"
    ),
    steps([{"percent": 5}, {"percent": 100}], "[0].duration", STEP_DURATION),
    steps([{"percent": 5, "duration": "1 minute"}], "[0].duration", UP_TO_720H),
    steps(
        [{"percent": 5, "duration": "1m", "gate": "Auto"}],
        "[0].gate",
        'supported values: "Manual"',
    ),
    cro({"autoPromote": "no"}, "autoPromote", "must be of type boolean"),
    cro({"progressDeadline": "0s"}, "progressDeadline", UP_TO_A_YEAR),
    cro({"progressDeadline": "1d"}, "progressDeadline", UP_TO_A_YEAR),
    cro({"onDeadline": "Continue"}, "onDeadline", 'supported values: "Hold", "Rollback"'),
    cro({"unloadDelay": "721h"}, "unloadDelay", UNLOAD_DELAY),
    cro({"rollbackWindow": "8761h"}, "rollbackWindow", WINDOW),
    cro({"suspend": "yes"}, "suspend", "must be of type boolean"),
    cro({"stepDuration": "0s"}, "stepDuration", UP_TO_720H),
    cro({"stepDuration": "10 minutes"}, "stepDuration", UP_TO_720H),
    cro({"stepDuration": "1.5h"}, "stepDuration", UP_TO_720H),
    cro({"stepDuration": 600}, "stepDuration", "must be of type string"),
    cro({"gatingDeadline": "25h"}, "gatingDeadline", UP_TO_24H),
    cro({"assignment": {"header": None}}, "assignment.header", "Required value"),
    cro({"assignment": {"header": "x user"}}, "assignment.header", HEADER),
    cro({"assignment": {"header": "x-user-id:"}}, "assignment.header", HEADER),
    analysis({"interval": "500ms"}, "interval", INTERVAL),
    analysis({"interval": "1m30"}, "interval", INTERVAL),
    analysis({"warmup": "-5s"}, "warmup", WARMUP),
    analysis({"warmup": "24h1ms"}, "warmup", WARMUP),
    analysis({"minRequests": 0}, "minRequests", "should be greater than or equal to 1"),
    analysis({"significanceLevel": 0}, "significanceLevel", LEVEL),
    analysis({"significanceLevel": 0.6}, "significanceLevel", LEVEL),
    analysis({"passOn": "Luck"}, "passOn", 'supported values: "NoHarm", "Proven"'),
    analysis(
        {
            "passOn": "Proven",
            "metrics": [{"name": "m", "errorRate": {"maxRatioToStable": 0.1}}],
        },
        "metrics",
        PROVABLE,
    ),
    analysis({"maxStableSlowdown": 0.9}, "maxStableSlowdown", SLOWDOWN),
    analysis({"onNoData": "Fail"}, "onNoData", 'supported values: "Hold", "Continue", "Rollback"'),
    analysis({"onError": "Fail"}, "onError", 'supported values: "Hold", "Continue", "Rollback"'),
    analysis({"ackTimeout": "soon"}, "ackTimeout", ACK_TIMEOUT),
    analysis({"metrics": []}, "metrics", "should have at least 1 items"),
    analysis(
        {"metrics": [{"name": f"m{i}", "errorRate": {"success": 0.1}} for i in range(11)]},
        "metrics",
        "must have at most 10 items",
    ),
    analysis(
        {"metrics": [{"name": "m", "errorRate": {"success": 0.1}}] * 2},
        "metrics[1]",
        "Duplicate value",
    ),
    analysis({"metrics": [{"errorRate": {"success": 0.1}}]}, "metrics[0].name", "Required value"),
    analysis(
        {"metrics": [{"name": "p95/ms", "errorRate": {"success": 0.1}}]},
        "metrics[0].name",
        METRIC_NAME,
    ),
    metric({}, "", ONE_KIND),
    metric(
        {"errorRate": {"success": 0.1}, "latency": {"quantile": 0.5, "success": "1s"}}, "", ONE_KIND
    ),
    errors({}, "", ONE_BOUND),
    errors({"success": -0.1}, ".success", SUCCESS_SHARE),
    errors({"success": 5}, ".success", SUCCESS_SHARE),
    errors({"rollback": 1}, ".rollback", ROLLBACK_SHARE),
    errors({"success": 0.06, "rollback": 0.05}, ".success", NOT_ABOVE),
    errors({"maxRatioToStable": 0}, ".maxRatioToStable", RATIO),
    errors({"maxRatioToStable": 101}, ".maxRatioToStable", RATIO),
    latency({}, "", ONE_BOUND),
    latency({"success": "1s", "rollback": "999ms"}, ".success", NOT_ABOVE),
    latency({"success": "0ms", "rollback": "1s"}, ".success", SUCCESS_TIME),
    latency({"success": "fast", "rollback": "1s"}, ".success", SUCCESS_TIME),
    latency({"success": "1ms", "rollback": "1us"}, ".rollback", ROLLBACK_TIME),
    latency({"maxRatioToStable": 0}, ".maxRatioToStable", RATIO),
    latency({"quantile": 95, "success": "1s"}, ".quantile", QUANTILE),
    latency({"quantile": None, "success": "1s"}, ".quantile", "Required value"),
    latency({"success": "1s", "priorities": []}, ".priorities", "should have at least 1 items"),
    latency({"success": "1s", "priorities": [1, 1]}, ".priorities[1]", "Duplicate value"),
    latency({"success": "1s", "priorities": [6]}, ".priorities[0]", "less than or equal to 5"),
    disagreement({"max": None}, ".max", "Required value"),
    disagreement({"max": 1}, ".max", DISAGREEING),
    disagreement({"tolerance": -0.1}, ".tolerance", TOLERANCE),
    disagreement({"baseline": "v1"}, ".baseline", "must be of type boolean"),
    promql({"query": None}, ".query", "Required value"),
    promql({"query": ""}, ".query", "should be at least 1 chars long"),
    promql({"query": "u" * 2001}, ".query", "may not be more than 2000"),
    promql({"success": None}, "", ONE_RANGE),
    promql({"success": {}}, ".success", ONE_END),
    promql({"success": None, "rollback": {}}, ".rollback", ONE_END),
    promql({"success": {"min": 2, "max": 1}}, ".success.min", NOT_ABOVE_MAX),
    promql({"rollback": {"min": -1, "max": -2}}, ".rollback.min", NOT_ABOVE_MAX),
    *(
        promql({"success": success, "rollback": rollback}, ".rollback", OVERLAP)
        for success, rollback in (
            ({"min": 3}, {"max": 3}),
            ({"min": 3}, {"max": 5}),
            ({"min": 3}, {"min": 1}),
            ({"min": 3}, {"min": 5}),
            ({"max": 3}, {"max": 1}),
            ({"max": 3}, {"min": 2, "max": 5}),
            ({"min": 1, "max": 3}, {"max": 2}),
            ({"min": 1, "max": 9}, {"min": 2, "max": 3}),
        )
    ),
    promql({"failureLimit": 0}, ".failureLimit", "should be greater than or equal to 1"),
    promql({"failureLimit": 101}, ".failureLimit", "should be less than or equal to 100"),
    abt({"model": "digits_"}, "model", MODEL_NAME),
    abt({"controlVersion": None}, "controlVersion", "Required value"),
    abt({"treatmentVersion": None}, "treatmentVersion", "Required value"),
    abt({"treatmentVersion": 0}, "treatmentVersion", "should be greater than or equal to 1"),
    abt({"treatmentVersion": 1}, "treatmentVersion", "must be another version than controlVersion"),
    abt({"treatmentPercent": 0}, "treatmentPercent", BOTH_ARMS),
    abt({"treatmentPercent": 100}, "treatmentPercent", BOTH_ARMS),
    abt({"assignment": {"header": None}}, "assignment.header", "Required value"),
    abt({"assignment": {"header": "x user"}}, "assignment.header", HEADER),
    abt({"startTime": "tomorrow"}, "startTime", "must be of type date-time"),
    abt({"endTime": "2026-12-01T09:00:00Z"}, "endTime", "must be after startTime"),
    abt({"endTime": "2026-12-01T09:30:00+01:00"}, "endTime", "must be after startTime"),
    abt({"endTime": None}, "", ONE_END_OF_TEST),
    abt({"duration": "72h"}, "", ONE_END_OF_TEST),
    abt({"endTime": None, "duration": "3d"}, "duration", TEST_DURATION),
    abt({"minSamples": 0}, "minSamples", "should be greater than or equal to 1"),
    abt({"significanceLevel": 0.95}, "significanceLevel", TEST_LEVEL),
    abt({"successMetrics": None}, "successMetrics", "Required value"),
    abt({"successMetrics": []}, "successMetrics", "should have at least 1 items"),
    abt(
        {"successMetrics": [{"name": f"m{i}", "feedback": {"kind": "Binary"}} for i in range(6)]},
        "successMetrics",
        "must have at most 5 items",
    ),
    abt(
        {"successMetrics": [{"name": "m", "feedback": {"kind": "Binary"}}] * 2},
        "successMetrics[1]",
        "Duplicate value",
    ),
    outcome({}, "", ONE_SOURCE),
    outcome(
        {"feedback": {"kind": "Binary"}, "prometheus": {"successes": "a", "total": "b"}},
        "",
        ONE_SOURCE,
    ),
    outcome({"name": "a b", "feedback": {"kind": "Binary"}}, ".name", METRIC_NAME),
    feedback({"kind": None}, ".kind", "Required value"),
    feedback({"kind": "Count"}, ".kind", 'supported values: "Binary", "Value"'),
    feedback({"kind": "Binary", "goal": "Up"}, ".goal", 'supported values: "Increase", "Decrease"'),
    feedback({"kind": "Value"}, ".range", RANGE_FOR_VALUES),
    feedback({"kind": "Value", "minEffect": 20}, ".range", RANGE_FOR_VALUES),
    feedback({"kind": "Binary", "range": [0, 1]}, ".range", RANGE_FOR_VALUES),
    feedback({"kind": "Value", "range": [1, 1]}, ".range", RANGE),
    feedback({"kind": "Value", "range": [10, 0], "minEffect": 1}, ".range", RANGE),
    feedback({"kind": "Value", "range": [0, 1e300]}, ".range", RANGE),
    feedback(
        {"kind": "Value", "range": [1], "minEffect": 1}, ".range", "should have at least 2 items"
    ),
    feedback({"kind": "Value", "range": [1, 2, 3]}, ".range", "must have at most 2 items"),
    feedback({"kind": "Binary", "minEffect": 0}, ".minEffect", EFFECT),
    feedback({"kind": "Binary", "minEffect": 1}, ".minEffect", EFFECT_IN_RANGE),
    feedback({"kind": "Value", "range": [0, 10], "minEffect": 10}, ".minEffect", EFFECT_IN_RANGE),
    counted({"total": None}, ".total", "Required value"),
    counted({"successes": None}, ".successes", "Required value"),
    counted({"successes": ""}, ".successes", "should be at least 1 chars long"),
    counted({"total": "t" * 2001}, ".total", "may not be more than 2000"),
    counted({"goal": "Up"}, ".goal", 'supported values: "Increase", "Decrease"'),
    counted({"minEffect": 1}, ".minEffect", EFFECT_SHARE),
    abt({"guardrails": []}, "guardrails", "should have at least 1 items"),
    abt({"guardrails": [{"name": "accuracy", "errorRate": {}}]}, "guardrails", OTHER_NAMES),
    guardrail({}, "", ONE_GUARDRAIL),
    guardrail(
        {"errorRate": {}, "latency": {"quantile": 0.5, "maxRatioToControl": 2}}, "", ONE_GUARDRAIL
    ),
    guardrail({"name": ".a", "errorRate": {}}, ".name", METRIC_NAME),
    guardrail(
        {"errorRate": {"maxRatioToControl": 0}}, ".errorRate.maxRatioToControl", RATIO_TO_CONTROL
    ),
    guardrail({"errorRate": {"maxExcess": 1}}, ".errorRate.maxExcess", EXCESS),
    guardrail({"latency": {"quantile": 0.5}}, ".latency.maxRatioToControl", "Required value"),
    guardrail(
        {"latency": {"quantile": 0.5, "maxRatioToControl": 101}},
        ".latency.maxRatioToControl",
        RATIO_TO_CONTROL,
    ),
    guardrail(
        {"latency": {"quantile": 0.1, "maxRatioToControl": 2}}, ".latency.quantile", QUANTILE
    ),
    guardrail(
        {"latency": {"quantile": 0.5, "maxRatioToControl": 2, "priorities": [0]}},
        ".latency.priorities[0]",
        "greater than or equal to 1",
    ),
    abt({"covariate": {"header": ""}}, "covariate.header", COVARIATE_HEADER),
    abt({"assignment": None}, "covariate", NEEDS_USERS),
    abt({"expectedSamples": 0}, "expectedSamples", "should be greater than or equal to 1"),
    abt({"feedbackDelay": "721h"}, "feedbackDelay", FEEDBACK_DELAY),
    abt({"stopEarly": 1}, "stopEarly", "must be of type boolean"),
    abt({"onFinish": "Promote"}, "onFinish", 'supported values: "RevertToControl"'),
    abt({"suspend": "yes"}, "suspend", "must be of type boolean"),
    bpol({"models": None}, "models", "Required value"),
    bpol({"models": []}, "models", "should have at least 1 items"),
    bpol({"models": ["a", "a"]}, "models[1]", "Duplicate value"),
    bpol({"models": ["a", "b/c"]}, "models[1]", MODEL_NAME),
    bpol({"maxBatchSize": 0}, "maxBatchSize", "should be greater than or equal to 1"),
    bpol({"maxBatchSize": 65537}, "maxBatchSize", "should be less than or equal to 65536"),
    bpol({"maxWait": "5us"}, "maxWait", MAX_WAIT),
    bpol(
        {"maxWait": "10001ms", "targetLatency": None, "deadline": {"default": "30s"}},
        "maxWait",
        MAX_WAIT,
    ),
    bpol({"maxWait": "5s", "targetLatency": None}, "maxWait", BEFORE_DEADLINE),
    bpol({"strategy": "Fixed", "minBatchSize": None}, "optimize", NOT_WEIGHED),
    bpol({"strategy": "Fixed", "optimize": None}, "minBatchSize", NO_LEAST),
    bpol(
        {"strategy": "Adaptive", "maxWait": "0s", "targetLatency": None},
        "minBatchSize",
        NOTHING_WAITS,
    ),
    bpol({"priorities": {"default": 1, "levels": [{"level": 1}]}}, "queue.onFull", ONE_LEVEL),
    bpol(
        {
            "priorities": {
                "default": None,
                "levels": [{"level": 1, "maxSliceLatency": "2ms"}, {"level": 2}],
            }
        },
        "priorities.levels[0].maxSliceLatency",
        HIGHEST,
    ),
    bpol({"maxWait": "5d"}, "maxWait", MAX_WAIT),
    bpol({"maxWait": "50ms"}, "maxWait", BELOW_TARGET),
    bpol({"maxWait": "10s", "targetLatency": "1s"}, "maxWait", BELOW_TARGET),
    bpol({"strategy": ""}, "strategy", STRATEGY),
    bpol({"strategy": "a strategy"}, "strategy", STRATEGY),
    bpol({"minBatchSize": 0}, "minBatchSize", "should be greater than or equal to 1"),
    bpol({"minBatchSize": 33}, "minBatchSize", "must not be above maxBatchSize"),
    bpol({"targetLatency": "0s", "maxWait": None}, "targetLatency", TARGET),
    bpol({"targetLatency": "soon"}, "targetLatency", TARGET),
    bpol({"targetLatency": "11m", "deadline": {"default": "1h"}}, "targetLatency", TARGET),
    bpol({"targetLatency": "5001ms"}, "targetLatency", WITHIN_DEADLINE),
    bpol({"deadline": {"default": "49ms"}}, "targetLatency", WITHIN_DEADLINE),
    bpol({"optimize": "Cost"}, "optimize", 'supported values: "Throughput", "Latency"'),
    bpol({"hardware": "TPU"}, "hardware", 'supported values: "Auto", "GPU", "CPU"'),
    *(
        bpol(change, path, BYTES)
        for amount in ("0", 0, -1, "much", "1.5.", "100m", "2GB", "1e30", "2Pi", "")
        for path, change in (
            ("memoryLimit", {"memoryLimit": amount}),
            ("deduplication.maxBytes", {"deduplication": {"maxBytes": amount}}),
        )
    ),
    bpol({"memoryLimit": 1.5}, "memoryLimit", "must be of type integer,string"),
    bpol(
        {"queue": {"maxSize": 0}, "priorities": None},
        "queue.maxSize",
        "should be greater than or equal to 1",
    ),
    bpol(
        {"queue": {"maxSize": 2000000}}, "queue.maxSize", "should be less than or equal to 1000000"
    ),
    bpol({"queue": {"maxSize": 199}}, "priorities.levels", QUEUE_OF_LEVEL),
    bpol({"queue": {"onFull": "Wait"}}, "queue.onFull", 'supported values: "Reject", "DropLowest"'),
    bpol({"priorities": {"default": 0}}, "priorities.default", "greater than or equal to 1"),
    bpol({"priorities": {"default": 8}}, "priorities.default", ONE_OF_LEVELS),
    bpol({"priorities": {"default": 6, "levels": None}}, "priorities.default", ONE_OF_FIVE),
    bpol({"priorities": {"agingAfter": "0s"}}, "priorities.agingAfter", AGING_AFTER),
    bpol({"priorities": {"agingAfter": "1h1ms"}}, "priorities.agingAfter", AGING_AFTER),
    bpol({"priorities": {"agingReserve": -0.1}}, "priorities.agingReserve", AGING_RESERVE),
    bpol({"priorities": {"agingReserve": 0.51}}, "priorities.agingReserve", AGING_RESERVE),
    bpol(
        {"priorities": {"default": None, "levels": []}},
        "priorities.levels",
        "should have at least 1 items",
    ),
    bpol(
        {"priorities": {"levels": [{"level": 3}, {"level": 3, "name": "other"}]}},
        "priorities.levels[1]",
        "Duplicate value",
    ),
    level({"level": None}, ".level", "Required value"),
    level({"level": 0}, ".level", "should be greater than or equal to 1"),
    level({"level": 33}, ".level", "should be less than or equal to 32"),
    level({"level": "high"}, ".level", "must be of type integer"),
    level({"name": ""}, ".name", LEVEL_NAME),
    level({"waitMultiplier": -0.1}, ".waitMultiplier", MULTIPLIER),
    level({"waitMultiplier": 101}, ".waitMultiplier", MULTIPLIER),
    level({"maxQueue": 0}, ".maxQueue", "should be greater than or equal to 1"),
    level({"maxSliceLatency": "0s"}, ".maxSliceLatency", SLICE),
    level({"maxSliceLatency": "11s"}, ".maxSliceLatency", SLICE),
    bpol({"deadline": {"default": "2h"}}, "deadline.default", DEADLINE),
    bpol({"deadline": {"default": "never"}}, "deadline.default", DEADLINE),
    bpol({"deadline": {"earlyDrop": "no"}}, "deadline.earlyDrop", "must be of type boolean"),
    bpol({"deduplication": {"enabled": 1}}, "deduplication.enabled", "must be of type boolean"),
    bpol({"deduplication": {"ttl": "25h"}}, "deduplication.ttl", TTL),
    bpol({"deduplication": {"maxEntries": 0}}, "deduplication.maxEntries", "greater than or equal"),
]

ANOTHER_VERSION = "cannot be changed; create another ModelVersion"
ANOTHER_ROLLOUT = "cannot be changed; create another CanaryRollout"
COMES_OR_GOES = "cannot be added or removed; create another CanaryRollout"
ANOTHER_TEST = "cannot be changed; create another ABTest"
COMES_OR_GOES_IN_TEST = "cannot be added or removed; create another ABTest"
CHANGES_ARMS_OF_TEST = (
    "cannot be added or removed, as users would change arms; create another ABTest"
)
CHANGES_ARMS = (
    "cannot be added or removed, as users would change arms; create another CanaryRollout"
)
WRONG_AS_UPDATE = [
    mver({"model": "other"}, "model", ANOTHER_VERSION),
    mver({"version": 3}, "version", ANOTHER_VERSION),
    cro({"model": "other"}, "model", ANOTHER_ROLLOUT),
    cro({"canaryVersion": 3}, "canaryVersion", ANOTHER_ROLLOUT),
    cro({"stableVersion": 3}, "stableVersion", ANOTHER_ROLLOUT),
    cro({"stableVersion": None}, "stableVersion", COMES_OR_GOES),
    cro({"assignment": None}, "assignment", CHANGES_ARMS),
    cro(
        {
            "maxPercent": 0,
            "analysis": {"metrics": [{"name": "m", "errorRate": {"rollback": 0.2}}]},
        },
        "maxPercent",
        "cannot become 0, or cease to be, as a rollout either moves traffic or only mirrors it; "
        "create another CanaryRollout",
    ),
    cro(
        {"assignment": {"header": "x-session"}},
        "assignment.header",
        "cannot be changed, as users would change arms; create another CanaryRollout",
    ),
    abt({"model": "other"}, "model", ANOTHER_TEST),
    abt({"controlVersion": 3}, "controlVersion", ANOTHER_TEST),
    abt({"treatmentVersion": 3}, "treatmentVersion", ANOTHER_TEST),
    abt({"treatmentPercent": 30}, "treatmentPercent", ANOTHER_TEST),
    abt({"treatmentPercent": None}, "treatmentPercent", ANOTHER_TEST),
    abt({"significanceLevel": 0.05}, "significanceLevel", ANOTHER_TEST),
    abt(
        {"successMetrics": COMPLETE["ABTest"]["successMetrics"][:2]}, "successMetrics", ANOTHER_TEST
    ),
    abt({"guardrails": COMPLETE["ABTest"]["guardrails"][:1]}, "guardrails", ANOTHER_TEST),
    abt({"guardrails": None}, "guardrails", COMES_OR_GOES_IN_TEST),
    abt({"covariate": None}, "covariate", COMES_OR_GOES_IN_TEST),
    abt({"covariate": {"header": "x-other"}}, "covariate.header", ANOTHER_TEST),
    abt({"expectedSamples": 4000}, "expectedSamples", ANOTHER_TEST),
    abt({"expectedSamples": None}, "expectedSamples", ANOTHER_TEST),
    abt(
        {"assignment": {"header": "x-session"}},
        "assignment.header",
        "cannot be changed, as users would change arms; create another ABTest",
    ),
]
WRONG_AS_ADDITION = [
    abt({"assignment": {"header": "x-user-id"}}, "assignment", CHANGES_ARMS_OF_TEST),
    abt({"guardrails": [{"name": "m", "errorRate": {}}]}, "guardrails", COMES_OR_GOES_IN_TEST),
    abt({"expectedSamples": 4000}, "expectedSamples", ANOTHER_TEST),
    cro({"stableVersion": 1}, "stableVersion", COMES_OR_GOES),
    cro({"assignment": {"header": "x-user-id"}}, "assignment", CHANGES_ARMS),
]

EDITS = [
    ("ModelVersion", {"lifecycle": "Inactive", "trafficPercent": None, "podSelector": None}),
    ("CanaryRollout", {"stepPercent": 30, "maxPercent": None, "stepDuration": "1s"}),
    (
        "CanaryRollout",
        {"analysis": {"metrics": [{"name": "m", "dryRun": True, "errorRate": {"rollback": 0.2}}]}},
    ),
    ("CanaryRollout", {"analysis": None, "gatingDeadline": None}),
    (
        "CanaryRollout",
        {**NO_STEP_FIELDS, "steps": [{"percent": 20, "duration": "1m"}, {"percent": 100}]},
    ),
    ("ABTest", {"startTime": None, "endTime": None, "duration": "1s", "minSamples": 10}),
    ("ABTest", {"feedbackDelay": "720h", "onFinish": "Hold", "suspend": None}),
    ("BatchPolicy", {"models": ["other"], "maxBatchSize": None, "strategy": None}),
    (
        "BatchPolicy",
        {
            "targetLatency": None,
            "maxWait": "10s",
            "memoryLimit": None,
            "deadline": {"default": "10001ms"},
        },
    ),
    ("BatchPolicy", {"strategy": "Fixed", "optimize": None, "minBatchSize": None}),
    ("BatchPolicy", {"priorities": None, "deduplication": None, "deadline": None, "queue": None}),
]


# BatchPolicies of before the rules that they break, and what mends each.
BEFORE_THE_RULES: dict[str, tuple[Spec, Spec]] = {
    "late": ({"maxWait": "6s", "deadline": {"default": "5s"}}, {"maxWait": "4s"}),
    "weighed": ({"strategy": "Fixed", "optimize": "Latency"}, {"optimize": None}),
    "least": ({"strategy": "Fixed", "minBatchSize": 4}, {"strategy": None}),
    "hasty": ({"maxWait": "0s", "minBatchSize": 4}, {"minBatchSize": None}),
    "alone": (
        {"queue": {"onFull": "DropLowest"}, "priorities": {"levels": [{"level": 1}]}},
        {"priorities": {"levels": [{"level": 2}]}},
    ),
    "sliced": (
        {"priorities": {"levels": [{"level": 1, "maxSliceLatency": "2ms"}]}},
        {"priorities": {"levels": [{"level": 1}]}},
    ),
}


# What is at the edge of a rule, on its good side.
GOOD = [
    mver({"metadata": {f"k{i}": "" for i in range(13)} | {"k" * 63: "v" * 256}}),
    cro({"maxPercent": 0, "mirrorPercent": 1, "analysis": ERRORS_ONLY}),
    cro({"maxPercent": 0, "mirrorPercent": 100, "analysis": {"metrics": None}}),
    cro({"mirrorPercent": 0, "analysis": ERRORS_ONLY}),
    steps([{"percent": i, "duration": "1s"} for i in range(1, 20)] + [{"percent": 100}]),
    steps([{"percent": 99, "duration": "720h", "gate": "Manual"}]),
    steps([{"percent": 1, "duration": "1s"}, {"percent": 100, "duration": "1h", "gate": "Manual"}]),
    errors({"maxRatioToStable": 100}),
    errors({"success": 0.05, "rollback": 0.05}),
    latency({"maxRatioToStable": 0.001}),
    latency({"success": "60s", "rollback": "1m"}),
    disagreement({"max": 0, "tolerance": 1000000}),
    promql({"query": "u" * 2000}),
    promql({"success": {"min": 3}, "rollback": {"max": 2.999}}),
    promql({"success": {"max": 3}, "rollback": {"min": 4, "max": 5}}),
    promql({"success": {"min": 1, "max": 1}, "rollback": {"min": 2}}),
    promql({"success": None, "rollback": {"max": -1}}),
    feedback({"kind": "Value", "range": [-1, -0.5], "minEffect": 0.49}),
    feedback({"kind": "Binary", "goal": "Decrease", "minEffect": 0.99}),
    counted({}),
    guardrail({"errorRate": {"maxExcess": 0}}),
    abt({"guardrails": None, "assignment": None, "covariate": None, "expectedSamples": None}),
    abt({"startTime": None, "endTime": "2020-01-01T00:00:00Z"}),
    bpol({"minBatchSize": 32}),
    bpol({"minBatchSize": 65536, "maxBatchSize": None}),
    bpol({"maxWait": "49ms"}),
    bpol({"maxWait": "4999ms", "targetLatency": None}),
    bpol({"maxWait": "10s", "targetLatency": None, "deadline": {"default": "0s"}}),
    bpol({"strategy": "Fixed", "optimize": "Throughput", "minBatchSize": 1}),
    bpol({"strategy": "Adaptive", "maxWait": "0s"}),
    bpol({"strategy": "Adaptive", "maxWait": "0s", "targetLatency": None, "minBatchSize": 1}),
    bpol({"priorities": {"default": 1, "levels": [{"level": 2, "maxSliceLatency": "2ms"}]}}),
    bpol({"maxWait": None, "targetLatency": "1ms"}),
    bpol({"targetLatency": "5s"}),
    bpol({"targetLatency": "10m", "deadline": {"default": "0s"}}),
    *(bpol({"memoryLimit": amount}) for amount in (1, "1", "1.5Gi", "1e9", "1500m", "1Pi")),
    bpol({"deduplication": {"ttl": "0s", "maxBytes": 65536}}),
    bpol({"priorities": {"default": 7}}),
    bpol({"priorities": {"default": 5, "levels": None}}),
    bpol({"priorities": {"agingReserve": 0, "agingAfter": "1ms"}}),
    bpol({"priorities": {"default": 32, "levels": [{"level": i} for i in range(1, 33)]}}),
    level({"waitMultiplier": 100, "maxQueue": 200, "maxSliceLatency": "1ms"}),
]
