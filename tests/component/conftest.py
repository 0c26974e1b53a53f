"""The cascade of hand-written networks that most of these tests run."""

import pytest

from app.inference.cascade import Cascade
from app.inference.manifest import load_networks
from app.inference.network import Runtime
from tests.analytic_networks import phantom_models


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Cascade:
    runtime = Runtime(threads=1)
    return Cascade(load_networks(phantom_models(tmp_path_factory.mktemp("models")), runtime), runtime)
