"""The clients' book: what is counted, and what is noticed."""

import numpy as np
import pytest

from tidegate_demo.ledger import SWAP_SECONDS, Answer, Ledger, Report, p95
from tidegate_demo.train import HeldOut

HELD_OUT = HeldOut(
    images=np.zeros((4, 64), np.float32),
    labels=np.array([0, 1, 2, 3]),
    predictions={1: np.array([0, 1, 9, 9]), 2: np.array([0, 1, 2, 9])},
)


def answer(
    sent: float = 0.0,
    *,
    version: int | None = 1,
    image: int = 0,
    label: int | None = 0,
    status: int = 200,
    arm: str = "stable",
    user: str | None = None,
    own: bool = True,
) -> Answer:
    return Answer(sent, sent + 0.01, image, user, "127.0.0.2", status, arm, version, label, own)


def ledger_of(*answers: Answer) -> Ledger:
    ledger = Ledger(HELD_OUT)
    for one in answers:
        ledger.open()
        ledger.close(one)
    return ledger


def test_a_request_without_an_answer_is_lost_and_belongs_to_no_arm() -> None:
    ledger = ledger_of(answer(), answer(status=0, arm="none", version=None, label=None))

    assert (ledger.sent, ledger.closed, ledger.lost) == (2, 2, 1)
    assert ledger.answers_by_arm() == {"stable": 1}


def test_failures_are_counted_by_the_arm_that_failed() -> None:
    ledger = ledger_of(answer(), answer(status=500, arm="canary"), answer(status=503, arm="canary"))

    assert ledger.failed_by_arm == {"canary": 2}


def test_accuracy_is_of_the_images_that_a_version_read() -> None:
    ledger = ledger_of(
        answer(image=0, label=0),
        answer(image=2, label=9),
        answer(image=1, label=None, status=500),
        answer(image=1, label=1, version=2),
    )

    assert ledger.accuracy(1) == (0.5, 2)
    assert ledger.accuracy(2) == (1.0, 1)
    assert ledger.accuracy(4) is None


def test_an_answer_that_its_version_would_not_give_is_noticed() -> None:
    right_for_another_image = answer(image=0, label=1)
    as_wrong_as_its_version = answer(image=3, label=9)

    ledger = ledger_of(right_for_another_image, as_wrong_as_its_version)

    assert ledger.unlike_their_version() == 1


def test_an_answer_to_somebody_elses_request_is_noticed() -> None:
    assert ledger_of(answer(), answer(own=False)).strangers == 1


@pytest.mark.parametrize(
    ("visits", "sent_back"),
    [
        ([(0, 1), (1, 1), (2, 2), (9, 2)], 0),
        ([(0, 1), (2, 2), (2 + SWAP_SECONDS / 2, 1), (9, 2)], 0),
        ([(0, 1), (2, 2), (9, 1)], 1),
        ([(0, 2), (9, 1), (12, 2), (20, 1)], 1),
    ],
)
def test_a_user_is_sent_back_when_the_old_version_answers_after_the_new(
    visits: list[tuple[float, int]], sent_back: int
) -> None:
    ledger = ledger_of(*(answer(sent, version=version, user="ada") for sent, version in visits))

    assert ledger.users_moved(0, 100, old=1, new=2) == (1, sent_back)


def test_users_are_followed_one_by_one() -> None:
    ledger = ledger_of(answer(0, version=2, user="ada"), answer(50, version=1, user="alan"))

    assert ledger.users_moved(0, 100, old=1, new=2) == (1, 0)


def test_a_user_is_listed_with_the_arms_that_were_met() -> None:
    ledger = ledger_of(
        answer(0, arm="control", user="ada"),
        answer(1, arm="treatment", user="ada"),
        answer(2, arm="treatment", user="alan"),
        answer(3, arm="canary", user="alan"),
        answer(4, arm="control"),
    )

    met = ledger.arms_of_users(["control", "treatment"])

    assert met == {"ada": {"control", "treatment"}, "alan": {"treatment"}}


def test_reports_are_kept_by_arm_and_counted_from_a_moment_on() -> None:
    ledger = ledger_of(answer(9.5, arm="control"))
    for time, arm, correct in [
        (1.0, "control", False),
        (2.0, "control", True),
        (3.0, "treatment", True),
    ]:
        ledger.reported(Report(time, arm, correct))

    assert ledger.reported_right("control") == (0.5, 2)
    assert ledger.reported_right("control", since=2.0) == (1.0, 1)
    assert ledger.reported_right("canary") is None
    figures = ledger.by_arm(now=10, window=2)["control"]
    assert (figures.correct, figures.reports) == (0.5, 2)


def test_an_answer_is_right_if_it_names_the_digit_that_was_sent() -> None:
    ledger = ledger_of()

    assert ledger.correct(answer(image=2, label=2))
    assert not ledger.correct(answer(image=2, label=9))


def test_figures_are_of_the_window_alone() -> None:
    ledger = ledger_of(answer(0), answer(9, status=500), answer(9.5), answer(9.6, arm="canary"))

    figures = ledger.by_arm(now=10, window=2)

    assert figures["stable"].rate == 1.0
    assert figures["stable"].failed == 1
    assert figures["canary"].rate == 0.5


def test_a_quantile_of_nothing_is_nothing() -> None:
    assert p95([]) is None
    assert p95([0.25]) == 0.25
    assert p95([0.0] * 95 + [1.0] * 5) == pytest.approx(0.05)
