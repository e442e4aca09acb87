"""The classes whose objects are pytrees: arrays in a fixed order, and a rest that can be compared and hashed.

Each has `tree_flatten`, which returns arrays and rest, and `tree_unflatten`, which takes rest and arrays: the protocol
of ``jax.tree_util.register_pytree_node_class``. The adapter of a library that knows pytrees registers them.
"""

from __future__ import annotations

from typing import Any

from taylorshift_core._decoder import Decoder
from taylorshift_core._state import State
from taylorshift_core._stream import Tokens
from taylorshift_core._window import Contents, SlidingWindow

CLASSES: tuple[Any, ...] = (State, Tokens, Decoder, Contents, SlidingWindow)
