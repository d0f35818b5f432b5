"""Figures of a run that was written by hand, and what people see of them."""

import io
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tidegate_load import plots, report
from tidegate_load.schedule import Schedule
from tidegate_load.sender import Record
from tidegate_load.summary import Summary, jain, summarise
from tidegate_load.users import User

USERS = (
    User(name="quick", priority=1, deadline=0.1),
    User(name="patient", priority=4),
    User(name="absent", priority=5),
)
NAN = float("nan")
# user, due at, sent at, done at, status
STORY = [
    (0, 0.0, 0.001, 0.051, 200),
    (0, 0.1, 0.1, 0.25, 200),  # late
    (0, 0.2, 0.2, 0.3, 504),
    (0, 0.3, 0.3, 0.31, 429),
    (1, 0.4, 0.4, 2.4, 200),
    (1, 0.5, 0.5, 0.6, 503),
    (1, 0.6, 0.6, 0.7, 500),
    (1, 0.7, 0.7, 0.8, 0),  # lost
    (1, 0.8, 0.8, NAN, 0),  # never answered
    (1, 0.9, NAN, NAN, 0),  # never sent
    (1, 9.9, NAN, NAN, 0),  # not due when it ended
]


def record() -> Record:
    users, at, sent, done, status = (np.array(column) for column in zip(*STORY, strict=True))
    return Record(
        Schedule(at, users, np.ones_like(users), 10.0),
        sent,
        done,
        status.astype(np.uint16),
        np.array([0, 3, 1, 2, 5, 6, 7, 4, 0, 0, 0], np.uint64),
        ended=8,
        delayed=1,
        due=10,
        elapsed=4.0,
        interrupted=True,
    )


def summary() -> Summary:
    return summarise(record(), USERS, target="h:1", model="digits", pattern="normal", seed=3)


def test_each_request_ends_in_one_way() -> None:
    found = summary()

    assert [one.name for one in found.users] == ["quick", "patient"]
    quick, patient = (one.figures for one in found.users)
    assert (quick.scheduled, quick.sent, quick.unsent) == (4, 4, 0)
    assert (quick.ok, quick.in_time, quick.expired, quick.rejected, quick.errors) == (2, 1, 1, 1, 0)
    assert (patient.scheduled, patient.sent, patient.unsent) == (6, 5, 1)
    assert (patient.ok, patient.in_time, patient.rejected, patient.errors) == (1, 1, 1, 2)
    assert patient.unanswered == 1
    total = found.total
    assert total.scheduled == 10
    assert total.sent == total.ok + total.expired + total.rejected + total.errors + 1


def test_latencies_count_from_when_a_request_was_due() -> None:
    quick = summary().users[0].figures

    assert quick.latency
    assert quick.latency.max == pytest.approx(150)
    assert quick.latency.p50 == pytest.approx((51 + 150) / 2)
    assert quick.throughput == 0.5


def test_what_else_is_told() -> None:
    found = summary()

    assert found.statuses == {"200": 3, "429": 1, "500": 1, "503": 1, "504": 1, "lost": 1}
    assert found.arrival_error
    assert found.arrival_error.max == pytest.approx(1)
    assert found.fairness == jain([1 / 4, 1 / 6])
    assert found.interrupted


def test_nothing_happened() -> None:
    empty = np.array([])
    nothing = Record(
        Schedule(empty, empty.astype(int), empty.astype(int), 1.0),
        empty,
        empty,
        empty.astype(np.uint16),
        empty.astype(np.uint64),
    )
    found = summarise(nothing, USERS, target="h:1", model="digits", pattern="normal", seed=0)

    assert found.users == []
    assert found.fairness is found.arrival_error is found.total.latency is None
    assert shown(found).count("\n") > 3
    assert plots.drawn(".png", nothing, USERS, found).startswith(b"\x89PNG")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_fairness_lies_between_one_of_n_and_one(shares: list[float]) -> None:
    found = jain(shares)

    if found is not None:
        assert 1 / len(shares) - 1e-9 <= found <= 1 + 1e-9


def test_fairness_of_known_allocations() -> None:
    assert jain([0.3, 0.3, 0.3]) == pytest.approx(1)
    assert jain([1, 0, 0, 0]) == 0.25
    # Half of the users get all: the index says half.
    assert jain([0.7, 0.7, 0, 0]) == pytest.approx(0.5)
    assert jain([0, 0]) is jain([]) is None


def shown(found: Summary, width: int = 100) -> str:
    screen = Console(file=io.StringIO(), width=width, highlight=False)
    report.show(screen, found)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_the_table_fits_a_terminal_and_says_all() -> None:
    text = shown(summary())

    assert "10 requests in 4.0 s, interrupted" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert rows["quick"][1:4] == ["1", "4", "0.5"]
    assert rows["quick"][-4:] == ["25.0%", "1", "1", "0"]
    assert rows["all"][1] == "9"
    assert "1 x lost" in text
    assert "1 had no answer, 1 were not sent" in text


def test_a_narrow_terminal_loses_no_figure() -> None:
    def figures(width: int) -> list[list[str]]:
        return [line.split() for line in shown(summary(), width).splitlines() if "%" in line]

    assert figures(30) == figures(100)
    assert figures(30)


def test_a_run_that_was_late_is_doubted() -> None:
    late = record()
    late.sent[:6] = late.schedule.times[:6] + 0.05
    for delayed, why in ((5, "--connections"), (0, "this machine is too busy")):
        late.delayed = delayed
        found = summarise(late, USERS, target="h", model="m", pattern="normal", seed=0)
        assert why in " ".join(shown(found).split())
    assert "later than" not in shown(summary())


def test_progress_in_a_pipe_is_a_line_for_each_second() -> None:
    screen = Console(file=io.StringIO(), width=200, highlight=False)
    now = record()
    with report.Progress(screen, now.schedule) as progress:
        progress.show(now)
        now.elapsed = 5.0
        progress.show(now)
    assert isinstance(screen.file, io.StringIO)
    first, second = screen.file.getvalue().splitlines()

    assert re.search(r"4/10 s .* 2 due/s .* 1 ok/s .* 2 open", first)
    assert re.search(r"5/10 s .* 0 due/s .* 0 ok/s .* - .* 0 bad/s", second)


def test_a_page_needs_no_network(tmp_path: Path) -> None:
    page = plots.drawn(".html", record(), USERS, summary()).decode()

    assert page.count("<svg") == page.count("</svg>") == 1
    assert "quick" in page
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    assert "@import" not in page
    (tmp_path / "same.html").write_text(page)
    assert plots.drawn(".html", record(), USERS, summary()).decode() == page


def test_programs_read_what_people_do() -> None:
    found = json.loads(msgspec.json.encode(summary()))

    assert found["format"] == "tidegate.dev/load/v1"
    assert found["users"][0]["figures"]["in_time"] == 1
    assert found["users"][1]["deadline"] is None
