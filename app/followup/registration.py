"""Lays the livers of two scans over each other, by their signed distances alone: rigid, then elastic.

Grey values are not looked at. Contrast phase and scanner change between two dates, and the prior scan need not be kept
for it: its labels are enough. What moves inside the liver without moving its surface is not seen.

SimpleITK's coordinates are LPS; here its images are given RAS+ ones, which it cannot tell, so that nothing is turned.
One thread everywhere: sums of floats depend on how they are shared out, and the same scans must give the same bytes.
A method's own number of threads does not reach its metric, the global one does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from app.followup.alignment import Alignment
from app.followup.distance_map import REACH_MM, SPACING_MM, DistanceMap, Float32
from app.imaging.volume import Float64

if TYPE_CHECKING:
    import SimpleITK as sitk

#: (voxels that become one, iterations, smoothing of the field in voxels): from coarse to fine.
_ELASTIC_LEVELS = ((3, 100, 1.5), (2, 50, 2.0), (1, 20, 3.0))
_RIGID_ITERATIONS = 100

#: Called with the share 0..1 that is done; it may raise, which ends the registration.
Tell = Callable[[float], None]


def register(current: DistanceMap, prior: DistanceMap, tell: Tell) -> Alignment:
    """The alignment under which the prior's liver lies on the current one. Raises what `tell` raises."""
    with _one_thread():
        fixed, moving = _image(current), _image(prior)
        rigid = _rigid(current, prior, fixed, moving, tell)
        elastic = _elastic(fixed, moving, rigid, tell)
    return Alignment(_matrix(rigid), elastic, current.geometry)


@contextmanager
def _one_thread() -> Iterator[None]:
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _image(found: DistanceMap) -> sitk.Image:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.ascontiguousarray(found.signed_mm.T))
    image.SetSpacing([SPACING_MM] * 3)
    image.SetOrigin(found.geometry.affine[:3, 3].tolist())
    return image


def _rigid(
    current: DistanceMap, prior: DistanceMap, fixed: sitk.Image, moving: sitk.Image, tell: Tell
) -> sitk.Euler3DTransform:
    import SimpleITK as sitk

    start = sitk.Euler3DTransform()
    start.SetCenter(current.centre_mm.tolist())
    start.SetTranslation((prior.centre_mm - current.centre_mm).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMeanSquares()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-2, _RIGID_ITERATIONS, relaxationFactor=0.5)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([0, 0])
    method.SetInitialTransform(start, inPlace=True)
    watch = _Watch(tell, method.StopRegistration, 0.0, 0.2 / (2 * _RIGID_ITERATIONS))
    method.AddCommand(sitk.sitkIterationEvent, watch)
    with watch:
        method.Execute(fixed, moving)
    return start


def _elastic(fixed: sitk.Image, moving: sitk.Image, rigid: sitk.Euler3DTransform, tell: Tell) -> Float32:
    import SimpleITK as sitk

    field = sitk.Image()
    share = 0.8 / len(_ELASTIC_LEVELS)
    for level, (shrink, iterations, smoothing) in enumerate(_ELASTIC_LEVELS):
        coarse = sitk.Shrink(fixed, [shrink] * 3)
        moved = sitk.Resample(moving, coarse, rigid, sitk.sitkLinear, REACH_MM)
        demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
        demons.SetNumberOfIterations(iterations)
        demons.SetStandardDeviations(smoothing)
        watch = _Watch(tell, demons.Abort, 0.2 + level * share, share / iterations)
        demons.AddCommand(sitk.sitkIterationEvent, watch)
        before = (_on(field, coarse),) if level else ()
        with watch:
            field = demons.Execute(coarse, moved, *before)
    array = sitk.GetArrayFromImage(_on(field, fixed))
    return np.ascontiguousarray(array.transpose(2, 1, 0, 3), dtype=np.float32)


def _on(field: sitk.Image, grid: sitk.Image) -> sitk.Image:
    import SimpleITK as sitk

    # A coarse grid ends before the fine one: beyond it the field goes on as it ends there.
    return sitk.Resample(field, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64, True)


def _matrix(rigid: sitk.Euler3DTransform) -> Float64:
    matrix = np.eye(4)
    turn = np.array(rigid.GetMatrix()).reshape(3, 3)
    centre = np.array(rigid.GetCenter())
    matrix[:3, :3] = turn
    matrix[:3, 3] = centre + np.array(rigid.GetTranslation()) - turn @ centre
    return matrix


class _Watch:
    """Tells after each iteration how far it is; what that raises stops the iterations and is raised at their end.

    An exception must not pass through SimpleITK, which would make another one of it.
    """

    def __init__(self, tell: Tell, stop: Callable[[], object], start: float, step: float) -> None:
        self._tell, self._stop = tell, stop
        self._done, self._step = start, step
        self._raised: BaseException | None = None

    def __call__(self) -> None:
        self._done += self._step
        try:
            self._tell(min(self._done, 1.0))
        except BaseException as error:
            self._raised = self._raised or error
            self._stop()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        if self._raised is not None:
            raise self._raised
