"""What the training tests share: a pack of one phantom."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom_cases():
    from training.datasets import phantoms

    return list(phantoms([1]))


@pytest.fixture(scope="session")
def cache(tmp_path_factory, phantom_cases):
    from training import packs

    root = tmp_path_factory.mktemp("packs")
    for task in ("liver", "lesion"):
        packs.write_pack(root / task / "phantoms", phantom_cases, task)
    return root


@pytest.fixture(scope="session")
def liver_pack(cache):
    from training.packs import read_packs

    return read_packs(cache, "liver")
