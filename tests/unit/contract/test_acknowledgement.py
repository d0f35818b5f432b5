"""A pod's report."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_contract import acknowledgement
from tidegate_contract.acknowledgement import Acknowledgement, PodReport, Tensor, VersionState

REPORT = PodReport(
    pod="triton-0",
    pod_uid="u",
    ready=True,
    models={
        "digits": Acknowledgement(
            table_uid="t",
            revision=4,
            digest="d",
            refused="too old",
            versions={
                1: VersionState(
                    state="Ready", inputs=[Tensor(name="x", datatype="FP32", shape=[-1])]
                ),
                2: VersionState(state="Failed", error="no such file"),
            },
        )
    },
)


def test_what_a_sidecar_says_is_read_back() -> None:
    assert acknowledgement.decode(msgspec.json.encode(REPORT)) == REPORT


@given(st.binary())
def test_what_is_no_report_is_refused(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        acknowledgement.decode(body)
