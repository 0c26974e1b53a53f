"""Results as DICOM: a segmentation object and a structured report, each read back before anyone may have it."""
