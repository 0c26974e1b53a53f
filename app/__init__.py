"""Hepaseg, the service: an abdominal CT in, liver and lesion masks and their measurements out.

imaging/     grids and files: Volume and Segmentation on a Geometry; NIfTI
inference/   voxels to labels: ONNX networks, the dense CRF, the cascade
followup/    what became of each lesion since an earlier scan
quality/     the verdict: is this an abdominal CT, and is the answer plausible
report.py    what is measured; agreement.py, matching.py: against a reference; preview.py: the picture
evaluation/  a whole test set against its references
sheet.py     a page over one result, overview.py over many; web/ is the page in the browser
pipeline.py  read → quality → segment → measure → write
dicom/       SEG and SR; node.py and web.py take series from a PACS, outbox.py sends results until they are accepted
jobs/        the durable queue: table, lease, worker
api/         HTTP; main.py puts the parts together; cli.py is the command `hepaseg`
"""

import os

# Slices are handed to cores one by one; threads of NumPy's own beside them only wait for each other, long on a busy
# machine. Read when NumPy is loaded, so it stands here; who has set it already knows why.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
