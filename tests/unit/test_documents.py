"""The documents: what they name is there, and what there is they name."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tidegate_contract.names import METRIC_FEEDBACK
from tidegate_operator.__main__ import settings
from tidegate_sidecar.shell import metrics
from tidegate_sidecar.shell.config import read_settings

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


def text(document: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)


def anchors(document: Path) -> Iterator[str]:
    """Of its headings, as they are shown in a browser."""
    for heading in re.findall(r"^#+ (.*)$", text(document), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        yield re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: str(one.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text(document))
    for link in links:
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


@pytest.mark.parametrize("read", [settings, partial(read_settings, environment={})])
def test_reference_names_every_option(
    read: Callable[[list[str]], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read(["--help"])
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert options
    assert [one for one in options if f"| `{one}`" not in REFERENCE] == []


def test_reference_names_the_sums_of_feedback() -> None:
    names = [f"{METRIC_FEEDBACK}_{part}_total" for part in metrics._SUMS]
    assert [name for name in names if f"`{name}{{" not in REFERENCE] == []
