"""Which series the DICOM node takes, and when one is whole."""

from pathlib import Path

import numpy as np
import pytest

from app.dicom.rules import Rules, SeriesFacts, Take, facts_of, read_rules, refusal_of
from app.dicom.spool import CALLER, Spool, instances
from app.errors import InvalidRequest
from app.jobs.job import Priority
from tests.dicom_files import enhanced_of, packed, series_of, small_volume, straight

GOOD = SeriesFacts("CT", 40, "axial", 1.5, "Abdomen portal venous")


def with_(**changes) -> SeriesFacts:
    return SeriesFacts(**{**vars(GOOD), **changes})


@pytest.mark.parametrize(
    ("take", "facts", "code"),
    [
        ({}, {}, None),
        ({}, {"modality": "MR"}, "wrong_modality"),
        ({}, {"slices": 19}, "too_few_slices"),
        ({}, {"slices": 20}, None),
        ({"most_slices": 39}, {}, "too_many_slices"),
        ({}, {"slices": 0}, "only_localizer"),
        ({}, {"plane": "coronal"}, "wrong_orientation"),
        ({}, {"plane": ""}, "wrong_orientation"),
        ({"orientation": "any"}, {"plane": "sagittal"}, None),
        ({"thickness_mm": [0.5, 1.5]}, {}, None),
        ({"thickness_mm": [2, 5]}, {}, "wrong_thickness"),
        ({"thickness_mm": [2, 5]}, {"thickness_mm": None}, None),
        ({"description": ["liver", "PORTAL"]}, {}, None),
        ({"description": ["liver"]}, {}, "description_not_wanted"),
        ({"not_description": ["^abd"]}, {}, "description_excluded"),
    ],
)
def test_each_rule_refuses_with_its_code(take, facts, code):
    assert refusal_of(Take.model_validate(take), with_(**facts)) == code


def test_the_rules_of_a_file_name_callers_and_their_priority(tmp_path: Path):
    path = tmp_path / "rules.toml"
    path.write_text('[take]\nleast_slices = 5\n[callers]\nER = "stat"\nPACS = "routine"\n')
    rules = read_rules(path)
    assert rules.take.least_slices == 5
    assert (rules.priority_of("ER"), rules.priority_of("OTHER")) == (Priority.STAT, None)
    assert Rules().priority_of("OTHER") is Priority.ROUTINE


@pytest.mark.parametrize(
    "text",
    [
        "[take",
        "[take]\nslices = 3",
        '[take]\ndescription = ["("]',
        '[callers]\nER = "soon"',
        "[take]\nleast_slices = 0",
    ],
)
def test_rules_with_a_mistake_are_refused_in_one_sentence(tmp_path: Path, text):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match="rules of the DICOM node"):
        read_rules(path)


def saved(folder: Path, datasets) -> list[Path]:
    paths = [folder / f"{number}.dcm" for number in range(len(datasets))]
    for path, dataset in zip(paths, datasets, strict=True):
        path.write_bytes(packed(dataset))
    return paths


def test_facts_are_those_of_the_slices_without_the_localizer(tmp_path: Path):
    slices = series_of(small_volume(), SeriesDescription="Abdomen")
    slices[0].ImageType, slices[0].ImageOrientationPatient = ["ORIGINAL", "PRIMARY", "LOCALIZER"], [1, 0, 0, 0, 0, -1]
    facts = facts_of(saved(tmp_path, slices))
    assert facts == SeriesFacts("CT", len(slices) - 1, "axial", straight()[2, 2], "Abdomen")


def test_facts_of_a_multi_frame_file(tmp_path: Path):
    facts = facts_of(saved(tmp_path, [enhanced_of(small_volume())]))
    assert (facts.slices, facts.plane) == (small_volume().geometry.shape[2], "axial")
    assert facts.thickness_mm == pytest.approx(straight()[2, 2])
    assert np.isfinite(facts.thickness_mm)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def arrive(spool: Spool, name: str, series="1.2", caller="PACS", sender=1) -> None:
    path = spool.arriving / name
    path.write_text(name)
    spool.put(path, (series, name), caller, sender)


def test_a_series_is_whole_when_its_associations_have_ended_and_nothing_came_for_a_while(tmp_path, clock):
    spool = Spool(tmp_path, clock)
    arrive(spool, "a", sender=1)
    arrive(spool, "b", sender=2)
    for now, end, whole in ((50, None, 0), (100, 1, 0), (103, None, 0), (104, 2, 0), (108, None, 0), (109, None, 1)):
        clock.now = now
        if end:
            spool.ended(end)
        spool.close(5.0, 60.0)
        assert len(spool.whole()) == whole, now
    assert [path.read_text() for path in instances(spool.whole()[0])] in (["a", "b"], ["b", "a"])


def test_a_series_whose_association_was_broken_off_waits_longer_for_the_rest(tmp_path, clock):
    spool = Spool(tmp_path, clock)
    for name in ("a", "b"):
        arrive(spool, name, series=name)
    spool.ended(1, broken=True)
    clock.now = 59
    spool.close(5.0, 60.0)
    assert spool.whole() == []
    arrive(spool, "the rest", series="a", sender=2)
    spool.ended(2)
    # The end of the connection is told after the release, and changes nothing.
    spool.ended(2, broken=True)
    clock.now = 65
    spool.close(5.0, 60.0)
    assert sorted(len(instances(folder)) for folder in spool.whole()) == [1, 2]


def test_an_instance_sent_twice_is_one_and_callers_and_series_stay_apart(tmp_path, clock):
    spool = Spool(tmp_path, clock)
    for name, series, caller in (("a", "1", "X"), ("a", "1", "X"), ("b", "2", "X"), ("a", "1", "Y")):
        arrive(spool, name, series, caller)
    spool.ended(1)
    clock.now = 9
    spool.close(5.0, 60.0)
    found = sorted(((folder / CALLER).read_text(), len(instances(folder))) for folder in spool.whole())
    assert found == [("X", 1), ("X", 1), ("Y", 1)]


def test_a_restart_loses_no_series_and_keeps_no_half_file(tmp_path, clock):
    before = Spool(tmp_path, clock)
    arrive(before, "a", series="1")
    clock.now = 9
    before.ended(1)
    clock.now = 20
    before.close(5.0, 60.0)
    arrive(before, "b", series="2", sender=2)  # its association dies with the process
    (before.arriving / "half").write_text("half")
    after = Spool(tmp_path, clock)
    assert not list(after.arriving.iterdir())
    assert len(after.whole()) == 1
    clock.now = 24
    after.close(5.0, 60.0)
    assert len(after.whole()) == 1
    clock.now = 26
    after.close(5.0, 60.0)
    assert len(after.whole()) == 2


def test_names_on_the_disk_say_nothing_of_the_series(tmp_path, clock):
    spool = Spool(tmp_path, clock)
    arrive(spool, "1.2.826.4711", series="1.2.826.9999")
    assert not any("1.2.826" in str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
