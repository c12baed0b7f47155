"""Both frame samplers against their formulas."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from percepta.errors import BadInput
from percepta.media import sample_frames


@given(total=st.integers(1, 5000), count=st.integers(1, 300))
def test_formulas(total: int, count: int) -> None:
    ends, even = sample_frames(total, count), sample_frames(total, count, "even")
    assert len(ends) == len(even) == count
    assert even == [int(i * total / count) for i in range(count)] or total * count > 2**40
    if count == 1:
        assert ends == [total // 2]
    else:
        assert ends == [int(i * (total - 1) / (count - 1)) for i in range(count)]
        assert ends[0] == 0
        assert ends[-1] == total - 1
    assert ends == sorted(ends)
    assert max(even) < total


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0), (-1, 4), (4, 2.5), (4, 2, "odd"), ("x", 2)])
def test_bad_arguments(arguments: tuple[object, ...]) -> None:
    with pytest.raises(BadInput, match=r"\.$"):
        sample_frames(*arguments)  # type: ignore[arg-type]
