"""A cascade that remembers: what went into it and what came out, for who wants to look at both afterwards."""

from __future__ import annotations

from app.imaging.volume import Segmentation, Volume
from app.inference.cascade import Cascade, Progress


class Witness(Cascade):
    """Segments as the cascade that it is given does."""

    def __init__(self, cascade: Cascade) -> None:
        super().__init__(cascade.networks, cascade.runtime)
        self._seen: tuple[Volume, Segmentation] | None = None

    @property
    def seen(self) -> tuple[Volume, Segmentation]:
        """The last volume that was segmented, and its segmentation. Raises LookupError if there is none."""
        if self._seen is None:
            raise LookupError("nothing was segmented yet")
        return self._seen

    def segment(self, volume: Volume, on_progress: Progress) -> Segmentation:
        """See `Cascade.segment`."""
        segmentation = super().segment(volume, on_progress)
        self._seen = volume, segmentation
        return segmentation
