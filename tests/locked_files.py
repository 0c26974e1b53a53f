"""A file that may not be read, also for root, whom the permissions of files do not keep out."""

from pathlib import Path

import pytest


def lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever opens the file be refused, as the kernel would."""
    opened = Path.open

    def refused(self: Path, *arguments: object, **options: object) -> object:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refused)
