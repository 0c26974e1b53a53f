"""Livers with lesions as formulas, drawn on whatever grid: two dates of one patient with known changes."""

import numpy as np

from app.imaging.volume import Geometry, Segmentation

#: Ellipsoids whose union is a liver without symmetry: (centre, half-axes) in mm.
LOBES = (((40, 0, 0), (75, 65, 60)), ((-45, 25, 10), (60, 38, 30)), ((70, -30, -50), (35, 35, 50)))


def grid(spacing_mm=(2.0, 2.0, 3.0), orientation="LPS", centre_mm=(10.0, 0.0, -15.0), room_mm=(290, 220, 230)):
    """A grid around the liver."""
    shape = tuple(int(room / spacing) for room, spacing in zip(room_mm, spacing_mm, strict=True))
    affine = np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0])
    affine[:3, 3] = np.array(centre_mm) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Geometry(shape, affine).reoriented(orientation)


def liver(geometry, lesions=(), into=lambda points_mm: points_mm):
    """Labels on a grid. lesions: (centre, radius) or (centre, half-axes) in mm. into: points of this date → the space
    in which lobes and lesions are given.
    """
    points = into(geometry.to_mm(np.moveaxis(np.indices(geometry.shape), 0, -1).reshape(-1, 3)))
    labels = np.zeros(len(points), dtype=np.uint8)
    for centre, radii in LOBES:
        labels[_inside(points, centre, radii)] = 1
    for centre, radii in lesions:
        labels[_inside(points, centre, radii) & (labels > 0)] = 2
    return Segmentation(np.asfortranarray(labels.reshape(geometry.shape)), geometry)


def moved(points_mm):
    """A breath and another way of lying: 6 degrees, a few centimetres, and up to about 8 mm of bending."""
    angle = np.radians(6.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    bend = 5.0 * np.sin(points_mm[:, [1, 2, 0]] / 45.0)
    return (points_mm + bend) @ turn.T + (12.0, -8.0, 20.0)


def _inside(points, centre, radii):
    return (((points - np.array(centre)) / np.array(radii)) ** 2).sum(axis=1) < 1
