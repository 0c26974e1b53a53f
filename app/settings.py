"""Settings: where, how many, how long. Never what is computed (that travels with the weights).

Each is an environment variable with the prefix HEPASEG_; docs/settings.md names every one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.imaging.scan import Limits

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from app.dicom.results import DicomForm
    from app.inference.session import Runtime

_REPOSITORY = Path(__file__).resolve().parent.parent
_MIB = 1024 * 1024

Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class Settings(BaseSettings):
    """How this service runs; made once at the start and passed in, never imported as a global."""

    model_config = SettingsConfigDict(env_prefix="HEPASEG_", frozen=True)

    #: Scans, results and the database live here.
    data_dir: Folder = Field(default_factory=lambda: Path("data").absolute())
    #: postgresql://… for several machines; empty is SQLite in the data folder.
    database_url: str = ""
    #: redis://… or amqp://… for workers that Celery wakes; empty has them look into the queue by themselves.
    broker_url: str = ""
    #: Where scans and results are kept: s3://bucket/prefix, or a folder; empty is the data folder.
    storage_url: str = ""
    #: The folder with manifest.json and the networks.
    models_dir: Folder = _REPOSITORY / "models"
    #: Address to listen on; loopback unless said otherwise, for there is no authentication yet.
    host: str = "127.0.0.1"
    #: Port to listen on; 0 takes a free one.
    port: int = Field(8008, ge=0, le=65535)
    #: Whether `hepaseg serve` starts a worker of its own.
    embedded_worker: bool = True
    #: Least severe log lines that are written.
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    #: Threads for the networks; 0 takes one for each core.
    threads: int = Field(0, ge=0)
    #: Where the networks run.
    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    #: Slices in one run of a network; 0 takes what suits the provider. Changes speed and memory, never the result.
    batch: int = Field(0, ge=0)
    #: "int8" has a CPU run the 8-bit form of a network where there is one, "float32" never.
    precision: Literal["int8", "float32"] = "int8"
    #: What refines the probabilities. It changes results: for comparisons and oracles.
    crf_backend: Literal["onnx", "pydensecrf", "none"] = "onnx"
    #: Whether lesions that touch count as several where a neck lies between them. It changes results, too.
    split_lesions: bool = False
    #: How masks are stored in DICOM; few archives and viewers know LABELMAP yet.
    seg_kind: Literal["BINARY", "LABELMAP"] = "BINARY"
    #: Whether outlines are written too, as an RT structure set.
    rtstruct: bool = False

    #: Private Ed25519 key in a PEM file that receipts are signed with; empty leaves them unsigned.
    signing_key: str = ""

    #: Largest request body.
    max_upload_bytes: int = Field(2048 * _MIB, ge=1)
    #: Most voxels in a scan.
    max_voxels: int = Field(512 * 512 * 1500, ge=1)
    #: Most bytes that a scan may unpack to.
    max_unpacked_bytes: int = Field(2048 * _MIB, ge=1)
    #: Free space on the disk below which no scan is taken.
    min_free_bytes: int = Field(512 * _MIB, ge=0)
    #: Memory that a worker may use; 0 takes what its machine or container has. A scan that needs more is not taken,
    #: and a command works on two together only if both fit.
    memory_bytes: int = Field(0, ge=0)
    #: Hosts that may be told of the end of a job, with commas between, each with :port if it has one.
    webhook_hosts: str = ""
    #: What these calls are signed with.
    webhook_secret: str = Field("", repr=False)
    #: Most jobs that wait at a time.
    queue_limit: int = Field(100, ge=1)

    #: AE title of `hepaseg dicom-node`, which callers must call it by.
    dicom_ae: str = Field("HEPASEG", pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")
    #: Address that the DICOM node listens on; DICOM knows no authentication.
    dicom_host: str = "127.0.0.1"
    #: Port that the DICOM node listens on.
    dicom_port: int = Field(11112, ge=1, le=65535)
    #: TOML file that says which series the node takes; empty takes axial CT of 20 slices and more.
    dicom_rules: str = ""
    #: AE@host:port that results of series which came by C-STORE are sent to.
    dicom_destination: str = Field("", pattern=r"^([^@\\]{1,16}@[^@\s]+:\d{1,5})?$")
    #: Root of the one DICOMweb server that is ever called, such as https://user:password@pacs/dicom-web.
    dicomweb_url: str = Field("", pattern=r"^(https?://\S+)?$", repr=False)
    #: Seconds without a new instance after which a series is whole.
    dicom_quiet_s: float = Field(5.0, gt=0)
    #: The same where the association was broken off: its sender may come again with the rest.
    dicom_broken_s: float = Field(120.0, gt=0)

    #: Seconds after which a worker that gave no sign has lost its job.
    lease_s: float = Field(10.0, gt=0)
    #: Seconds between two looks of an idle worker into the queue.
    poll_s: float = Field(0.2, gt=0)
    #: Seconds between two looks of an idle worker that waits for the broker, in case a ring was lost.
    look_s: float = Field(2.0, gt=0)
    #: Times a job may take its worker down before it is given up.
    max_attempts: int = Field(3, ge=1)
    #: Seconds by which each step of priority goes ahead; more waiting than that outweighs the step.
    aging_s: float = Field(1800.0, ge=0)
    #: Seconds that a service which is told to stop has for requests in hand, and a worker to hand its job back.
    stop_s: float = Field(10.0, gt=0)
    #: Days after which a finished job is erased; 0 keeps it.
    retention_days: float = Field(30.0, ge=0)

    def runtime(self) -> Runtime:
        """Where and how fast the networks run."""
        # Loads ONNX Runtime, which the HTTP process does without.
        from app.inference.session import Runtime

        return Runtime(self.threads, self.provider, self.batch, self.crf_backend, self.precision)

    def signer(self) -> Ed25519PrivateKey | None:
        """The key that receipts are signed with, if there is one. Raises InvalidRequest."""
        from app.receipt import private_key

        return private_key(Path(self.signing_key).expanduser()) if self.signing_key else None

    def dicom_form(self) -> DicomForm:
        """How results are written as DICOM."""
        # Loads highdicom, which only the worker needs.
        from app.dicom.results import DicomForm

        return DicomForm(self.seg_kind, self.rtstruct)

    def limits(self) -> Limits:
        """The largest scan that is read."""
        return Limits(max_voxels=self.max_voxels, max_bytes=self.max_unpacked_bytes)

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a child process."""
        prefix = self.model_config["env_prefix"]
        return {f"{prefix}{name}".upper(): str(getattr(self, name)) for name in type(self).model_fields}
