"""The moment of a breach, from the samples that Prometheus holds."""

from tidegate_demo.breach import decided, tallies
from tidegate_operator.evidence.tally import Tally


def test_each_scrape_adds_to_what_the_other_pods_last_had() -> None:
    requests = {"a": [(1.0, 10.0), (3.0, 20.0)], "b": [(2.0, 5.0)]}
    bad = {"a": [(1.0, 0.0), (3.0, 4.0)], "b": [(2.0, 1.0)]}

    assert tallies(requests, bad) == [
        (1.0, Tally(requests=10, bad=0)),
        (2.0, Tally(requests=15, bad=1)),
        (3.0, Tally(requests=25, bad=5)),
    ]


def test_a_phase_has_the_time_at_which_the_history_first_names_it() -> None:
    history = [
        {"time": "1970-01-01T00:00:01.250Z", "to": "Progressing"},
        {"time": "1970-01-01T00:00:09.000Z", "to": "RolledBack"},
    ]

    assert decided({"history": history}, "Progressing") == 1.25
    assert decided({"history": history}, "Failed") is None
