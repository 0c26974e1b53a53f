"""The organs of `training.phantom`, painted one over the other in the order of the functions below.

All lengths are millimetres of the standard body; see `training.tissue` for its directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.tissue import EVERYWHERE, Body, Box, Float32, Point, Tissue

FILLING = (Tissue.VISCERAL_FAT,)
HOLLOW = (Tissue.BOWEL_WALL, Tissue.BOWEL_CONTENT, Tissue.BOWEL_CONTRAST, Tissue.GAS)


@dataclass(frozen=True)
class Habitus:
    """How this body differs from the standard one; lengths in mm of the standard body."""

    fat_mm: float = 14.0
    diaphragm_mm: float = 0.0
    liver: float = 1.0
    left_lobe: float = 1.0
    spleen: float = 1.0
    kidneys: float = 1.0
    stomach_gas: float = 0.45
    bowel_loops: int = 70
    arms: bool = False
    table_mm: float = 123.0


def paint(body: Body, habitus: Habitus, rng: np.random.Generator) -> None:
    """Paint a whole abdomen, from the table to the vessels of the liver; lesions come later."""
    _trunk(body, habitus)
    _lungs(body, habitus)
    _ribs(body)
    _spine(body)
    _great_vessels(body)
    _bowel(body, habitus, rng)
    _upper_organs(body, habitus)
    _liver(body, habitus)
    _over_the_liver(body, habitus)
    _liver_vessels(body, rng)


def _oval(body: Body, box: Box, half: tuple[float, float], y0: float) -> Float32:
    """Level of a rounded rectangle around (0, y0), 1 on its edge: a trunk is squarer than an ellipse."""
    x2 = (body.x[box] / np.float32(half[0])) ** 2
    y2 = ((body.y[box] - np.float32(y0)) / np.float32(half[1])) ** 2
    level: Float32 = x2 + y2 - np.float32(0.4) * x2 * y2
    return level


CAVITY = ((137.0, 86.0), -8.0)


def _trunk(body: Body, habitus: Habitus) -> None:
    fat = habitus.fat_mm
    _, flat_y, flat_x = body.axes  # the table neither bends nor turns with the patient
    depth = flat_y[:, None] - habitus.table_mm + np.float32(0.0005) * flat_x**2
    for top in (0.0, 30.0):
        body.tissue[:, (depth > top) & (depth < top + 3)] = Tissue.TABLE
    outline = _oval(body, EVERYWHERE, (150 + fat, 102 + 1.1 * fat), -0.4 * fat)
    body.fill(EVERYWHERE, outline < 1, Tissue.SKIN)
    body.fill(EVERYWHERE, outline < 0.97, Tissue.FAT)
    del outline
    body.fill(EVERYWHERE, _oval(body, EVERYWHERE, (150, 102), 0) < 1, Tissue.MUSCLE)
    body.fill(EVERYWHERE, _oval(body, EVERYWHERE, (142, 94), -4) < 1, Tissue.FAT)
    body.fill(EVERYWHERE, _oval(body, EVERYWHERE, (140, 91), -5) < 1, Tissue.MUSCLE)
    body.fill(EVERYWHERE, _oval(body, EVERYWHERE, *CAVITY) < 1, Tissue.VISCERAL_FAT)
    for side in (-1, 1):
        body.ellipsoid(Tissue.MUSCLE, (side * 36, 84, 0), (34, 20, 900), (*FILLING, Tissue.FAT))
        body.ellipsoid(Tissue.MUSCLE, (side * 36, 58, -90), (17, 19, 75), FILLING)
        if habitus.arms:
            centre = (side * 195.0, 20.0, 0.0)
            for tissue, radius in (
                (Tissue.SKIN, 42),
                (Tissue.FAT, 40),
                (Tissue.MUSCLE, 33),
                (Tissue.CORTICAL_BONE, 9),
            ):
                body.ellipsoid(tissue, centre, (radius, radius, 900), None)


def diaphragm(body: Body, box: Box, habitus: Habitus) -> Float32:
    """Height of the diaphragm in mm above each voxel's place: two domes that fall off to the chest wall."""
    x, y = body.x[box], body.y[box]
    right = 70 - 92 * (((x + 62) / 84) ** 2 + ((y + 4) / 92) ** 2) ** 1.5
    left = 58 - 92 * (((x - 66) / 84) ** 2 + ((y + 2) / 90) ** 2) ** 1.5
    middle = 48 - 60 * ((x / 90) ** 2 + ((y + 40) / 70) ** 2)
    dome: Float32 = np.maximum(np.maximum(right, left), np.maximum(middle, np.float32(-45)))
    return dome + np.float32(habitus.diaphragm_mm)


def _lungs(body: Body, habitus: Habitus) -> None:
    low = -48.0 + habitus.diaphragm_mm
    box = body.box((-999, -999, low), (999, 999, 999))
    above = body.z[box] - diaphragm(body, box, habitus)
    body.fill(box, above > -2.5, Tissue.MUSCLE, FILLING)
    cavity = _oval(body, box, (135, 84), CAVITY[1]) < 1
    body.fill(box, cavity & (above > 0), Tissue.LUNG, (Tissue.MUSCLE, *FILLING))
    z = habitus.diaphragm_mm
    body.ellipsoid(Tissue.VISCERAL_FAT, (8, 20, 130), (34, 62, 95), (Tissue.LUNG,))
    body.ellipsoid(Tissue.VISCERAL_FAT, (22, -36, 96 + z), (72, 52, 54), (Tissue.LUNG,))
    body.ellipsoid(Tissue.HEART, (26, -34, 98 + z), (62, 45, 47), (Tissue.VISCERAL_FAT, Tissue.LUNG))
    for centre, radii in (((48, -30, 98 + z), (26, 22, 36)), ((4, -46, 100 + z), (22, 20, 34))):
        body.ellipsoid(Tissue.AORTA, centre, radii, (Tissue.HEART,))  # blood in the two ventricles
    body.ellipsoid(Tissue.MUSCLE, (14, 12, 110), (9, 7, 75), (Tissue.VISCERAL_FAT, Tissue.LUNG))


def _ribs(body: Body) -> None:
    """Twelve slanting ribs in the wall: seven or so cross each slice on either side."""
    outer, inner = _oval(body, EVERYWHERE, (145, 96), -3), _oval(body, EVERYWHERE, (138.5, 88.5), -6)
    shell = (outer < 1) & (inner > 1)
    behind = np.arctan2(np.abs(body.x[shell]), body.y[shell])  # 0 at the spine, pi at the sternum
    along = body.z[shell] + 62 * behind
    bone = (along % 27 < 10) & (along > 15) & (behind < 2.45) & (behind > 0.35)
    marrow = bone & (np.abs(along % 27 - 5) < 3) & (outer[shell] < 0.97) & (inner[shell] > 1.02)
    values = body.tissue[shell]
    values[bone] = Tissue.CORTICAL_BONE
    values[marrow] = Tissue.MARROW
    body.tissue[shell] = values
    body.ellipsoid(Tissue.CORTICAL_BONE, (0, -93, 110), (14, 6, 60), (Tissue.MUSCLE, Tissue.FAT))
    body.ellipsoid(Tissue.MARROW, (0, -93, 110), (11, 4, 58), (Tissue.CORTICAL_BONE,))


def _spine(body: Body) -> None:
    bone, marrow = Tissue.CORTICAL_BONE, Tissue.MARROW
    body.ellipsoid(bone, (0, 58, 0), (22, 17, 9999))
    body.ellipsoid(marrow, (0, 58, 0), (20, 15, 9999))
    box = body.around((0, 58, 0), (22, 17, 999))
    gap = (body.z[box] + 6) % 33
    body.fill(box, gap < 7, Tissue.DISC, (bone, marrow))
    body.ellipsoid(bone, (0, 84, 0), (17, 14, 9999))
    box = body.box((-50, 60, -999), (50, 125, 999))
    arch = (body.z[box] + 20) % 33 < 14
    x, y = np.abs(body.x[box]), body.y[box]
    body.fill(box, (x < 3.5) & (y > 90) & (y < 108) & arch, bone)
    body.fill(box, (x < 42) & (np.abs(y - 84 - 0.12 * x) < 4) & arch, bone)
    body.ellipsoid(Tissue.CANAL, (0, 83, 0), (10, 8.5, 9999))


def _great_vessels(body: Body) -> None:
    body.ellipsoid(Tissue.AORTA, (10, 29, 0), (11, 11, 9999))
    onto = FILLING
    for ends in (((10, 22, -8), (12, 0, -14)), ((10, 22, -30), (8, 5, -95)), ((12, 25, -40), (55, 45, -42))):
        body.tube(Tissue.VESSEL, [*ends], (4.5, 3.5), onto)
    body.tube(Tissue.VESSEL, [(-22, 30, -45), (-50, 45, -52)], (5, 4), onto)
    body.tube(Tissue.ADRENAL, [(45, 22, 10), (58, 35, 4)], (3.5, 2.5), onto)


def _bowel(body: Body, habitus: Habitus, rng: np.random.Generator) -> None:
    """Colon along the flanks and across, small bowel in the middle, each loop a wall with something in it."""
    colon: list[list[Point]] = [
        [(-112, 5, -150), (-108, -10, -85), (-88, -45, -62), (-30, -68, -62), (45, -70, -52), (98, -40, -30)],
        [(98, -40, -30), (118, 0, -30), (122, 12, -80), (118, 15, -150)],
    ]
    for path in colon:
        body.tube(Tissue.BOWEL_WALL, path, (19, 19), FILLING)
        body.tube(Tissue.BOWEL_CONTENT, path, (16, 16), (Tissue.BOWEL_WALL,))
    for _ in range(habitus.bowel_loops):
        centre = (rng.uniform(-85, 95), rng.uniform(-72, 10), rng.uniform(-190, -28))
        _loop(body, centre, rng)
    box = body.box((-140, -100, -200), (140, 60, -10))
    level = -48 + 22 * np.sin(body.x[box] / 21) + 10 * np.sin(body.z[box] / 17)
    body.fill(box, body.y[box] < level, Tissue.GAS, (Tissue.BOWEL_CONTENT,))
    for _ in range(16):
        end = (rng.uniform(-70, 80), rng.uniform(-55, 0), rng.uniform(-150, -30))
        body.tube(Tissue.VESSEL, [(6, 5, end[2] + 10), end], (3.0, 1.5), FILLING)


def _loop(body: Body, centre: Point, rng: np.random.Generator) -> None:
    step = rng.normal(0, 18, 3)
    path: list[Point] = [centre]
    for _ in range(2):
        x, y, z = path[-1]
        path.append((x + step[0], y + 0.6 * step[1], z + 0.6 * step[2]))
        step = np.roll(step, 1) * -0.8
    radius = float(rng.uniform(8, 13))
    content = Tissue.BOWEL_CONTRAST if rng.random() < 0.2 else Tissue.BOWEL_CONTENT
    body.tube(Tissue.BOWEL_WALL, path, (radius, radius), FILLING)
    body.tube(content, path, (radius - 3, radius - 3), (Tissue.BOWEL_WALL,))


def _upper_organs(body: Body, habitus: Habitus) -> None:
    soft = (*FILLING, *HOLLOW)
    lift = habitus.diaphragm_mm
    body.tube(Tissue.PANCREAS, [(-28, 2, -34), (5, -4, -22), (45, 2, -8), (80, 22, 4)], (14, 9), soft)
    body.tube(Tissue.VESSEL, [(-5, 4, -16), (40, 14, -4), (85, 32, 8)], (5, 4), (*soft, Tissue.PANCREAS))
    stomach: list[Point] = [
        (64, 6, 36 + lift),
        (70, -34, 18),
        (62, -52, -12),
        (12, -50, -26),
        (-22, -35, -26),
    ]
    body.tube(Tissue.BOWEL_WALL, stomach, (35, 17), (*soft, Tissue.PANCREAS))
    body.tube(Tissue.BOWEL_CONTENT, stomach, (31.5, 13), (Tissue.BOWEL_WALL,))
    box = body.box((-40, -100, -50), (125, 70, 85))
    surface = -72 + 90 * habitus.stomach_gas
    body.fill(box, body.y[box] < surface, Tissue.GAS, (Tissue.BOWEL_CONTENT,))
    s = habitus.spleen
    below = (*soft, Tissue.PANCREAS)
    box = body.around((104, 38, 14), (46 * s, 56 * s, 52 * s))
    level = body.level(box, (104, 36, 14), (36 * s, 54 * s, 50 * s))
    level = np.maximum(level, 2 - body.level(box, (64, -10, 12), (42, 48, 70)))
    wall = _oval(body, box, (133, 82), CAVITY[1]) < 1
    under = body.z[box] < diaphragm(body, box, habitus) - 3
    body.fill(box, (level < 1) & wall & under, Tissue.SPLEEN, below)


def _liver(body: Body, habitus: Habitus) -> None:
    """Right lobe, left lobe and caudate melted together, hollowed from below, under the diaphragm."""
    s, left = habitus.liver, habitus.left_lobe
    box = body.box((-140, -96, -110), (110, 90, 90))
    x, y, z = body.x[box], body.y[box], body.z[box]
    lean = np.float32(0.28)  # the lower, the further to the right
    right = ((x + 74 - lean * z) / (70 * s)) ** 2 + ((y + 4) / (86 * s)) ** 2 + ((z + 4) / (82 * s)) ** 2
    lobe = ((x - 8) / (68 * left)) ** 2 + ((y + 50 - 0.1 * x) / (36 * left)) ** 2 + ((z - 26) / 40) ** 2
    caudate = body.level(box, (-12, 4, 22), (26, 20, 30))
    near = np.exp(-6 * right) + np.exp(-6 * lobe) + np.exp(-6 * caudate)
    level = -np.log(np.maximum(near, np.float32(1e-30))) / 6
    hollow = np.sqrt((x - 60) ** 2 + (y - 66) ** 2 + (z + 96) ** 2)
    fissure = (np.abs(x - 8 - 0.3 * (y + 60)) < 3) & (y < -35) & (z < 25 + 0.4 * (y + 60))
    inside = (level < 1) & (hollow > 138) & (x + 1.2 * z < 78) & ~fissure
    inside &= _oval(body, box, (133, 82), CAVITY[1]) < 1
    inside &= z < diaphragm(body, box, habitus) - 2.5
    body.fill(box, inside, Tissue.LIVER, (*FILLING, *HOLLOW, Tissue.PANCREAS, Tissue.VESSEL, Tissue.ADRENAL))


def _over_the_liver(body: Body, habitus: Habitus) -> None:
    """What presses into the liver or lies against it."""
    k = habitus.kidneys
    soft = (*FILLING, *HOLLOW, Tissue.PANCREAS, Tissue.VESSEL, Tissue.ADRENAL, Tissue.LIVER)
    for x, y, z in ((-62.0, 50.0, -70.0), (70.0, 46.0, -44.0)):
        side = np.sign(x)
        body.ellipsoid(Tissue.VISCERAL_FAT, (x, y, z), (34 * k, 30 * k, 62 * k), soft[:-1])
        body.ellipsoid(Tissue.VISCERAL_FAT, (x, y, z), (30 * k, 26 * k, 56 * k), soft)
        body.ellipsoid(Tissue.KIDNEY_CORTEX, (x, y, z), (28 * k, 24 * k, 54 * k), soft)
        for dz in (-36, -18, 0, 18, 36):
            for dx, dy in ((14, -9), (15, 9), (-2, -13), (-2, 13)):
                centre = (x + side * dx * k, y + dy * k, z + dz * k)
                body.ellipsoid(Tissue.KIDNEY_MEDULLA, centre, (6 * k, 6 * k, 7 * k), (Tissue.KIDNEY_CORTEX,))
        sinus = (x - side * 12 * k, y - 3, z)
        body.ellipsoid(
            Tissue.VISCERAL_FAT, sinus, (17 * k, 9 * k, 26 * k), (Tissue.KIDNEY_CORTEX, Tissue.KIDNEY_MEDULLA)
        )
        body.tube(Tissue.VESSEL, [sinus, (side * 24, 30, z + 8)], (5, 4), FILLING)
    body.tube(Tissue.VENA_CAVA, [(-20, 30, -300), (-20, 30, -20), (-20, 22, 50), (-14, 12, 90)], (12, 12), None)
    body.ellipsoid(Tissue.VISCERAL_FAT, (-44, -42, -36), (19, 28, 32), (Tissue.LIVER,))
    body.ellipsoid(Tissue.GALLBLADDER, (-44, -42, -36), (16, 25, 29), (*FILLING, *HOLLOW, Tissue.LIVER))


def _liver_vessels(body: Body, rng: np.random.Generator) -> None:
    """Hepatic veins gather in the vena cava under the diaphragm; the portal vein branches from below."""
    onto = (Tissue.LIVER, Tissue.VISCERAL_FAT)
    body.tube(Tissue.VESSEL, [(0, 6, -18), (-24, -2, -8)], (8, 7), onto)
    cava, porta = (-24.0, 16.0, 44.0), (-26.0, -4.0, -6.0)
    veins: list[Point] = [(-112.0, 30.0, 18.0), (-72.0, -48.0, 22.0), (14.0, -50.0, 34.0)]
    portal: list[Point] = [
        (-96.0, 34.0, 4.0),
        (-104.0, -22.0, -14.0),
        (-112.0, 14.0, -44.0),
        (6.0, -44.0, 20.0),
    ]
    for root, tips, width in ((cava, veins, 6.0), (porta, portal, 7.0)):
        for tip in tips:
            _branch(body, (root, tip), width, rng)


def _branch(body: Body, ends: tuple[Point, Point], width: float, rng: np.random.Generator) -> None:
    start, end = np.array(ends[0]), np.array(ends[1])
    middle = (start + end) / 2 + rng.normal(0, 5, 3)
    corners: list[Point] = [ends[0], (middle[0], middle[1], middle[2]), ends[1]]
    body.tube(Tissue.LIVER_VESSEL, corners, (width, 0.4 * width), (Tissue.LIVER,))
    for along in (0.35, 0.6, 0.85):
        root = start + along * (end - start)
        tip = root + 0.45 * (end - start) * rng.uniform(0.5, 1) + rng.normal(0, 18, 3)
        twig: list[Point] = [(root[0], root[1], root[2]), (tip[0], tip[1], tip[2])]
        body.tube(Tissue.LIVER_VESSEL, twig, (0.45 * width, 0.2 * width), (Tissue.LIVER,))
