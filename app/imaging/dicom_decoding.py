"""The pixels of one slice as stored: uncompressed or in any compression that DICOM allows for CT.

Which library decodes what is fixed, so that a result does not depend on what else is installed: damaged JPEGs crashed
GDCM, and pylibjpeg-libjpeg is under the GPL. The size that the compressed picture itself announces is compared with the
header's before anything is unpacked.
"""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder

from app.errors import CorruptFile
from app.imaging.dicom_header import PYDICOM_RAISES, unheard

#: Not pydicom's: libjpeg-turbo, which knows lossless JPEG and 12 bits, by way of imagecodecs.
_TURBO = "libjpeg-turbo"
#: Transfer syntax → the plugin of pydicom that decodes it; "" where nothing is compressed.
PLUGINS: dict[str, str] = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.RLELossless: "pydicom",
    uid.JPEGBaseline8Bit: _TURBO,
    uid.JPEGExtended12Bit: _TURBO,
    uid.JPEGLossless: _TURBO,
    uid.JPEGLosslessSV1: _TURBO,
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.HTJ2KLossless: "pylibjpeg",
    uid.HTJ2KLosslessRPCL: "pylibjpeg",
    uid.HTJ2K: "pylibjpeg",
}

#: Headers and tables of a compressed picture take less than this.
_ROOM_BYTES = 1 << 16
_END_OF_IMAGE = b"\xff\xd9"
_START_OF_CODESTREAM = b"\xff\x4f\xff\x51"
#: JPEG and JPEG-LS markers that begin a frame and so state its size.
_START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}


def stored_values(dataset: Dataset, frame: int) -> npt.NDArray[Any]:
    """The whole numbers of one picture, (rows, columns). `dataset` is the whole file. Raises CorruptFile."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        with unheard():
            codestream = _checked(dataset, frame) if syntax.is_encapsulated else b""
            if PLUGINS[syntax] == _TURBO:
                values = _decoded_jpeg(codestream, dataset)
            else:
                decoder = get_decoder(syntax)
                values, _ = decoder.as_array(dataset, index=frame, raw=True, decoding_plugin=PLUGINS[syntax])
    except PYDICOM_RAISES:
        raise CorruptFile("The pixels of a slice are damaged or cut off.") from None
    if values.shape != (dataset.Rows, dataset.Columns) or not np.issubdtype(values.dtype, np.integer):
        raise CorruptFile("The pixels of a slice are not those that its header announces.")
    return values


def _checked(dataset: Dataset, frame: int) -> bytes:
    """A compressed picture. Raises ValueError if it states another size than the header, or could grow beyond it."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    codestream = get_frame(dataset.PixelData, frame, number_of_frames=frames)
    if len(codestream) > 2 * dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8 + _ROOM_BYTES:
        raise ValueError("the compressed picture is far larger than the uncompressed one")
    size = stated_size(codestream)
    if size is not None and size != (dataset.Rows, dataset.Columns, 1):
        raise ValueError("the compressed picture has another size")
    return codestream


def _decoded_jpeg(codestream: bytes, dataset: Dataset) -> npt.NDArray[Any]:
    """Values with their sign; JPEG has none. Raises ValueError where libjpeg would fill in what is cut off."""
    if not codestream.rstrip(b"\0").endswith(_END_OF_IMAGE):
        raise ValueError("a JPEG picture does not end")
    unused = 16 - int(dataset.BitsStored)
    shifted = imagecodecs.jpeg8_decode(codestream).astype(np.uint16) << unused
    return (shifted.view(np.int16) if dataset.PixelRepresentation else shifted) >> unused


def stated_size(codestream: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, samples) that a JPEG, JPEG-LS or JPEG 2000 picture states; None if it states none, as RLE."""
    at = codestream.find(_START_OF_CODESTREAM, 0, 4096)
    if at >= 0:
        right, below, left, above = (_number(codestream, at + 8 + 4 * n, 4) for n in range(4))
        return below - above, right - left, _number(codestream, at + 40, 2)
    if codestream[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(codestream) and codestream[at] == 0xFF:
        marker = codestream[at + 1]
        if marker in _START_OF_FRAME:
            return _number(codestream, at + 5, 2), _number(codestream, at + 7, 2), codestream[at + 9]
        at += 1 if marker == 0xFF else 2 + _number(codestream, at + 2, 2)
    raise ValueError("a JPEG picture states no size")


def _number(codestream: bytes, at: int, size: int) -> int:
    return int.from_bytes(codestream[at : at + size], "big")
