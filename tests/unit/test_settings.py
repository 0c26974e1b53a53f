import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def test_every_setting_is_named_in_the_docs():
    text = DOCS.read_text("utf-8")
    missing = [name for name in Settings.model_fields if f"`HEPASEG_{name.upper()}`" not in text]
    assert missing == []


def test_the_docs_name_no_setting_that_does_not_exist():
    named = {word.strip("`") for word in DOCS.read_text("utf-8").split() if word.startswith("`HEPASEG_")}
    assert named == {f"HEPASEG_{name.upper()}" for name in Settings.model_fields}


def test_settings_survive_the_way_through_the_environment_of_a_child(tmp_path: Path, monkeypatch):
    settings = Settings(data_dir=tmp_path / "data with space", port=0, crf_backend="none", embedded_worker=False)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_a_setting_cannot_be_changed_after_the_start():
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_folders_do_not_depend_on_later_changes_of_the_working_directory(monkeypatch):
    monkeypatch.setenv("HEPASEG_DATA_DIR", "somewhere")
    assert Settings().data_dir == Path.cwd() / "somewhere"


def test_reading_settings_and_building_the_app_load_no_onnx_runtime(tmp_path: Path):
    code = (
        "import sys; from app.main import create_app; from app.settings import Settings;"
        f"create_app(Settings(data_dir={str(tmp_path)!r})).openapi();"
        "print([name for name in sys.modules if name.startswith(('onnx', 'torch', 'app.inference'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
