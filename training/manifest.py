"""Writing models/manifest.json: which file holds which network. Needs no PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal

Task = Literal["liver", "lesion", "crf"]
CONTRACT = "hepaseg/1"
MANIFEST = "manifest.json"


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write and rename, so that a reader sees the old file or the new one and never half of one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def register(models_dir: Path, task: Task, file: str) -> None:
    """Name `file` (in `models_dir`) as the network of this task; the entries of the other tasks stay as they are."""
    path = models_dir / MANIFEST
    manifest: dict[str, Any] = {"contract": CONTRACT, "networks": {}}
    if path.exists():
        manifest = json.loads(path.read_text())
    manifest["contract"] = CONTRACT
    networks = manifest["networks"]
    networks[task] = {"file": file, "sha256": sha256_of(models_dir / file)}
    manifest["networks"] = {name: networks[name] for name in ("liver", "lesion", "crf") if name in networks}
    write_atomically(path, (json.dumps(manifest, indent=2) + "\n").encode())
