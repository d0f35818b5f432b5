"""The profile's page: all of the profile stands there, and nothing of it can break the page."""

import re
from html.parser import HTMLParser
from typing import Any

from typing_extensions import override

from tidegate_sidecar.core import report
from tidegate_sidecar.core.profile import STAGES


def stage(mean: float | None) -> dict[str, float | None]:
    return {"mean": mean, "p50": mean, "p95": mean, "p99": mean, "percent": 25.0}


def profile(**changed: Any) -> dict[str, Any]:
    model = {
        "strategy": "Adaptive",
        "waiting": 3,
        "memory": None,
        "requests": [
            {
                "version": 1,
                "level": 3,
                "name": "normal",
                "requests": 1234,
                "stages": {name: stage(0.0025) for name in STAGES},
            }
        ],
        "batches": [
            {
                "lane": 1,
                "group": "x FP32[16]",
                "fixed": 0.004,
                "per_row": 0.0002,
                "batches": 77,
                "reason": "full",
                "reasons": {"full": 70, "waiting would not pay": 7},
            }
        ],
    }
    return {"models": {"digits": model | changed}}


class Page(HTMLParser):
    """The text of a page, and what it would fetch or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.links: list[str | None] = []
        self.feed(page)

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href"}]

    @override
    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_everything_stands_on_one_page() -> None:
    page = Page(report.render(profile()))
    for told in ("digits", "Adaptive", "1,234", "2.5 ms", "x FP32[16]", "4 ms", "200 µs", "full"):
        assert told in page.text, told
    assert page.tags.count("rect") == len(STAGES)
    assert page.links == []
    assert "script" not in page.tags


def test_it_says_whose_it_is_and_leads_to_each_of_several_models() -> None:
    two = profile()
    two["models"]["<b>"] = profile(requests=[], waiting=1)["models"]["digits"]
    page = Page(report.render(two, "pod-1, noon"))
    assert "pod-1, noon" in page.text
    assert "1 request waits." in page.text
    assert page.links == ["#digits", "#<b>"]
    assert "b" not in page.tags


def test_a_sidecar_without_a_model_says_so() -> None:
    assert "No model is served here." in Page(report.render({"models": {}})).text


def test_long_labels_do_not_reach_into_the_bars() -> None:
    long = profile()
    long["models"]["digits"]["requests"][0]["version"] = 1733000000123
    bars = re.findall(r'<rect x="([\d.]+)"', report.render(long))
    assert min(map(float, bars)) >= 7 * len("version 1733000000123, level 3")


def test_a_model_that_nobody_asked_is_said_to_be_so() -> None:
    page = Page(report.render(profile(requests=[], batches=[])))
    assert "No request was answered yet." in page.text


def test_short_memory_is_told() -> None:
    note = "batches are at 50% of their size: GPU memory is 93% used"
    assert note in Page(report.render(profile(memory=note))).text
    assert "requests wait." in Page(report.render(profile())).text


def test_a_line_has_the_colour_that_stands_beside_its_group() -> None:
    one = profile()["models"]["digits"]["batches"][0]
    page = report.render(profile(batches=[one, {**one, "lane": 2}]))
    listed = page[page.index("What batches cost") :]
    keys = re.findall(r'class="colour" style="background:(#\w+)"', listed)
    assert keys == re.findall(r'<line [^>]*stroke="(#\w+)"', listed)
    assert len(set(keys)) == 2


def test_a_stage_that_was_not_seen_is_left_blank() -> None:
    unseen = profile()
    unseen["models"]["digits"]["requests"][0]["stages"]["queue"] = stage(None)
    assert " - " in f"{Page(report.render(unseen)).text} "


def test_names_cannot_break_the_page() -> None:
    evil = '<script>alert("x")</script>'
    page = Page(report.render(profile(strategy=evil)))
    assert "script" not in page.tags
    assert evil in page.text
