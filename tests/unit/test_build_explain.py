"""Why a step missed the cache."""

from __future__ import annotations

import pytest

from fastlayer.builder.explain import Details, why

RUN = {"step": "run", "parent": "c1", "args": ["sh"], "env": {"A": "1", "B": "2"}, "user": "", "mounts": []}


def content(old: Details, new: Details) -> str:
    return f"content {old[0][1]} -> {new[0][1]}"


@pytest.mark.parametrize(
    "change,words",
    [
        ({"env": {"A": "1", "B": "3"}}, "the variable B was '2', is '3'"),
        ({"env": {"A": "1"}}, "the variable B is gone"),
        ({"env": {"A": "1", "B": "2", "C": "3"}}, "the variable C is new"),
        ({"parent": "c2"}, "what is below it has changed"),
        ({"user": "app"}, "the user (USER) was '', is 'app'"),
        ({"mounts": [{"target": "/x", "content": "d"}]}, "the number of mounts has changed"),
    ],
)
def test_the_first_input_that_differs(change: dict[str, object], words: str) -> None:
    assert why({**RUN, **change}, [RUN], content) == words


def test_a_cause_counts_more_than_what_follows_from_it() -> None:
    """The nearest of what is known is compared with, wherever it stands."""
    other = {**RUN, "env": {}, "user": "x"}
    assert why({**RUN, "parent": "c2"}, [other, RUN], content) == "what is below it has changed"


def test_content() -> None:
    copy = {"step": "copy", "facts": [], "content": "k1", "_details": [["src", "d1"]], "target": "/"}
    assert why({**copy, "content": "k2", "_details": [["src", "d2"]]}, [copy], content) == "content d1 -> d2"
    mounted = {**RUN, "mounts": [{"target": "/x", "content": "k1", "_details": [["src", "d1"]]}]}
    again = {**RUN, "mounts": [{"target": "/x", "content": "k2", "_details": [["src", "d2"]]}]}
    assert why(again, [mounted], content) == "--mount at /x: content d1 -> d2"


def test_nothing_is_known() -> None:
    assert why(RUN, [], content) == "no step with this instruction is in the cache"
    assert why(RUN, [RUN], content) == "its layer has been removed"


def test_long_values_are_cut() -> None:
    told = why({**RUN, "user": "u" * 500}, [RUN], content)
    assert len(told) < 120 and told.endswith("...'")
