"""What lies between two slices that were looked at is theirs, the more the nearer."""

import numpy as np
import pytest

from app.inference.between import FEWEST, Between, every, stride


@pytest.mark.parametrize("step", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("count", [1, 2, 10, 23])
def test_a_ramp_stays_a_ramp_and_goes_on_flat_at_its_ends(count, step):
    looked_at = every(range(count), step)
    ramp = np.array(looked_at, np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
    between = Between.of(count, looked_at)
    for k in range(count):
        assert between.slice_of(ramp, k) == pytest.approx(np.clip(k, looked_at[0], looked_at[-1]))
    assert between.known.all()
    assert looked_at[0] <= count - 1 - looked_at[-1] <= looked_at[0] + 1


def test_next_to_a_slice_that_nobody_looked_at_nothing_is_known():
    between = Between.of(13, [0, 3, 6, 9, 12], np.array([True, False, True, True, False]))
    assert np.flatnonzero(between.known).tolist() == [0, 6, 7, 8, 9]


def test_slices_are_left_out_of_what_is_wanted_and_not_of_the_numbers_between():
    assert every([2, 3, 4, 10, 11], 2) == [2, 4, 11]
    between = Between.of(12, [2, 4, 11])
    logit = np.array([2.0, 4.0, 11.0], np.float32)[:, None, None]
    assert [float(between.slice_of(logit, k)[0, 0]) for k in (0, 3, 5, 11)] == pytest.approx([2, 3, 5, 11])


@pytest.mark.parametrize(("slice_mm", "count", "expected"), [
    (1.0, 3 * FEWEST, 3), (0.3, 10 * FEWEST, 10), (1.1, 500, 2), (3.0, 500, 1), (5.0, 500, 1),
    (1.0, 27, 1), (1.0, 2 * FEWEST - 1, 1), (1.0, 2 * FEWEST, 2), (0.1, 3 * FEWEST, 3), (1.0, 0, 1),
])  # fmt: skip
def test_slices_lie_at_most_so_far_apart_and_of_few_none_is_left_out(slice_mm, count, expected):
    assert stride(3.0, slice_mm, count) == expected
    assert len(every(range(count), expected)) >= min(count, FEWEST)
