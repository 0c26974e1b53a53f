"""What agreement says against MONAI, which comes with the training extra."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
metrics = pytest.importorskip("monai.metrics")

from app.agreement import compare
from app.imaging.lesions import number_lesions
from app.matching import match_lesions
from tests.toy_grids import labelled, oblique

pytestmark = [
    pytest.mark.training,
    # MONAI 1.6 warns of a call that it makes itself.
    pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning"),
]

SPACING_MM = (0.8, 1.3, 2.5)


def blobs(seed, shape=(34, 30, 20), count=9):
    """Two masks of balls of many sizes: most are in both, a little apart, the others in one."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    masks = np.zeros((2, *shape), bool)
    for _ in range(count):
        centre, radius = rng.uniform(2, np.array(shape) - 2), rng.uniform(1, 4)
        for which, shift in enumerate((0, rng.integers(-1, 2, 3))):
            if rng.random() < 0.85:
                masks[which] |= ((grid - centre - shift) ** 2).sum(axis=-1) <= radius**2
    return masks


def tensor(mask):
    return torch.tensor(mask)[None, None]


@pytest.mark.parametrize("seed", range(8))
def test_surface_dice_is_that_of_monai(seed):
    mask, reference = blobs(seed)
    found = compare(mask, reference, oblique(mask.shape, SPACING_MM))
    given = {"include_background": True, "spacing": SPACING_MM, "use_subvoxels": True}
    for most in (1, 2, 3, 5):
        theirs = metrics.compute_surface_dice(tensor(mask), tensor(reference), [most + 1e-6], **given)
        assert getattr(found, f"nsd_{most}mm") == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_distances_are_those_of_monai_within_a_voxel(seed):
    """MONAI counts voxels of the edge and not area: the same distances, weighted otherwise."""
    mask, reference = blobs(seed)
    found = compare(mask, reference, oblique(mask.shape, SPACING_MM))
    given = {"include_background": True, "spacing": SPACING_MM}
    pair, voxel = (tensor(mask), tensor(reference)), float(np.linalg.norm(SPACING_MM))
    theirs = float(metrics.compute_hausdorff_distance(*pair, **given))
    assert found.hd_mm == pytest.approx(theirs, abs=voxel)
    assd = float(metrics.compute_average_surface_distance(*pair, symmetric=True, **given))
    assert found.assd_mm == pytest.approx(assd, abs=0.25 * voxel)


@pytest.mark.parametrize("seed", range(8))
def test_panoptic_quality_is_that_of_monai(seed):
    pair = [labelled(2 * mask.astype(np.uint8), oblique(mask.shape, SPACING_MM)) for mask in blobs(seed)]
    found = match_lesions(*pair).by_lesion_iou
    ids = [torch.tensor(number_lesions(each).on_grid.astype(np.int32)) for each in pair]
    for ours, name in ((found.panoptic_quality, "pq"), (found.f1, "rq"), (found.mean_iou or 0.0, "sq")):
        theirs = metrics.compute_panoptic_quality(*ids, metric_name=name)
        assert ours == pytest.approx(float(theirs), abs=1e-5)
    assert found.reference_count > 2
