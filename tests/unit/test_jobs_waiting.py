import random

import pytest

from app.jobs.waiting import Pace, finished_after_s


def test_without_experience_nothing_is_promised():
    assert Pace.learned([]) is None


@pytest.mark.parametrize(("start_s", "voxel_s"), [(2.0, 0.01), (0.0, 0.5), (7.0, 1e-7)])
def test_a_fixed_cost_and_a_cost_per_voxel_are_both_found(start_s: float, voxel_s: float):
    pace = Pace.learned([(voxels, start_s + voxel_s * voxels) for voxels in (100, 5000, 26_000_000)])
    assert (pace.start_s, pace.voxel_s) == (pytest.approx(start_s, abs=1e-3), pytest.approx(voxel_s))


def test_jobs_of_one_size_tell_the_time_of_that_size():
    assert Pace.learned([(100, 4.0), (100, 6.0)]).seconds(100) == pytest.approx(5.0)


@pytest.mark.parametrize("seen", [[(100, 1.0), (200, 9.0)], [(100, 9.0), (200, 1.0)], [(1, 0.0), (2, 0.0)]])
def test_nothing_ever_takes_less_than_no_time(seen: list):
    pace = Pace.learned(seen)
    assert pace.start_s >= 0
    assert pace.voxel_s >= 0


def test_noise_does_not_carry_the_estimate_away():
    noise = random.Random(1)
    seen = [(v, (3 + 1e-6 * v) * noise.uniform(0.8, 1.2)) for v in range(1_000_000, 40_000_000, 1_000_000)]
    assert Pace.learned(seen).seconds(26_000_000) == pytest.approx(29, rel=0.1)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
def test_the_end_is_that_of_workers_who_take_job_after_job(workers: int):
    dice = random.Random(workers)
    for _ in range(50):
        running = [dice.randint(1, 9) for _ in range(dice.randint(0, workers))]
        waiting = [dice.randint(1, 9) for _ in range(dice.randint(1, 8))]
        assert finished_after_s(running, waiting, workers) == second_by_second(running, waiting, workers)


def second_by_second(running: list[int], waiting: list[int], workers: int) -> int:
    hands = [*running, *[0] * (workers - len(running))]
    queue = list(waiting)
    for second in range(1000):
        for hand in range(workers):
            if hands[hand] == 0 and queue:
                hands[hand] = queue.pop(0)
                if not queue:
                    return second + hands[hand]
        hands = [max(0, left - 1) for left in hands]
    raise AssertionError
