import cc3d
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from app.imaging.volume import Label
from training.phantom import (
    HOUNSFIELD,
    LESION_LIKE_RANGE_HU,
    LESION_RANGE_HU,
    LIVER_RANGE_HU,
    Tissue,
    abdomen,
)

SMALL = {"shape": (64, 56, 24), "spacing_mm": (5.0, 5.0, 8.0)}


def within(voxels, hu_range):
    return (voxels >= hu_range[0]) & (voxels <= hu_range[1])


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_of_the_noise_free_phantom_are_the_truth(seed):
    phantom = abdomen(seed, **SMALL, noise_hu=0)
    voxels = phantom.volume.voxels
    assert set(np.unique(voxels)) <= {int(hu) for hu in HOUNSFIELD.values()}
    np.testing.assert_array_equal(within(voxels, LIVER_RANGE_HU), phantom.truth.liver)
    np.testing.assert_array_equal(within(voxels, LESION_RANGE_HU), phantom.truth.lesions)


@pytest.mark.parametrize("seed", range(4))
def test_a_lesion_like_bystander_lies_outside_the_liver(seed):
    phantom = abdomen(seed, **SMALL, noise_hu=0)
    fooled = within(phantom.volume.voxels, LESION_LIKE_RANGE_HU) & ~phantom.truth.liver
    np.testing.assert_array_equal(fooled, phantom.volume.voxels == HOUNSFIELD[Tissue.BYSTANDER])
    assert fooled.sum() >= 10
    assert not (binary_dilation(fooled, np.ones((3, 3, 3))) & phantom.truth.liver).any()


@pytest.mark.parametrize("seed", range(4))
def test_every_lesion_is_apart_from_the_others_and_around_its_stated_centre(seed):
    phantom = abdomen(seed, **SMALL, noise_hu=0)
    components = cc3d.connected_components(phantom.truth.lesions, connectivity=26)
    assert components.max() == len(phantom.lesions) == 3
    back = np.linalg.inv(phantom.volume.geometry.affine)
    named = set()
    for lesion in phantom.lesions:
        i, j, k = np.rint(back @ [*lesion.centre_mm, 1.0])[:3].astype(int)
        named.add(int(components[i, j, k]))
        inside = np.argwhere(components == components[i, j, k])
        middle = phantom.volume.geometry.to_mm(inside).mean(axis=0)
        assert np.abs(middle - lesion.centre_mm).max() < 0.5 * max(SMALL["spacing_mm"])
    assert named == {1, 2, 3}


@pytest.mark.parametrize("seed", range(8))
def test_the_liver_is_one_6_connected_piece(seed):
    for randomise in (False, True):
        liver = abdomen(seed, **SMALL, randomise=randomise).truth.liver
        assert cc3d.connected_components(liver, connectivity=6).max() == 1


def test_the_liver_lies_on_the_patients_right_and_of_human_size():
    phantom = abdomen(0, **SMALL)
    geometry = phantom.truth.geometry
    assert 1000 < phantom.truth.liver.sum() * geometry.voxel_volume_ml < 2500
    liver_x = geometry.to_mm(np.argwhere(phantom.truth.liver))[:, 0].mean()
    body_x = geometry.to_mm(np.argwhere(phantom.volume.voxels > -300))[:, 0].mean()
    assert geometry.axis_codes == "LPS"
    assert liver_x > body_x + 30  # RAS: to the right is positive


def test_the_same_seed_gives_the_same_voxels_and_another_seed_others():
    one, two, other = (abdomen(seed, **SMALL, randomise=True, lesions=8) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one.volume.voxels, two.volume.voxels)
    np.testing.assert_array_equal(one.truth.labels, two.truth.labels)
    assert (one.volume.voxels != other.volume.voxels).any()
    assert one.lesions == two.lesions


def test_noise_leaves_the_truth_and_the_mean_of_the_liver_as_they_are():
    clean, noisy = (abdomen(3, **SMALL, noise_hu=hu) for hu in (0, 15.0))
    np.testing.assert_array_equal(clean.truth.labels, noisy.truth.labels)
    parenchyma = binary_erosion(clean.volume.voxels == HOUNSFIELD[Tissue.LIVER], iterations=2)
    values = noisy.volume.voxels[parenchyma]
    assert 8 < values.std() < 25
    assert abs(np.median(values) - HOUNSFIELD[Tissue.LIVER]) < 4


def test_random_phantoms_are_valid_and_differ():
    volumes_ml, counts = [], []
    for seed in range(12):
        phantom = abdomen(seed, (48, 44, 20), (8.0, 8.0, 9.0), randomise=True, lesions=8)
        labels = phantom.truth.labels
        assert set(np.unique(labels)) <= {Label.BACKGROUND, Label.LIVER, Label.LESION}
        assert phantom.volume.voxels.min() >= -1024
        volumes_ml.append(float(phantom.truth.liver.sum() * phantom.truth.geometry.voxel_volume_ml))
        counts.append(len(phantom.lesions))
    assert min(volumes_ml) > 400
    assert np.std(volumes_ml) > 100
    assert len(set(counts)) > 3
