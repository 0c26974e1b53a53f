"""The words of DICOM's dictionaries that the results use, and who made them."""

from __future__ import annotations

from importlib.metadata import version

from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from app.imaging.dicom_header import silence

# highdicom logs the UIDs of what it copies from, and the name of a patient whose name it does not like.
silence("highdicom")

MANUFACTURER = "Hepaseg"
#: The same for every installation: it names the software, not a machine.
DEVICE_UID = "2.25.252170286180352836396208066129254911457"
SERIES_DESCRIPTION = "Liver and lesions, for research use only"

ORGAN = codes.SCT.Organ
LIVER = codes.SCT.Liver
ABNORMAL = codes.SCT.MorphologicallyAbnormalStructure
LESION = codes.SCT.Lesion
ALGORITHM_FAMILY = codes.DCM.ArtificialIntelligence

VOLUME = codes.SCT.Volume
LONGEST_DIAMETER = codes.SCT.LongAxis
PERPENDICULAR_DIAMETER = codes.SCT.ShortAxis
ATTENUATION = codes.DCM.AttenuationCoefficient
MEAN = codes.SCT.Mean
#: Of the liver: the share of it that is lesion. Of a lesion: its share of the liver. No dictionary has it.
BURDEN = CodedConcept("lesion-burden", "99HEPASEG", "Share of the liver volume")

MILLILITRE = CodedConcept("ml", "UCUM", "milliliter")
MILLIMETRE = codes.UCUM.Millimeter
HOUNSFIELD_UNIT = codes.UCUM.HounsfieldUnit
NO_UNIT = codes.UCUM.NoUnits


def software_version() -> str:
    """The version of this service."""
    return version("hepaseg")
