"""The keywords that type checkers know of are those that the functions take; what comes out: `typed_calls.py`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from taylorshift_core import attention, attention_packed
from taylorshift_core._signature import AllOptions, Options, PackedOptions

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("function", "options", "others"),
    [
        (attention, Options, {"return_state"}),
        (attention, AllOptions, set()),
        (attention_packed, PackedOptions, {"cu_seqlens_q", "return_state"}),
    ],
)
def test_type_checkers_know_every_keyword(function: Callable[..., Any], options: Any, others: set[str]) -> None:
    parameters = inspect.signature(function).parameters.values()
    taken = {each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    assert options.__optional_keys__ | others == taken
    assert not options.__required_keys__
