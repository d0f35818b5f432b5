"""Users: the default ones, those of a file, and changes of either."""

from pathlib import Path

import pytest

from tidegate_cli.errors import CommandError
from tidegate_load.users import DEFAULT, User, chosen, seconds


def test_five_users_are_there_without_a_word() -> None:
    found = chosen(None, [])

    assert [one.name for one in found] == ["vip", "premium", "regular", "batch", "background"]
    assert [one.priority for one in found] == [1, 2, 3, 4, 5]


def test_a_change_leaves_the_other_fields_and_may_add_a_user() -> None:
    found = chosen(None, ["vip:share=9,deadline=50ms", "robot:priority=7,rows=4"])

    assert found[0] == User(name="vip", share=9, priority=1, deadline=0.05)
    assert found[-1] == User(name="robot", share=1, priority=7, rows=4)
    assert found[1:-1] == DEFAULT[1:]


def test_an_empty_deadline_is_none() -> None:
    assert chosen(None, ["vip:deadline="])[0].deadline is None


@pytest.mark.parametrize(
    "text",
    [
        "- {name: a, share: 2, deadline: 2s}\n- {name: b, priority: 4}\n",
        '[{"name": "a", "share": 2, "deadline": "2s"}, {"name": "b", "priority": 4}]',
    ],
)
def test_a_file_replaces_them(tmp_path: Path, text: str) -> None:
    file = tmp_path / "users"
    file.write_text(text)

    assert chosen(file, []) == (
        User(name="a", share=2, deadline=2.0),
        User(name="b", priority=4),
    )


@pytest.mark.parametrize(
    ("text", "value"), [("100ms", 0.1), ("2s", 2.0), ("1.5m", 90.0), ("0.5ms", 0.0005)]
)
def test_durations(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("vip:share", "no FIELD=VALUE"),
        ("vip:share=-1", "share must be"),
        ("vip:share=nan", "share must be"),
        ("vip:rows=0", "at least 1"),
        ("vip:priority=high", "Expected `int`"),
        ("vip:deadline=soon", "no duration"),
        ("vip:deadline=0s", "deadline must be above 0"),
        ("vip:colour=red", "unknown field"),
    ],
)
def test_changes_that_make_no_sense(change: str, says: str) -> None:
    with pytest.raises(CommandError, match=says):
        chosen(None, [change])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("vip", "no list of users"),
        ("- {share: 1}", "user 1: .*name"),
        ("- {name: a}\n- {name: a}", "two users have one name"),
        ("- {name: a, share: 0}", "no user has a share"),
        ("[]", "no user has a share"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "users.yaml"
    file.write_text(text)

    with pytest.raises(CommandError, match=says):
        chosen(file, [])


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(CommandError, match="No such file"):
        chosen(Path("/nowhere/users.yaml"), [])
