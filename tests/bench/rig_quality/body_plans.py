"""Six body plans, drawn with random proportions. Metres, +Y up, facing +Z, the left side at +X."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from tests.bench.rig_quality.sketch import Place, Sketch

Features = frozenset[str]
Random = np.random.Generator

_SIDES = (("left", 1.0), ("right", -1.0))
_FINGERS = {"thumb": -0.035, "index": -0.024, "middle": -0.008, "ring": 0.008, "little": 0.024}


def biped(random: Random, features: Features) -> Sketch:
    """A person or an upright animal. fingers, tail, ears, cape, stick, backpack, hat."""
    sketch = Sketch()
    girth, legs, arms, skull = random.uniform((0.85, 0.8, 0.85, 0.9), (1.35, 1.1, 1.15, 1.5))
    lowered = random.uniform(0.0, 0.8)
    hips = 0.95 * legs
    sketch.joint("hips", None, (0, hips, 0), 0.11 * girth)
    sketch.joint("spine", "hips", (0, hips + 0.13, 0), 0.1 * girth)
    sketch.joint("chest", "spine", (0, hips + 0.28, 0), 0.125 * girth)
    sketch.joint("neck", "chest", (0, hips + 0.48, 0), 0.05)
    sketch.joint("head", "neck", (0, hips + 0.56, 0.01), 0.07 * skull)
    crown = hips + 0.56 + 0.14 * skull
    sketch.tip("head", (0, crown, 0.02), 0.1 * skull)
    for side, s in _SIDES:
        wide, high = 0.13 * girth + 0.05, hips + 0.42
        out, down = np.cos(lowered), np.sin(lowered)

        def along(length: float) -> Place:
            return s * (wide + out * length), high - down * length, 0.0  # noqa: B023

        sketch.joint(f"shoulder_{side}", "chest", (s * 0.05, high, 0), 0.06)
        sketch.joint(f"upper_arm_{side}", f"shoulder_{side}", along(0), 0.055)
        sketch.joint(f"lower_arm_{side}", f"upper_arm_{side}", along(0.27 * arms), 0.043)
        sketch.joint(f"hand_{side}", f"lower_arm_{side}", along(0.51 * arms), 0.034)
        if "fingers" in features:
            _fingers(sketch, side, along, 0.51 * arms)
        else:
            sketch.tip(f"hand_{side}", along(0.51 * arms + 0.15), 0.03)
        x = s * 0.1 * girth
        sketch.joint(f"upper_leg_{side}", "hips", (x, hips - 0.03, 0), 0.08 * girth)
        sketch.joint(f"lower_leg_{side}", f"upper_leg_{side}", (x, 0.51 * legs, 0.01), 0.06)
        sketch.joint(f"foot_{side}", f"lower_leg_{side}", (x, 0.08, 0), 0.045)
        sketch.joint(f"toes_{side}", f"foot_{side}", (x, 0.035, 0.12), 0.035)
        sketch.tip(f"toes_{side}", (x, 0.03, 0.19), 0.028)
        if "ears" in features:
            sketch.joint(f"ear_{side}", "head", (s * 0.07 * skull, crown + 0.06, 0), 0.035)
            sketch.tip(f"ear_{side}", (s * 0.12 * skull, crown + 0.2, 0), 0.025)
    if "tail" in features:
        places = [(0.0, hips - 0.02 + 0.04 * n, -0.14 - 0.13 * n) for n in range(6)]
        sketch.chain("tail", "hips", places, (0.05, 0.025))
    if "cape" in features:
        top, foot = (0.0, hips + 0.38, -0.19 * girth), (0.0, hips - 0.4, -0.3 * girth)
        sketch.shape("chest", top, foot, (0.17, 0.3), normal=(0, 0.15, 1), thinness=14)
    if "stick" in features:
        x, y, z = sketch.place("hand_left")
        x += 0.09 * np.cos(lowered)
        y -= 0.09 * np.sin(lowered)
        sketch.shape("hand_left", (x, y - 0.05, z - 0.5), (x, y, z + 0.6), (0.018,) * 2, loose=True)
    if "backpack" in features:
        low, high = hips + 0.15, hips + 0.36
        z = -0.14 * girth - 0.1
        sketch.shape("chest", (0, low, z), (0, high, z), (0.13, 0.11), loose=True)
    if "hat" in features:
        y = crown + 0.07 * skull
        sketch.shape(
            "head", (0, y, 0.01), (0, y, 0.02), (0.19 * skull,) * 2, (0, 1, 0), 8, loose=True
        )
        sketch.shape("head", (0, y, 0.01), (0, y + 0.13, 0), (0.1 * skull, 0.08), loose=True)
    return sketch


def _fingers(sketch: Sketch, side: str, along: Callable[[float], Place], wrist: float) -> None:
    hand = f"hand_{side}"
    sketch.shape(hand, along(wrist + 0.02), along(wrist + 0.06), (0.05, 0.045), (0, 1, 0), 2.2)
    for finger, z in _FINGERS.items():
        thumb = finger == "thumb"
        first, step = (0.03, 0.035) if thumb else (0.1, 0.03)
        places = []
        for n in range(4):
            x, y, _ = along(wrist + first + step * (0.6 if thumb else 1) * n)
            # A thumb goes forward, the others are spread a little.
            places.append((x, y, 0.03 + 0.028 * n if thumb else -z * (1 + 0.15 * n)))
        sketch.chain(f"{finger}_{side}", hand, places, (0.0115, 0.0085))


def quadruped(random: Random, features: Features) -> Sketch:
    """A dog, horse or giraffe. tail, ears, long_neck, backpack."""
    sketch = Sketch()
    legs, length, girth = random.uniform((0.75, 0.85, 0.8), (1.2, 1.2, 1.3))
    neck = random.uniform(1.8, 2.6) if "long_neck" in features else random.uniform(0.7, 1.2)
    y, half = 0.62 * legs + 0.04, 0.4 * length
    sketch.joint("hips", None, (0, y, -half), 0.12 * girth)
    sketch.joint("spine", "hips", (0, y + 0.03, -half / 4), 0.12 * girth)
    sketch.joint("chest", "spine", (0, y + 0.01, half * 0.6), 0.135 * girth)
    sketch.joint("neck_1", "chest", (0, y + 0.1, half + 0.05), 0.085)
    sketch.joint("neck_2", "neck_1", (0, y + 0.1 + 0.14 * neck, half + 0.05 + 0.08 * neck), 0.07)
    top, front = y + 0.1 + 0.28 * neck, half + 0.07 + 0.15 * neck
    sketch.joint("head", "neck_2", (0, top, front), 0.08)
    sketch.tip("head", (0, top - 0.05, front + 0.22), 0.05)
    for side, s in _SIDES:
        x = s * 0.11 * girth
        front_leg = [(x, y - 0.06, half * 0.75), (x, y * 0.52, half * 0.75 - 0.02)]
        front_leg += [(x, 0.09, half * 0.75 + 0.01), (x, 0.035, half * 0.75 + 0.09)]
        sketch.chain(f"leg_front_{side}", "chest", front_leg, (0.065, 0.03))
        hind_leg = [(x, y - 0.05, -half), (x, y * 0.6, -half + 0.08), (x, y * 0.32, -half - 0.05)]
        hind_leg += [(x, 0.07, -half - 0.01), (x, 0.035, -half + 0.08)]
        sketch.chain(f"leg_hind_{side}", "hips", hind_leg, (0.075, 0.03))
        if "ears" in features:
            sketch.joint(f"ear_{side}", "head", (s * 0.05, top + 0.08, front), 0.03)
            sketch.tip(f"ear_{side}", (s * 0.09, top + 0.2, front - 0.02), 0.02)
    if "tail" in features:
        places = [(0.0, y + 0.05 - 0.02 * n, -half - 0.12 - 0.11 * n) for n in range(5)]
        sketch.chain("tail", "hips", places, (0.045, 0.025))
    if "backpack" in features:
        z = half * 0.1
        top = y + 0.15 * girth + 0.1
        sketch.shape("spine", (0, top, z - 0.1), (0, top, z + 0.1), (0.12, 0.12), loose=True)
    return sketch


def bird(random: Random, features: Features) -> Sketch:
    """Wings spread, standing. long_neck, long_legs."""
    sketch = Sketch()
    girth, span = random.uniform((0.85, 0.8), (1.25, 1.25))
    legs = random.uniform(1.4, 2) if "long_legs" in features else random.uniform(0.8, 1.1)
    neck = random.uniform(1.8, 2.4) if "long_neck" in features else random.uniform(0.7, 1.1)
    y = 0.4 * legs
    sketch.joint("hips", None, (0, y, -0.05), 0.12 * girth)
    sketch.joint("chest", "hips", (0, y + 0.07, 0.13), 0.14 * girth)
    sketch.joint("neck_1", "chest", (0, y + 0.17, 0.24), 0.06)
    sketch.joint("neck_2", "neck_1", (0, y + 0.17 + 0.12 * neck, 0.26 + 0.03 * neck), 0.045)
    top = y + 0.17 + 0.24 * neck
    sketch.joint("head", "neck_2", (0, top, 0.3), 0.065)
    sketch.tip("head", (0, top - 0.02, 0.48), 0.015)
    sketch.joint("tail_1", "hips", (0, y, -0.22), 0.06)
    sketch.tip("tail_1", (0, y + 0.03, -0.48), 0.03)
    sketch.shape("tail_1", (0, y, -0.25), (0, y + 0.03, -0.48), (0.06, 0.12), (0, 1, 0), 7)
    for side, s in _SIDES:
        arm = [(s * reach, y + 0.13, z) for reach, z in ((0.12, 0.12), (0.38, 0.12))]
        arm += [(s * reach, y + 0.13, z) for reach, z in ((0.65, 0.05), (0.95, -0.08))]
        places = [(x * span, height, z) for x, height, z in arm]
        sketch.chain(f"wing_{side}", "chest", places, (0.05, 0.02))
        for n, (start, end) in enumerate(pairwise(places)):
            back = [(x, height, z - 0.12) for x, height, z in (start, end)]
            wide = (0.13 - 0.02 * n, 0.11 - 0.03 * n)
            sketch.shape(f"wing_{side}_{n + 1}", back[0], back[1], wide, (0, 1, 0), 8)
        x = s * 0.075 * girth
        leg = [(x, y - 0.08, -0.03), (x, y * 0.45, 0.05), (x, 0.03, 0.0), (x, 0.025, 0.13)]
        sketch.chain(f"leg_{side}", "hips", leg, (0.05, 0.022))
    return sketch


def multiped(random: Random, features: Features) -> Sketch:
    """A beetle, spider or scorpion. eight_legs, ten_legs (six without), tail."""
    sketch = Sketch()
    reach, height, girth = random.uniform((0.85, 0.8, 0.85), (1.2, 1.2, 1.2))
    pairs = 5 if "ten_legs" in features else 4 if "eight_legs" in features else 3
    y = 0.3 * height
    sketch.joint("body", None, (0, y, 0), 0.11 * girth)
    sketch.joint("head", "body", (0, y, 0.17), 0.08)
    sketch.tip("head", (0, y - 0.02, 0.28), 0.06)
    if "tail" in features:
        places = [(0, y, -0.16), (0, y + 0.04, -0.36), (0, y + 0.15, -0.52), (0, y + 0.32, -0.6)]
        sketch.chain("tail", "body", [*places, (0, y + 0.5, -0.55)], (0.08, 0.03))
    else:
        sketch.joint("abdomen", "body", (0, y + 0.02, -0.18), 0.1 * girth)
        sketch.tip("abdomen", (0, y + 0.04, -0.42), 0.17 * girth)
    for side, s in _SIDES:
        for pair in range(pairs):
            turn = np.linspace(0.85, -0.85, pairs)[pair]
            out, ahead = np.cos(turn), np.sin(turn)
            z = 0.1 * ahead
            profile = [(0.09, y), (0.38 * reach, y * 1.75), (0.66 * reach, y * 0.75)]
            places = [
                (s * out * far, high, z + ahead * far)
                for far, high in [*profile, (0.85 * reach, 0.015)]
            ]
            sketch.chain(f"leg_{side}_{pair + 1}", "body", places, (0.038, 0.016))
    return sketch


def serpent(random: Random, features: Features) -> Sketch:
    """A snake along the ground, or a fish with fins."""
    sketch = Sketch()
    joints = int(random.integers(7, 13))
    sway, length, girth = random.uniform((0.05, 1.4, 0.8), (0.25, 2.0, 1.2))
    fish = "fins" in features
    y = 0.4 if fish else 0.08
    sway, joints, length = (0.02, 6, 1.0) if fish else (sway, joints, length)
    share = np.linspace(0, 1, joints + 1)
    x, z = sway * np.sin(2.5 * np.pi * share), length * (0.5 - share)
    thick = 0.11 * np.sin(np.pi * (0.2 + 0.75 * share)) if fish else 0.065 - 0.04 * share
    radii = np.maximum(thick * girth, 0.018)
    places = [(float(x[n]), y, float(z[n])) for n in range(joints + 1)]
    sketch.joint("head", None, places[0], float(radii[0]))
    parent = "head"
    for n in range(1, joints):
        parent = sketch.joint(f"spine_{n}", parent, places[n], float(radii[n]))
    sketch.tip(parent, places[-1], float(radii[-1]))
    sketch.shape("head", places[0], (places[0][0], y, places[0][2] + 0.1), (float(radii[0]), 0.03))
    if fish:
        end = places[-1]
        sketch.shape(parent, end, (0, y, end[2] - 0.14), (0.06, 0.17), (1, 0, 0), 10)
        middle = places[2]
        sketch.shape("spine_2", middle, (0, y + 0.22, middle[2] - 0.1), (0.1, 0.06), (1, 0, 0), 10)
        for side, s in _SIDES:
            base = s * float(radii[1]) * 0.8, y - 0.03, places[1][2]
            sketch.joint(f"fin_{side}", "spine_1", base, 0.03)
            far = s * (float(radii[1]) + 0.22), y - 0.08, places[1][2] - 0.12
            sketch.tip(f"fin_{side}", far, 0.02)
            sketch.shape(f"fin_{side}", base, far, (0.05, 0.09), (0, 1, 0), 9)
    return sketch


def prop(random: Random, features: Features) -> Sketch:
    """Things: sword, lamp, tree, hammer, tongs, or a table. A rigid one has its one joint in its
    middle."""
    sketch = Sketch()
    size = random.uniform(0.8, 1.2)
    if "sword" in features:
        sketch.joint("sword", None, (0, 0.6 * size, 0), 0.03)
        sketch.shape("sword", (0, 0.05, 0), (0, 0.3, 0), (0.035, 0.03))
        sketch.shape("sword", (0, 0.3, 0), (0, 1.2 * size, 0), (0.07, 0.035), (0, 0, 1), 3)
        sketch.shape("sword", (-0.17, 0.3, 0), (0.17, 0.3, 0), (0.03, 0.03))
    elif "lamp" in features:
        sketch.joint("base", None, (0, 0.04, 0), 0.05)
        sketch.shape("base", (0, 0.04, 0), (0, 0.05, 0), (0.22, 0.22), (0, 1, 0), 5)
        sketch.joint("arm_1", "base", (0, 0.1, 0), 0.035)
        sketch.joint("arm_2", "arm_1", (0, 0.5 * size, -0.2), 0.03)
        sketch.joint("shade", "arm_2", (0, 0.85 * size, 0.12), 0.03)
        sketch.tip("shade", (0, 0.75 * size, 0.3), 0.13)
    elif "tree" in features:
        sketch.joint("trunk_1", None, (0, 0.05, 0), 0.1)
        sketch.joint("trunk_2", "trunk_1", (0, 0.45 * size, 0), 0.08)
        sketch.joint("trunk_3", "trunk_2", (0, 0.85 * size, 0), 0.06)
        sketch.tip("trunk_3", (0.03, 1.35 * size, 0), 0.03)
        for n in range(4):
            turn = n * np.pi / 2 + random.uniform(-0.3, 0.3)
            out = np.array([np.cos(turn), 0.75, np.sin(turn)])
            start = np.array([0, (0.48 + 0.12 * n) * size, 0])
            places = [tuple((start + out * far).tolist()) for far in (0.08, 0.25, 0.45)]
            sketch.chain(f"branch_{n + 1}", f"trunk_{2 if n < 2 else 3}", places, (0.04, 0.02))
    elif "hammer" in features:
        sketch.joint("hammer", None, (0, 0.6 * size, 0), 0.03)
        sketch.shape("hammer", (0, 0.05, 0), (0, 0.8 * size, 0), (0.04, 0.03))
        sketch.shape("hammer", (-0.2, 0.8 * size, 0), (0.2, 0.8 * size, 0), (0.11, 0.11))
    elif "tongs" in features:
        sketch.joint("pivot", None, (0, 0.9 * size, 0), 0.06)
        for side, s in _SIDES:
            sketch.joint(f"arm_{side}", "pivot", (s * 0.06, 0.87 * size, 0), 0.045)
            sketch.tip(f"arm_{side}", (s * 0.28, 0.05, 0), 0.03)
    else:
        sketch.joint("table", None, (0, 0.6 * size, 0), 0.05)
        for x in (-0.3, 0.3):
            sketch.shape(
                "table", (x, 0.6 * size, 0), (0, 0.6 * size, 0), (0.35, 0.35), (0, 1, 0), 9
            )
            for z in (-0.22, 0.22):
                sketch.shape("table", (x, 0.6 * size, z), (x * 1.2, 0.03, z * 1.2), (0.04, 0.03))
    return sketch
