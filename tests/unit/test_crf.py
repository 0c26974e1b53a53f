"""The dense CRF against the sum over all pairs, which is slow and cannot be wrong in the same way."""

import functools
import hashlib
import json

import numpy as np
import onnxruntime
import pytest
from scipy import ndimage

from app.errors import NotReady
from app.inference.crf import refine
from app.inference.network import Network, Runtime
from tests.analytic_networks import crf_graph

onnx_graph = pytest.importorskip("training.onnx_graph", reason="onnx is not installed")
from training import all_pairs, crf  # noqa: E402 - needs onnx
from training.manifest import register  # noqa: E402
from training.refinement_card import refinement_part  # noqa: E402

RUNTIME = Runtime(threads=1)
EXACT = crf.DEFAULT.model_copy(update={"quality": "exact"})
BUILT: dict[str, bytes] = {}


@functools.cache
def loaded(key: str, runtime: Runtime) -> Network:
    return Network(BUILT[key], hashlib.sha256(BUILT[key]).hexdigest(), "crf.onnx", "crf", runtime)


def network(parameters: crf.Parameters = EXACT, runtime: Runtime = RUNTIME) -> Network:
    key = parameters.model_dump_json()
    if key not in BUILT:
        BUILT[key] = crf.build(parameters).SerializeToString(deterministic=True)
    return loaded(key, runtime)


def exact(probability, hounsfield, spacing_mm, parameters=EXACT) -> np.ndarray:
    return all_pairs.refine(probability, hounsfield, spacing_mm, parameters)


def scene(seed: int, shape, spacing_mm, *, noise_hu: float = 15.0):
    """A blob of 100 HU in 55 HU, and a network's noisy opinion of it."""
    random = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(random.normal(size=shape), [5 / mm for mm in spacing_mm])
    inside = field > 0.3 * field.std()
    hounsfield = np.where(inside, 100, 55) + random.normal(size=shape) * noise_hu
    opinion = np.where(inside, 3.0, -3.0) + random.normal(size=shape) * 4
    logit = ndimage.gaussian_filter(opinion, [2 / mm for mm in spacing_mm]) + random.normal(size=shape)
    return (1 / (1 + np.exp(-logit))).astype(np.float32), hounsfield.astype(np.int16)


def assert_close(found, expected) -> None:
    error = np.abs(found - expected)
    assert error.mean() <= 0.002
    assert error.max() <= 0.05
    assert ((found >= 0.5) == (expected >= 0.5)).mean() >= 0.995


GRIDS = [
    ((10, 12, 12), (3.0, 0.8, 0.8)),
    ((12, 12, 10), (1.0, 0.8, 0.8)),
    ((6, 11, 13), (5.0, 1.5, 0.9)),
    ((12, 12, 10), (0.3, 0.3, 0.3)),
    ((6, 12, 12), (10.0, 10.0, 10.0)),
    ((12, 7, 9), (0.3, 10.0, 2.0)),
    ((1, 30, 30), (5.0, 0.8, 0.8)),
    ((20, 1, 7), (2.0, 0.7, 0.7)),
    ((1, 1, 9), (2.0, 0.7, 0.7)),
    ((1, 1, 1), (1.0, 1.0, 1.0)),
]


@pytest.mark.parametrize(("shape", "spacing_mm"), GRIDS)
def test_the_graph_gives_what_the_sum_over_all_pairs_gives(shape, spacing_mm):
    for seed in range(2):
        probability, hounsfield = scene(seed, shape, spacing_mm)
        found = refine(probability, hounsfield, spacing_mm, network())
        assert found.shape == shape
        assert found.dtype == np.float32
        assert_close(found, exact(probability, hounsfield, spacing_mm))


def test_what_blocks_of_four_voxels_blur_is_taken_off_the_kernel():
    # without that the error is a quarter larger
    errors = []
    for seed in range(3):
        probability, hounsfield = scene(seed, (1, 40, 40), (5.0, 0.6, 0.6))
        found = refine(probability, hounsfield, (5.0, 0.6, 0.6), network())
        errors.append(np.abs(found - exact(probability, hounsfield, (5.0, 0.6, 0.6))).mean())
    assert np.mean(errors) < 0.0006


def test_the_crf_changes_labels_at_all_and_mends_a_noisy_network():
    probability, hounsfield = scene(3, (10, 12, 12), (1.5, 1.5, 1.5), noise_hu=0)
    truth = hounsfield == 100
    before = ((probability >= 0.5) == truth).mean()
    found = refine(probability, hounsfield, (1.5, 1.5, 1.5), network())
    assert ((found >= 0.5) == truth).mean() > before + 0.02


@pytest.mark.parametrize(
    "changes",
    [
        {"appearance_weight": 6.0, "appearance_mm": 15.0, "appearance_hu": 12.0},
        {"appearance_mm": 1.5, "appearance_hu": 40.0, "iterations": 10},
        {"appearance_weight": 0.0, "smoothness_weight": 3.0, "smoothness_mm": 4.0},
        {"smoothness_weight": 0.0},
    ],
)
def test_other_kernels_are_as_exact(changes):
    parameters = EXACT.model_copy(update=changes)
    probability, hounsfield = scene(1, (9, 12, 11), (2.0, 1.0, 1.2))
    found = refine(probability, hounsfield, (2.0, 1.0, 1.2), network(parameters))
    assert_close(found, exact(probability, hounsfield, (2.0, 1.0, 1.2), parameters))


def test_without_weights_nothing_changes():
    parameters = EXACT.model_copy(update={"appearance_weight": 0.0, "smoothness_weight": 0.0})
    probability, hounsfield = scene(1, (5, 8, 8), (2, 1, 1))
    found = refine(probability, hounsfield, (2, 1, 1), network(parameters))
    assert np.abs(found - probability).max() < 1e-5


def test_a_turned_volume_gives_the_turned_answer():
    probability, hounsfield = scene(5, (8, 12, 10), (3.0, 0.8, 1.1))
    found = refine(probability, hounsfield, (3.0, 0.8, 1.1), network())
    turned = refine(probability.transpose(2, 0, 1), hounsfield.transpose(2, 0, 1), (1.1, 3.0, 0.8), network())
    assert np.abs(turned - found.transpose(2, 0, 1)).max() < 0.03


@pytest.mark.parametrize("hu", [-32768, -100, 0, 57, 200, 32767])
def test_a_constant_image_leaves_smoothing_only(hu):
    probability, _ = scene(2, (8, 10, 10), (2, 1, 1))
    hounsfield = np.full(probability.shape, hu, np.int16)
    assert_close(refine(probability, hounsfield, (2, 1, 1), network()), exact(probability, hounsfield, (2, 1, 1)))


def test_probabilities_of_exactly_0_and_1_are_certain_but_not_infinite():
    probability, hounsfield = scene(2, (8, 10, 10), (2, 1, 1))
    probability = (probability > 0.5).astype(np.float32)
    found = refine(probability, hounsfield, (2, 1, 1), network())
    assert np.isfinite(found).all()
    assert_close(found, exact(probability, hounsfield, (2, 1, 1)))


def test_enough_neighbours_overrule_a_voxel_of_probability_1():
    parameters = EXACT.model_copy(update={"appearance_weight": 30.0})
    probability = np.zeros((5, 8, 8), np.float32)
    probability[2, 4, 4] = 1
    found = refine(probability, np.full((5, 8, 8), 60, np.int16), (2, 1, 1), network(parameters))
    assert (found < 0.5).all()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_region_without_doubt_comes_back_as_it_is(value):
    probability = np.full((4, 5, 6), value, np.float32)
    hounsfield = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    assert np.array_equal(refine(probability, hounsfield, (2, 1, 1), network(crf.DEFAULT)), probability)


@pytest.mark.parametrize(("shape", "spacing_mm"), GRIDS)
def test_the_fast_graph_is_nearly_as_exact(shape, spacing_mm):
    probability, hounsfield = scene(1, shape, spacing_mm)
    found = refine(probability, hounsfield, spacing_mm, network(crf.DEFAULT))
    error = np.abs(found - exact(probability, hounsfield, spacing_mm))
    assert error.mean() <= 0.006
    assert error.max() <= 0.1


@pytest.mark.parametrize("seed", range(3))
def test_voxels_that_are_certain_or_settled_change_no_label(seed):
    probability, hounsfield = scene(seed, (10, 12, 12), (2.0, 1.0, 1.0))
    logit = 3 * np.log(probability / (1 - probability))
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    size = np.abs(logit)
    kinds = [size < crf.DEFAULT.certain_logit, size > crf.DEFAULT.settled_logit]
    assert all(kind.mean() > 0.02 for kind in [*kinds, ~kinds[0] & ~kinds[1]])
    found = refine(probability, hounsfield, (2, 1, 1), network(crf.DEFAULT))
    expected = exact(probability, hounsfield, (2, 1, 1))
    assert ((found >= 0.5) == (expected >= 0.5)).mean() >= 0.995
    assert np.abs(found - expected).mean() < 0.002
    settled = size > crf.DEFAULT.settled_logit
    assert np.array_equal(found[settled] >= 0.5, probability[settled] >= 0.5)
    assert np.abs(found - expected)[settled].max() < 0.01


def three_labels(seed, shape, spacing_mm):
    """A liver with a lesion in it: probabilities of liver and lesion (2, K, J, I), and HU."""
    liver, hounsfield = scene(seed, shape, spacing_mm)
    lesion, darker = scene(seed + 100, shape, spacing_mm)
    both = np.stack([liver * (1 - lesion), liver * lesion]).astype(np.float32)
    return both, np.where(lesion > 0.5, darker - 40, hounsfield).astype(np.int16)


@pytest.mark.parametrize("quality", ["fast", "exact"])
@pytest.mark.parametrize(("shape", "spacing_mm"), GRIDS[:4])
def test_three_labels_give_what_the_sum_over_all_pairs_gives(quality, shape, spacing_mm):
    parameters = crf.DEFAULT.model_copy(update={"quality": quality})
    probability, hounsfield = three_labels(1, shape, spacing_mm)
    graph = crf.build(parameters, labels=3).SerializeToString()
    (found,) = onnxruntime.InferenceSession(graph).run(
        None, {"probability": probability, "hounsfield": hounsfield, "spacing_mm": np.array(spacing_mm, np.float32)}
    )
    error = np.abs(found - exact(probability, hounsfield, spacing_mm))
    assert error.mean() <= {"fast": 0.005, "exact": 0.002}[quality]
    assert error.max() <= {"fast": 0.1, "exact": 0.05}[quality]


def test_three_labels_of_which_one_never_occurs_are_two():
    probability, hounsfield = scene(1, (8, 10, 10), (2, 1, 1))
    both = np.stack([probability, np.zeros_like(probability)])
    session = onnxruntime.InferenceSession(crf.build(EXACT, labels=3).SerializeToString())
    (found,) = session.run(
        None, {"probability": both, "hounsfield": hounsfield, "spacing_mm": np.array([2, 1, 1], np.float32)}
    )
    two = refine(probability, hounsfield, (2, 1, 1), network())
    assert np.abs(found[0] - two).max() < 0.002
    assert found[1].max() < 0.01


def test_slabs_give_the_labels_of_the_whole():
    probability, hounsfield = scene(4, (90, 16, 14), (1.0, 1.2, 1.1))
    whole = refine(probability, hounsfield, (1.0, 1.2, 1.1), network(crf.DEFAULT))
    slabs = refine(probability, hounsfield, (1.0, 1.2, 1.1), network(crf.DEFAULT), memory_ceiling=1)
    assert not np.array_equal(slabs, whole)
    assert np.array_equal(slabs >= 0.5, whole >= 0.5)
    assert np.abs(slabs - whole).max() < 1e-3


def test_a_ceiling_above_the_need_changes_nothing():
    probability, hounsfield = scene(4, (12, 16, 14), (1.0, 1.2, 1.1))
    whole = refine(probability, hounsfield, (1.0, 1.2, 1.1), network(crf.DEFAULT), memory_ceiling=1e12)
    assert np.array_equal(whole, refine(probability, hounsfield, (1.0, 1.2, 1.1), network(crf.DEFAULT)))


def test_the_number_of_threads_changes_no_label():
    probability, hounsfield = scene(4, (20, 40, 36), (2, 1, 1))
    one, two = (
        refine(probability, hounsfield, (2, 1, 1), network(crf.DEFAULT, Runtime(threads=threads))) for threads in (1, 2)
    )
    assert np.abs(one - two).max() < 1e-5
    assert np.array_equal(one >= 0.5, two >= 0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1])
def test_what_is_no_probability_is_refused(value):
    probability, hounsfield = scene(0, (3, 4, 5), (2, 1, 1))
    probability[1, 2, 3] = value
    with pytest.raises(ValueError, match="probabilities"):
        refine(probability, hounsfield, (2, 1, 1), network())


@pytest.mark.parametrize("spacing_mm", [(0, 1, 1), (1, -1, 1), (1, 1), (1, float("nan"), 1)])
def test_a_spacing_that_is_none_is_refused(spacing_mm):
    with pytest.raises(ValueError, match="spacings"):
        refine(*scene(0, (3, 4, 5), (2, 1, 1)), spacing_mm, network())


def test_arrays_of_two_grids_are_refused():
    probability, hounsfield = scene(0, (3, 4, 5), (2, 1, 1))
    with pytest.raises(ValueError, match="not one grid"):
        refine(probability, hounsfield[:2], (2, 1, 1), network())


def test_an_empty_region_stays_empty():
    empty = np.zeros((0, 4, 5))
    assert refine(empty.astype(np.float32), empty.astype(np.int16), (2, 1, 1), network()).shape == (0, 4, 5)


def test_without_a_backend_the_probability_stays():
    probability, hounsfield = scene(0, (3, 4, 5), (2, 1, 1))
    found = refine(probability, hounsfield, (2, 1, 1), network(runtime=Runtime(crf_backend="none")))
    assert np.array_equal(found, probability)


def test_the_card_holds_the_kernels_and_the_file_is_the_same_every_time():
    card = network(crf.DEFAULT).card
    assert crf.Parameters.model_validate(card.parameters) == crf.DEFAULT
    assert crf.build().SerializeToString(deterministic=True) == BUILT[crf.DEFAULT.model_dump_json()]


def test_export_adds_its_line_to_the_manifest_and_leaves_the_others(tmp_path):
    others = {"liver": {"file": "liver-1.0.0.onnx", "sha256": "0" * 64}}
    (tmp_path / "manifest.json").write_text(json.dumps({"contract": "hepaseg/1", "networks": others}))
    path = crf.export(tmp_path)
    written = json.loads((tmp_path / "manifest.json").read_text())["networks"]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert written == others | {"crf": {"file": path.name, "sha256": sha256}}


def test_export_keeps_what_was_fitted_for_a_folder(tmp_path):
    fitted = crf.DEFAULT.model_copy(update={"refines": ("liver",), "appearance_mm": 6.5})
    crf.export(tmp_path, fitted, metrics={"kept_out_dice": 0.5})
    crf.export(tmp_path)
    assert crf.shipped(tmp_path) == (fitted, {"kept_out_dice": 0.5})


def test_a_label_that_a_recipe_wants_unrefined_is_left_out_and_the_older_file_removed(tmp_path):
    older = tmp_path / "crf-0.0.1.onnx"
    crf.export(tmp_path, crf.DEFAULT.model_copy(update={"refines": ("liver", "lesion")})).rename(older)
    register(tmp_path, "crf", older.name)
    path = crf.export(tmp_path, unrefined=("lesion",))
    assert crf.shipped(tmp_path)[0].refines == ("liver",)
    assert [each.name for each in tmp_path.glob("*.onnx")] == [path.name]


def volume(liver, lesion):
    return {"crf": {"liver": liver, "lesion": lesion}}


def test_the_card_shows_what_refinement_is_worth_also_where_it_is_left_out():
    gained, lost = {"without": 0.95, "with": 0.96}, {"without": 0.3, "with": 0.1}
    scores = {"volume-3": volume(gained, lost), "nobody": {"crf": {}}}
    text = "\n".join(refinement_part(scores, network(crf.DEFAULT).card))
    assert "| liver | volume-3 | 0.9500 | 0.9600 | yes |" in text
    assert "| lesion | volume-3 | 0.3000 | 0.1000 | no |" in text
    assert "The lesion is **left unrefined**: it would change its Dice by -0.2000 on average." in text
    assert "as designed, not fitted" in text
    assert "nobody" not in text


def test_a_graph_whose_card_says_nothing_of_its_grid_is_cut_with_care():
    probability, hounsfield = scene(0, (12, 6, 5), (2, 1, 1))
    other = Network(crf_graph(), "0" * 64, "crf.onnx", "crf", RUNTIME)
    assert np.array_equal(refine(probability, hounsfield, (2, 1, 1), other, memory_ceiling=1), probability)


def test_a_backend_that_is_not_installed_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    graph = crf_graph()
    absent = Network(graph, "0" * 64, "crf.onnx", "crf", Runtime(crf_backend="pydensecrf"))
    with pytest.raises(NotReady, match=r"hepaseg\[pydensecrf\]"):
        refine(*scene(0, (3, 4, 5), (2, 1, 1)), (2, 1, 1), absent)


@pytest.mark.oracle
def test_pydensecrf_with_the_same_kernels_agrees():
    pytest.importorskip("pydensecrf", reason="the extra pydensecrf is not installed")
    runtime = Runtime(threads=1, crf_backend="pydensecrf")
    for shape, spacing_mm in GRIDS[:3]:
        probability, hounsfield = scene(6, shape, spacing_mm)
        theirs = refine(probability, hounsfield, spacing_mm, network(runtime=runtime))
        ours = refine(probability, hounsfield, spacing_mm, network())
        truth = exact(probability, hounsfield, spacing_mm)
        assert ((theirs >= 0.5) == (truth >= 0.5)).mean() >= 0.97
        assert np.abs(ours - truth).mean() <= np.abs(theirs - truth).mean()
