"""Small segmentations on oblique, anisotropic grids."""

import itertools

import numpy as np

from app.imaging.volume import Geometry, Segmentation, Volume

ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in itertools.permutations(("RL", "AP", "SI"))
    for flips in itertools.product((0, 1), repeat=3)
]
SPACING_MM = (0.8, 1.3, 5.0)


def oblique(shape, spacing_mm=SPACING_MM, degrees=(20.0, -12.0, 9.0)):
    """LPS-like axes turned about all three patient axes, far from the origin."""
    a, b, c = np.radians(degrees)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_y @ about_x @ np.diag([-1.0, -1.0, 1.0]) @ np.diag(spacing_mm)
    affine[:3, 3] = (31.0, -57.0, 211.0)
    return Geometry(shape, affine)


def labelled(labels, geometry=None):
    geometry = geometry or oblique(labels.shape)
    return Segmentation(np.asfortranarray(labels.astype(np.uint8)), geometry)


def scan_of(segmentation, voxels=None):
    shape = segmentation.geometry.shape
    voxels = np.zeros(shape) if voxels is None else voxels
    return Volume(np.asfortranarray(voxels.astype(np.int16)), segmentation.geometry)
