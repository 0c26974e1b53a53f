"""Liver → region → lesions → CRF: a volume becomes a segmentation on the very grid it came on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from app.errors import NoLiver
from app.imaging.evidence import Evidence
from app.imaging.region import Box, bounding_box, components_with, largest_component
from app.imaging.volume import Geometry, Label, Mask, Segmentation, Volume
from app.inference.crf import refine
from app.inference.field import EVERYWHERE, Field
from app.inference.manifest import Networks
from app.inference.network import CrfParameters, Hounsfield, ModelCard, Probability, Runtime
from app.inference.search import Search

#: What is smaller is not reported as a liver: a newborn's is about 100 ml, and what a network paints by
#: mistake into a scan without one is mostly a few ml of spleen, bowel or table.
SMALLEST_LIVER_ML = 20.0

#: (stage "liver" | "lesion" | "crf", fraction 0..1 of that stage), once a batch or more. It may raise.
Progress = Callable[[str, float], None]

#: Millimetres along (k, j, i).
Spacing = tuple[float, float, float]


class Cascade:
    """The networks one after the other; they come checked from `load_networks` with the same `runtime`."""

    def __init__(self, networks: Networks, runtime: Runtime) -> None:
        self.networks = networks
        self.runtime = runtime
        self._refines = CrfParameters.model_validate(networks.crf.card.parameters).refines

    def segment(self, volume: Volume, on_progress: Progress) -> Segmentation:
        """Liver and lesions of a CT, on `volume.geometry`. Raises NoLiver and what `on_progress` raises."""
        upright = volume.reoriented("LPS")
        hounsfield_kji = upright.voxels.T
        i_mm, j_mm, k_mm = upright.geometry.spacing_mm
        spacing_mm: Spacing = (k_mm, j_mm, i_mm)

        margin_mm = _stated(self.networks.lesion.card.roi_margin_mm)
        of_liver, liver = self._liver(hounsfield_kji, k_mm, margin_mm, on_progress)
        _require_a_liver(liver, spacing_mm)
        region = bounding_box(liver, spacing_mm, margin_mm)
        box = region.slices
        hounsfield, liver = hounsfield_kji[box], liver[box]
        of_lesion = self.networks.lesion.field(hounsfield, liver, k_mm, lambda done: on_progress("lesion", done))
        given = {"lesion": of_lesion.within(EVERYWHERE)}
        if "liver" in self._refines:
            given["liver"] = of_liver.within(box)
        refined = self._refined(given, hounsfield, spacing_mm, on_progress)
        if "liver" in refined:
            liver = largest_component(refined["liver"] >= _stated(self.networks.liver.card.threshold))
            _require_a_liver(liver, spacing_mm)
        evidence = Evidence(
            refined["lesion"].T,
            Box(region.start[::-1], region.stop[::-1]),
            _stated(self.networks.lesion.card.threshold),
        )
        lesions = marked(refined["lesion"], liver, self.networks.lesion.card)
        return _labelled(liver, lesions, evidence, upright.geometry, volume.geometry)

    def mirrored_ml(self, volume: Volume) -> float:
        """How much liver there would be if left and right were swapped, by the slices that are looked at first.

        The networks know where in a body the liver lies: in a swapped scan they find more of it in the mirror.
        """
        upright = volume.reoriented("LPS")
        i_mm, j_mm, k_mm = upright.geometry.spacing_mm
        threshold = _stated(self.networks.liver.card.threshold)
        search = Search.along(k_mm, threshold, 0.0)
        mirrored = np.ascontiguousarray(upright.voxels.T[:: search.step, :, ::-1])
        found = np.count_nonzero(self.networks.liver.field(mirrored).at_least(threshold))
        return found * i_mm * j_mm * k_mm * search.step / 1000

    def _liver(
        self, hounsfield: Hounsfield, slice_mm: float, margin_mm: float, on_progress: Progress
    ) -> tuple[Field, Mask]:
        """The liver's probability, at least where the region will be, and its largest piece."""
        network, threshold = self.networks.liver, _stated(self.networks.liver.card.threshold)

        def look(search: Search | None) -> tuple[Field, Mask]:
            found = network.field(hounsfield, slice_mm=slice_mm, on_batch=partial(on_progress, "liver"), search=search)
            return found, largest_component(found.at_least(threshold))

        search = Search.along(slice_mm * network.step(slice_mm, len(hounsfield)), threshold, margin_mm)
        found, liver = look(search)
        return (found, liver) if search.is_sure(liver, slice_mm) else look(None)

    def _refined(
        self,
        found: dict[str, Probability],
        hounsfield: Hounsfield,
        spacing_mm: Spacing,
        on_progress: Progress,
    ) -> dict[str, Probability]:
        """The probabilities of the region by name, those that the CRF's card lists refined."""
        refined = dict(found)
        on_progress("crf", 0.0)
        for done, name in enumerate(self._refines):
            so_far = partial(on_progress, "crf", done / len(self._refines))
            refined[name] = refine(found[name], hounsfield, spacing_mm, self.networks.crf, on_wait=so_far)
            on_progress("crf", (done + 1) / len(self._refines))
        if not self._refines:
            on_progress("crf", 1.0)
        return refined


def marked(probability: Probability, liver: Mask, card: ModelCard) -> Mask:
    """Which voxels of the liver are lesion: those that reach the threshold of the lesion network's card, and hang
    together (26-connected) with one that reaches its peak threshold, if it has one.
    """
    mask: Mask = (probability >= _stated(card.threshold)) & liver
    return mask if card.peak_threshold is None else components_with(mask, probability >= card.peak_threshold)


def _labelled(
    liver_kji: Mask, lesions_kji: Mask, evidence: Evidence, upright: Geometry, geometry: Geometry
) -> Segmentation:
    """Liver and lesions within the evidence's box (K, J, I), on the grid that came in."""
    labels = np.zeros(upright.shape, np.uint8, order="F")
    # in the order of memory, ten times faster than across it
    inside = liver_kji.view(np.uint8) * np.uint8(Label.LIVER)
    inside[lesions_kji] = Label.LESION
    labels.T[evidence.box.slices[::-1]] = inside
    turned = Segmentation(labels, upright, evidence).reoriented(geometry.axis_codes)
    # there and back rounds the affine in its last digits: the labels get the very grid that came in
    return replace(turned, geometry=geometry)


def _require_a_liver(liver: Mask, spacing_mm: Spacing) -> None:
    volume_ml = int(liver.sum()) * float(np.prod(spacing_mm)) / 1000
    if volume_ml < SMALLEST_LIVER_ML:
        raise NoLiver(
            f"No liver was found: the largest piece that looks like one has {volume_ml:.1f} ml, and at least "
            f"{SMALLEST_LIVER_ML:.0f} ml are expected. Is the upper abdomen in the scan?"
        )


def _stated(number: float | None) -> float:
    """A number that the card of a checked network has."""
    if number is None:
        raise AssertionError("a checked card states its numbers")
    return number
