"""What the training tests share: a pack of one phantom."""

import pytest

pytest.importorskip("torch", reason="training needs PyTorch")
pytest.importorskip("lightning_fabric", reason="training needs Lightning Fabric")

import torch

from training import packs
from training.datasets import phantoms


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom_cases():
    return list(phantoms([1]))


@pytest.fixture(scope="session", params=["liver", "lesion"])
def any_task(request):
    return request.param


@pytest.fixture(scope="session")
def cache(tmp_path_factory, phantom_cases):
    root = tmp_path_factory.mktemp("packs")
    for task in ("liver", "lesion"):
        packs.write_pack(root / task / "phantoms", phantom_cases, task)
    return root


@pytest.fixture(scope="session")
def liver_pack(cache):
    return packs.read_packs(cache, "liver")
