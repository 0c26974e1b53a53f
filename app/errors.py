"""Every error this service raises on purpose, each one sentence for the person who can mend it.

HepasegError
├── InputError              what was sent cannot be used, and its sender can mend it
│   ├── UnsupportedFormat   neither NIfTI nor DICOM
│   ├── CorruptFile         a NIfTI file that is cut off or damaged
│   ├── TooLarge            more bytes or voxels than this service takes
│   ├── InvalidGeometry     dimensions, spacing or orientation that no scan can have
│   ├── InvalidVoxels       grey values that are not finite Hounsfield units
│   ├── NotCT               readable, but not an abdominal CT in Hounsfield units
│   ├── NoLiver             a CT in which no liver was found
│   ├── InvalidReference    a reference that is not labels 0, 1, 2 on the scan's grid
│   ├── InvalidPrior        a scan to compare with that is no finished job, or no labels 0, 1, 2
│   └── InvalidRequest      a request whose fields do not fit together
├── NotFound                no such job or file
├── Gone                    a job that was erased or has expired
├── Conflict                a job that is not in the state the call needs
├── Overloaded              the queue is full, or no worker has the memory
├── StorageFull             no room for the scan or its results
├── NotReady                the networks are not loaded, or not on the device that was asked for
│   └── StorageUnreachable  the store of scans and results does not answer
├── PeerFailed              the PACS did not answer, or not as it should
├── BrokenReceipt           results that are not what their receipt states
├── Canceled                the job was canceled while it ran
└── BrokenModel             a network file that is not what the manifest says

Anything else that is raised is a bug. `app.api.problems` alone knows status codes.
"""

import errno


class HepasegError(Exception):
    """The base of all errors above; `code` is stable and meant for programs, the message for people.

    A class has its own code; one occurrence may carry a narrower one, such as "sheared_grid".
    """

    code = "error"
    title = "Error"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code


class InputError(HepasegError):
    """What was sent cannot be used, and its sender can mend it."""

    code = "invalid_input"
    title = "The input cannot be used"


class UnsupportedFormat(InputError):
    """The file is neither NIfTI nor DICOM, whatever its name says."""

    code = "unsupported_format"
    title = "Neither NIfTI nor DICOM"


class CorruptFile(InputError):
    """The file begins like a scan but is cut off or damaged."""

    code = "corrupt_file"
    title = "The file is damaged or incomplete"


class TooLarge(InputError):
    """The file holds, or claims to hold, more than this service takes."""

    code = "too_large"
    title = "Too large"


class InvalidGeometry(InputError):
    """Dimensions, spacing or orientation are not those of a scan."""

    code = "invalid_geometry"
    title = "Not the grid of a scan"


class InvalidVoxels(InputError):
    """Grey values are not finite numbers in the range of Hounsfield units."""

    code = "invalid_voxels"
    title = "Not Hounsfield units"


class NotCT(InputError):
    """The file is readable, but it is not a CT in Hounsfield units."""

    code = "not_ct"
    title = "Not a CT in Hounsfield units"


class NoLiver(InputError):
    """No liver was found in the scan."""

    code = "no_liver"
    title = "No liver found"


class InvalidReference(InputError):
    """The reference is not a label file with 0, 1, 2 on the very grid of the scan."""

    code = "invalid_reference"
    title = "The reference does not fit the scan"


class InvalidPrior(InputError):
    """What is to be compared with is no finished job of this service, or not a label file with 0, 1, 2."""

    code = "invalid_prior"
    title = "The prior cannot be used"


class InvalidRequest(InputError):
    """A field of the request is missing, unknown or has a value out of its range."""

    code = "invalid_request"
    title = "The request is not valid"


class NotFound(HepasegError):
    """There is no such job, or the job has no such file."""

    code = "not_found"
    title = "Not found"


class Gone(HepasegError):
    """The job was erased or has expired."""

    code = "gone"
    title = "Erased or expired"


class Conflict(HepasegError):
    """The job is not in a state that allows this."""

    code = "conflict"
    title = "Not possible in this state"


class Overloaded(HepasegError):
    """The queue is full; `retry_after_s` says when to come back."""

    code = "overloaded"
    title = "The queue is full"

    def __init__(self, detail: str, retry_after_s: int = 30) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


#: What the operating system says then.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class StorageFull(HepasegError):
    """There is no room left for the scan or its results."""

    code = "storage_full"
    title = "Storage is full"


class NotReady(HepasegError):
    """The service cannot compute at present."""

    code = "not_ready"
    title = "Not ready"


class StorageUnreachable(NotReady):
    """The store of scans and results does not answer."""

    code = "storage_unreachable"
    title = "Storage out of reach"


class PeerFailed(HepasegError):
    """The DICOMweb server did not answer, or not as it should."""

    code = "pacs_failed"
    title = "The PACS does not answer"


class BrokenReceipt(HepasegError):
    """A receipt that is missing, forged or damaged, or results that are not what it states."""

    code = "broken_receipt"
    title = "The receipt does not hold"


class Canceled(HepasegError):
    """The job was canceled while it ran."""

    code = "canceled"
    title = "Canceled"


class BrokenModel(HepasegError):
    """A network file is missing, altered, or not what the manifest and the contract say."""

    code = "broken_model"
    title = "A network cannot be used"
