"""What a network says about itself, in the metadata of its file."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

CONTRACT = "hepaseg/1"

Task = Literal["liver", "lesion", "crf"]


def _parsed(value: object) -> object:
    return json.loads(value or "{}") if isinstance(value, str) else value


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


JsonObject = Annotated[dict[str, Any], BeforeValidator(_parsed)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CrfParameters(BaseModel):
    """The constants of a dense CRF: which probabilities it refines, and its two kernels.

    Widths are standard deviations. The same values are folded into the graph; here they are to be read.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    refines: tuple[Literal["liver", "lesion"], ...]
    iterations: int = Field(ge=1, le=50)
    appearance_weight: float = Field(ge=0)
    appearance_mm: float = Field(gt=0)
    appearance_hu: float = Field(gt=0)
    smoothness_weight: float = Field(ge=0)
    smoothness_mm: float = Field(gt=0)


class ContextParameters(BaseModel):
    """How far from a slice, in mm along the scan, a lesion network with CONTEXT_INPUTS looks at others."""

    model_config = ConfigDict(frozen=True, extra="allow")

    context_mm: float = Field(ge=0, le=100)


class ModelCard(BaseModel):
    """What a network says about itself; strings in the file, where an empty one means "not applicable".

    threshold: a voxel belongs if its probability is at least this. peak_threshold: a lesion counts if somewhere in it
    the probability is at least this; without one the threshold is enough. roi_margin_mm: around the liver, for the
    region that a lesion network is shown. trained_with: sha256 of the liver network that a lesion network was
    trained behind. step_mm: how far apart along the scan the slices may lie that are looked at; between them logits are
    interpolated, and without it every slice is looked at. int8_of: of an 8-bit form, sha256 of the network that it is
    a form of.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    contract: Literal["hepaseg/1"]
    name: str = Field(min_length=1)
    version: str = Field(pattern=r"^\d+\.\d+\.\d+$")
    task: Task
    threshold: Annotated[float | None, BeforeValidator(_empty_is_none)] = Field(gt=0, lt=1)
    roi_margin_mm: Annotated[float | None, BeforeValidator(_empty_is_none)] = Field(ge=0, le=500)
    labels: str
    preprocessing: str
    trained_on: str
    trained_with: Annotated[Sha256 | None, BeforeValidator(_empty_is_none)]
    metrics: JsonObject
    source_commit: str
    licence: str
    intended_use: str
    parameters: JsonObject = Field(default_factory=dict)
    int8_of: Annotated[Sha256 | None, BeforeValidator(_empty_is_none)] = None
    peak_threshold: Annotated[float | None, BeforeValidator(_empty_is_none)] = Field(default=None, gt=0, lt=1)
    step_mm: Annotated[float | None, BeforeValidator(_empty_is_none)] = Field(default=None, gt=0, le=10)

    @model_validator(mode="after")
    def _complete_for_its_task(self) -> Self:
        needed = {"liver": ["threshold"], "lesion": ["threshold", "roi_margin_mm", "trained_with"], "crf": []}
        missing = [name for name in needed[self.task] if getattr(self, name) is None]
        if missing:
            raise ValueError(f"a {self.task} network must state {', '.join(missing)}")
        if self.peak_threshold is not None and self.task != "lesion":
            raise ValueError(f"peak_threshold is for lesion networks; of a {self.task} one nothing looks at it")
        if self.peak_threshold is not None and (self.threshold is None or self.peak_threshold < self.threshold):
            raise ValueError("peak_threshold must be at least the threshold")
        if self.task == "crf":
            CrfParameters.model_validate(self.parameters)
        return self
