"""Documents with some values changed into what no program would write, or one would write to hurt."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gguffast.errors import GGUFFastError

unhurried = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
"""A loaded machine is no finding; what a fixture gives is not changed by an example."""

WILD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 255, 2**16, 2**24, 2**29, 2**31 - 1, 2**31, 2**32, 2**63, 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1e-320, 1e38, 1e39, 1e308, float("inf"), float("-inf"), float("nan")),
    *("", "x", "0", "\0", "a\nb", "\x1b[31m", "../../x", "é" * 300, "x" * 5000, "yarn", "llama3", "longrope"),
    *([], [0], [10**400], ["x"], [None], [[]], [[[]]], [1.5, "x"], list(range(64)), [0.0] * 16),
    *({}, {"x": 1}, {"content": 1}, {"type": "Sequence"}, {"type": "linear", "factor": 0}),
    *({"rope_type": "yarn", "factor": 1e39}, {"full_attention": []}, {"content": "<x>", "id": 10**400}),
]


def paths(document: Any, most: int = 40) -> Iterator[tuple[Any, ...]]:
    """Where values are: keys and places, from the root; of long lists and objects only the first ones."""
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for _, (key, value) in zip(range(most), items, strict=False):
        yield (key,)
        yield from ((key, *rest) for rest in paths(value, most))


@st.composite
def mutated(draw: st.DrawFn, document: Any, more: tuple[str, ...] = ()) -> Any:
    """Change one to three values of a document, or take them out; `more` are keys that it might have."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        choices = [*paths(document), *((key,) for key in more)]
        *way, last = draw(st.sampled_from(choices or [("x",)]))
        parent = document
        for key in way:
            parent = parent[key]
        value = draw(st.sampled_from([..., *WILD]))
        if value is not ...:
            parent[last] = copy.deepcopy(value)
        elif isinstance(parent, list) or last in parent:
            del parent[last]
    return document


def survives(call: Callable[[], Any]) -> bool:
    """Whether a call succeeds; where it fails it has to be in one printable line, and on purpose."""
    try:
        call()
    except GGUFFastError as error:
        message = str(error)
        if not message.isprintable() or len(message) > 3000:
            raise AssertionError(f"not one line: {message!r}") from error
        return False
    return True
