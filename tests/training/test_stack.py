"""Slices on disk read like one array, and written one case after the other."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch")

from training.stack import Stack, rows_written

pytestmark = pytest.mark.training


@pytest.fixture
def parts():
    random = np.random.default_rng(0)
    return [random.integers(-1000, 1000, (n, 3, 4)).astype(np.int16) for n in (5, 1, 7)]


@pytest.mark.parametrize(
    "at", [0, 5, 12, slice(3, 9), slice(4, 100), np.array([12, 0, 5, 5]), np.array([], int)], ids=repr
)
def test_it_is_indexed_like_the_one_array_that_it_stands_for(parts, at):
    assert np.array_equal(Stack(parts)[at], np.concatenate(parts)[at])


def test_some_of_the_rows_are_a_stack_again(parts):
    few, same = Stack(parts).chosen(np.array([1, 5, 6, 11])), np.concatenate(parts)[[1, 5, 6, 11]]
    assert few.shape == same.shape
    assert np.array_equal(few.chosen(np.array([3, 0]))[0:2], same[[3, 0]])


def test_what_is_written_block_by_block_is_the_npy_of_the_whole(parts, tmp_path):
    with rows_written(tmp_path / "rows.npy") as rows:
        for part in parts:
            rows.append(part)
    np.save(tmp_path / "whole.npy", np.concatenate(parts))
    assert (tmp_path / "rows.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert np.array_equal(np.load(tmp_path / "rows.npy", mmap_mode="r"), np.concatenate(parts))


def test_who_reads_the_old_file_while_it_is_written_anew_keeps_it(parts, tmp_path):
    np.save(tmp_path / "rows.npy", parts[0])
    before = np.load(tmp_path / "rows.npy", mmap_mode="r")
    with rows_written(tmp_path / "rows.npy") as rows:
        rows.append(parts[2])
    assert np.array_equal(before, parts[0])
    assert np.array_equal(np.load(tmp_path / "rows.npy"), parts[2])
