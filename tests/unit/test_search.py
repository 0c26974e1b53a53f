"""A search sees few slices and finds the organ as if it had seen all."""

import numpy as np
import pytest

from app.errors import Canceled
from app.imaging.region import largest_component
from app.inference.network import Network, Runtime
from app.inference.search import Search
from tests.analytic_networks import growing_graph

SLICES = 60
NETWORK = Network(growing_graph("liver", (50, 150)), "f" * 64, "file.onnx", "liver", Runtime(threads=2, batch=3))


def scan(first, last, *strays):
    """An organ from slice `first` to `last`, and one-pixel strays in single slices of a scan that is air."""
    hounsfield = np.full((SLICES, 6, 7), -1000, np.int16)
    hounsfield[first : last + 1, 1:5, 2:6] = 100
    for stray in strays:
        hounsfield[stray, 0, 0] = 100
    return hounsfield


@pytest.mark.parametrize("slice_mm", [0.7, 1.0, 2.5, 5.0, 13.0])
@pytest.mark.parametrize(("first", "last"), [(0, 40), (10, 45), (23, 59), (0, 59), (12, 37)])
def test_the_organ_and_what_is_around_it_come_out_as_if_every_slice_had_been_seen(slice_mm, first, last):
    hounsfield = scan(first, last, 2, 50, 58)
    search = Search.along(slice_mm, 0.4, 4.0)
    found, whole = NETWORK.field(hounsfield, search=search), NETWORK.field(hounsfield)
    liver = largest_component(found.at_least(0.4))
    assert np.array_equal(liver, largest_component(whole.at_least(0.4)))
    margin = int(np.ceil(4.0 / slice_mm))
    box = (slice(max(0, first - margin), last + margin + 1), slice(None), slice(None))
    assert np.array_equal(found.within(box), whole.within(box))


@pytest.mark.parametrize("slice_mm", [0.7, 1.0, 2.5])
@pytest.mark.parametrize(("first", "last"), [(0, 40), (10, 45), (23, 59), (0, 59), (12, 37)])
def test_it_finds_the_same_where_not_every_slice_is_looked_at(slice_mm, first, last, monkeypatch):
    monkeypatch.setattr("app.inference.between.FEWEST", 12)
    graph = growing_graph("liver", (50, 150), step_mm="3")
    network = Network(graph, "f" * 64, "file.onnx", "liver", Runtime(threads=2, batch=3))
    hounsfield = scan(first, last, 2, 50, 58)
    search = Search.along(slice_mm * network.step(slice_mm, SLICES), 0.4, 4.0)
    found = network.field(hounsfield, slice_mm=slice_mm, search=search)
    whole = network.field(hounsfield, slice_mm=slice_mm)
    liver = largest_component(found.at_least(0.4))
    assert np.array_equal(liver, largest_component(whole.at_least(0.4)))
    margin = int(np.ceil(4.0 / slice_mm))
    box = (slice(max(0, first - margin), last + margin + 1), slice(None), slice(None))
    assert np.array_equal(found.within(box), whole.within(box))


def test_slices_far_from_the_organ_are_not_looked_at():
    found = NETWORK.field(scan(20, 30), search=Search(0.4, step=5, margin=2, apart_mm=1.0))
    assert np.array_equal(np.flatnonzero(found.between.known), [0, 5, 10, *range(13, 38), 40, 45, 50, 55])


def test_a_flat_piece_is_no_sure_answer():
    search = Search(0.4, step=5, margin=2, apart_mm=1.0)
    assert not search.is_sure(scan(11, 19) > 0, 1.0)
    assert not search.is_sure(np.zeros((SLICES, 6, 7), bool), 1.0)
    assert search.is_sure(scan(11, 20) > 0, 1.0)
    assert not search.is_sure(scan(11, 20) > 0, 0.5)


@pytest.mark.parametrize("hounsfield", [scan(10, 30), scan(5, 4), scan(0, 59)])
def test_progress_only_grows_and_ends_at_one(hounsfield):
    fractions = []
    NETWORK.field(hounsfield, on_batch=fractions.append, search=Search(0.4, step=5, margin=2, apart_mm=1.0))
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert len(fractions) > 3


def test_it_can_be_canceled():
    def cancel(fraction):
        raise Canceled("enough")

    with pytest.raises(Canceled):
        NETWORK.field(scan(10, 30), on_batch=cancel, search=Search(0.4, step=5, margin=2, apart_mm=1.0))
