"""Writing models/manifest.json: which file holds which network. Needs no PyTorch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from app.imaging.atomic import write_text, written_whole

Task = Literal["liver", "lesion", "crf"]
CONTRACT = "hepaseg/1"
MANIFEST = "manifest.json"


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write the whole file or nothing."""
    with written_whole(path) as file:
        file.write(content)


def registered(models_dir: Path) -> dict[str, dict[str, Any]]:
    """The file and sha256 of each task that the manifest names, and the same of its 8-bit form under "int8" if it has
    one; none where there is no manifest yet.
    """
    path = models_dir / MANIFEST
    if not path.exists():
        return {}
    networks: dict[str, dict[str, Any]] = json.loads(path.read_text())["networks"]
    return networks


def register(models_dir: Path, task: Task, file: str, int8: str | None = None) -> None:
    """Name `file` (in `models_dir`) as the network of this task, and `int8` as its 8-bit form; the entries of the other
    tasks stay as they are.
    """
    networks = registered(models_dir)
    networks[task] = {"file": file, "sha256": sha256_of(models_dir / file)}
    if int8 is not None:
        networks[task]["int8"] = {"file": int8, "sha256": sha256_of(models_dir / int8)}
    in_order = {name: networks[name] for name in ("liver", "lesion", "crf") if name in networks}
    text = json.dumps({"contract": CONTRACT, "networks": in_order}, indent=2) + "\n"
    write_text(models_dir / MANIFEST, text)
