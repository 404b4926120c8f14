"""`streets`: procedural street scenes that cannot be labelled without long-range context.

Every scene is drawn from (seed, index) alone, a seed a split: no files, no download. Only integer
arithmetic and NumPy's frozen `RandomState` stream are used, so the pixels are the same on every machine.

**Why context is needed.** In one upper corner stands a signal, red or green. On the other side of the
image lie a hatched lane and a few vehicles, and the signal's colour alone decides what they are:

    red    -> the lane is a `closed lane`, every vehicle a `waiting vehicle`
    green  -> the lane is an `open lane`, every vehicle a `moving vehicle`

Both names of a pair are drawn by the very same code from the same random numbers, so nothing near
the lane or the vehicle tells them apart. The signal stays within the outermost `SIGNAL_REACH` = 24
columns and above row `SIGNAL_BOTTOM` = 44; lanes and vehicles stay within the `FAR_REACH` = 64
outermost columns of the other side and below row `FAR_TOP` = 46. So at least
192 - 24 - 64 = 104 columns lie between a pixel and the signal that names it, and they share neither row
nor column. The demo's ResNet-10 with its head sees 91 pixels to each side of a feature's centre, 99
from a pixel of the upsampled logits; `tests/data/datasets/test_streets.py` checks with gradients that without
a context module no lane or vehicle pixel depends on any signal pixel.
"""

import itertools

import cv2
import numpy as np

from ccnet_jax.common.labels import VOID, Classes
from ccnet_jax.data.sources import DataSet, Location, check_split

CLASSES = (
    "road",
    "pavement",
    "building",
    "sky",
    "tree",
    "pole",
    "person",
    "red signal",
    "green signal",
    "open lane",
    "closed lane",
    "moving vehicle",
    "waiting vehicle",
)
PALETTE = np.array(
    [
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (70, 130, 180),
        (107, 142, 35),
        (220, 220, 0),
        (220, 20, 60),
        (255, 130, 0),
        (170, 255, 60),
        (0, 200, 120),
        (150, 30, 30),
        (0, 0, 200),
        (0, 200, 255),
    ],
    np.uint8,
)
LABELS = Classes(CLASSES, PALETTE)
CONTEXT_CLASSES = ("open lane", "closed lane", "moving vehicle", "waiting vehicle")
HEIGHT, WIDTH = 96, 192
SIGNAL_REACH = 24
SIGNAL_BOTTOM = 44
FAR_REACH = 64
FAR_TOP = 46

SPLITS = {"train": 8000, "val": 100, "test": 400}  # scenes
_SEEDS = {"train": 0, "val": 1, "test": 2}

_ROAD, _PAVEMENT, _BUILDING, _SKY, _TREE, _POLE, _PERSON, _RED, _GREEN = range(9)
_OPEN_LANE, _CLOSED_LANE, _MOVING, _WAITING = range(9, 13)
_OBJECT = 256  # what an object's number is multiplied by while a scene is drawn
_ROWS, _COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(np.int32)


class Streets:
    """Random-access source: `source[i]` is {"image": uint8 [96, 192, 3] RGB, "label": uint8 [96, 192]}.

    Args:
      split: "train" (8000 scenes), "val" (100) or "test" (400); no scene is in two of them. Raises
        UserError for another.
    """

    label_classes = LABELS
    classes = LABELS.names
    palette = LABELS.palette
    numbers = LABELS.numbers

    def __init__(self, split: str):
        check_split(split, tuple(SPLITS), "streets")
        self.split = split

    def __len__(self) -> int:
        return SPLITS[self.split]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image, label = draw_scene(self.random(index))
        return {"image": image, "label": label}

    def random(self, index: int) -> np.random.RandomState:
        """What scene `index` is drawn from."""
        return np.random.RandomState([_SEEDS[self.split], index])

    def read(self, index: int) -> tuple[bytes, bytes]:
        """The scene and its label as the bytes of PNG files."""
        sample = self[index]
        image = cv2.cvtColor(sample["image"], cv2.COLOR_RGB2BGR)
        return cv2.imencode(".png", image)[1].tobytes(), cv2.imencode(".png", sample["label"])[1].tobytes()

    def name(self, index: int) -> str:
        """The split and the scene's number, as `val-00003`."""
        return f"{self.split}-{index:05d}"


def open_split(location: Location, split: str) -> Streets:
    """The scenes of `split`; there is no folder to read. Raises UserError where there is no such split."""
    return Streets(split)


def draw_scene(random: np.random.RandomState, red: bool | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image uint8 [96, 192, 3], label uint8 [96, 192] with 255 for void.

    `red` sets the signal's colour, drawn at random where None; no other pixel of the image depends on it.
    """
    image, label, _ = draw_objects(random, red)
    return image, label


def draw_objects(
    random: np.random.RandomState, red: bool | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`draw_scene`, and uint8 [96, 192], which tells one person, vehicle or signal from another.

    It holds the number of the object that each pixel belongs to, from 1; 0 where there is none.
    """
    red_drawn, mirrored = bool(random.randint(2)), bool(random.randint(2))
    red = red_drawn if red is None else red

    image = np.zeros((HEIGHT, WIDTH, 3), np.int32)
    label = np.full((HEIGHT, WIDTH), VOID, np.int32)  # a class, and _OBJECT times the number of the object
    kerb = random.randint(50, 56)  # the pavement's lower edge, where the road begins
    _draw_sky(image, label, random)
    _draw_buildings(image, label, random, base=kerb - random.randint(6, 10))
    _draw_ground(image, label, random, kerb)
    _draw_lane(image, label, random, kerb, _CLOSED_LANE if red else _OPEN_LANE)
    for _ in range(random.randint(1, 4)):
        _draw_tree(image, label, random, kerb)
    vehicle = _WAITING if red else _MOVING
    numbers = itertools.count(_OBJECT, _OBJECT)
    for _ in range(random.randint(3, 5)):
        _draw_vehicle(image, label, random, vehicle + next(numbers))
    for _ in range(random.randint(1, 4)):
        _draw_pole(image, label, random, kerb)
    for _ in range(random.randint(2, 6)):
        _draw_person(image, label, random, _PERSON + next(numbers))
    _draw_bonnet(image, label, random)
    _draw_signal(image, label, random, red, (_RED if red else _GREEN) + next(numbers))
    image = _light(image, random)
    if mirrored:
        image, label = image[:, ::-1], label[:, ::-1]
    objects, label = np.divmod(label, _OBJECT)
    return np.ascontiguousarray(image), label.astype(np.uint8), objects.astype(np.uint8)


def _grain(random: np.random.RandomState, here: tuple[slice, slice], cell: int, amount: int) -> np.ndarray:
    """Random brightness from -amount to amount in cells of cell x cell pixels, [rows, columns, 1]."""
    rows, columns = _ROWS[here].shape
    shape = (-(-rows // cell), -(-columns // cell))
    noise = np.frombuffer(random.bytes(shape[0] * shape[1]), np.uint8).reshape(shape).astype(np.int32)
    cells = noise * (2 * amount + 1) // 256 - amount
    if cell > 1:
        cells = cells.repeat(cell, 0).repeat(cell, 1)
    return cells[:rows, :columns, None]


def _colour(random: np.random.RandomState, base: tuple[int, int, int], spread: int) -> np.ndarray:
    """`base` changed by +-spread, the same for all three channels and a little more for each."""
    return (
        np.array(base)
        + random.randint(-spread, spread + 1)
        + random.randint(-spread // 3, spread // 3 + 1, 3)
    )


def _box(left: int, right: int, top: int, bottom: int) -> tuple[slice, slice]:
    """The rows and columns of a rectangle, cut to the image; right and bottom are exclusive."""
    return slice(max(top, 0), min(bottom, HEIGHT)), slice(max(left, 0), min(right, WIDTH))


def _draw_sky(image: np.ndarray, label: np.ndarray, random: np.random.RandomState) -> None:
    here = _box(0, WIDTH, 0, 60)
    image[here] = (
        _colour(random, (150, 180, 215), 25) + (_ROWS[here] // 3)[..., None] + _grain(random, here, 12, 8)
    )
    label[here] = _SKY


def _draw_buildings(image: np.ndarray, label: np.ndarray, random: np.random.RandomState, base: int) -> None:
    left = -random.randint(0, 20)
    while left < WIDTH:
        right = left + random.randint(18, 44)
        top = random.randint(4, 28)
        wall = _colour(random, (120, 105, 95), 35) + random.randint(-20, 21, 3)
        glass = _colour(random, (60, 70, 90), 20)
        step = random.randint(6, 9)
        here = _box(left, right, top, base)
        windows = ((_ROWS[here] - top) % step >= step // 2) & ((_COLUMNS[here] - left) % step >= step // 2)
        image[here] = np.where(windows[..., None], glass, wall) + _grain(random, here, 2, 6)
        label[here] = _BUILDING
        left = right + random.randint(0, 8) * random.randint(0, 2)


def _draw_ground(image: np.ndarray, label: np.ndarray, random: np.random.RandomState, kerb: int) -> None:
    here = _box(0, WIDTH, kerb - 10, kerb)
    rows, columns = _ROWS[here], _COLUMNS[here]
    joints = ((columns + rows) % 10 == 0) | ((kerb - rows) % 5 == 0)
    slabs = _colour(random, (165, 155, 150), 20) - 30 * joints[..., None] + _grain(random, here, 2, 5)
    pavement = label[here] != _BUILDING
    image[here] = np.where(pavement[..., None], slabs, image[here])
    label[here] = np.where(pavement, _PAVEMENT, label[here])

    here = _box(0, WIDTH, kerb, HEIGHT)
    dashes = (_ROWS[here] == kerb + 5) & (_COLUMNS[here] % 24 < 12)
    asphalt = _colour(random, (85, 85, 90), 15) + 110 * dashes[..., None]
    image[here] = asphalt + _grain(random, here, 1, 10) + _grain(random, here, 8, 5)
    label[here] = _ROAD


def _draw_lane(
    image: np.ndarray, label: np.ndarray, random: np.random.RandomState, kerb: int, kind: int
) -> None:
    top = kerb + random.randint(7, 12)
    bottom = top + random.randint(24, 33)
    left = WIDTH - FAR_REACH + random.randint(0, 6)
    slant = random.randint(0, 3)
    here = _box(left, WIDTH, top, bottom)
    rows, columns = _ROWS[here], _COLUMNS[here]
    lane = columns >= left + slant * (bottom - rows) // 2
    hatch = (columns + rows + random.randint(0, 8)) % 8 < 4
    tone = _colour(random, (135, 110, 80), 15) + 45 * hatch[..., None] + _grain(random, here, 2, 8)
    image[here] = np.where(lane[..., None], tone, image[here])
    label[here] = np.where(lane, kind, label[here])


def _draw_tree(image: np.ndarray, label: np.ndarray, random: np.random.RandomState, kerb: int) -> None:
    x, y = random.randint(SIGNAL_REACH + 8, WIDTH - 4), random.randint(14, 30)
    width, height = random.randint(7, 15), random.randint(8, 14)
    trunk = _box(x - 1, x + 2, y, kerb - 2)
    image[trunk], label[trunk] = np.array((90, 70, 50)) + _grain(random, trunk, 2, 10), _TREE
    here = _box(x - width, x + width + 1, y - height, y + height + 1)
    away = ((_COLUMNS[here] - x) ** 2 * 100 // width**2) + ((_ROWS[here] - y) ** 2 * 100 // height**2)
    crown = away + _grain(random, here, 3, 30)[..., 0] < 80
    leaves = _colour(random, (60, 100, 45), 20) + _grain(random, here, 2, 22)
    image[here] = np.where(crown[..., None], leaves, image[here])
    label[here] = np.where(crown, _TREE, label[here])


def _draw_vehicle(image: np.ndarray, label: np.ndarray, random: np.random.RandomState, kind: int) -> None:
    width, height = random.randint(22, 36), random.randint(13, 19)
    left = random.randint(WIDTH - FAR_REACH + 2, WIDTH - 10)
    top = random.randint(FAR_TOP + 2, 64)
    label[_box(left - 1, left + width + 1, top - 1, top + height + 1)] = VOID  # a contour nobody can annotate
    roof, sill = top + height // 3, top + height - 2
    paint = _colour(random, (150, 60, 140), 25)
    for part, colour in (
        (_box(left + width // 5, left + width - width // 5, top, roof), (40, 50, 60)),
        (_box(left, left + width, roof, sill), paint),
        (_box(left, left + width, sill, top + height), (25, 25, 25)),
    ):
        image[part] = np.array(colour) + _grain(random, part, 2, 8)
        label[part] = kind


def _draw_pole(image: np.ndarray, label: np.ndarray, random: np.random.RandomState, kerb: int) -> None:
    x = random.randint(SIGNAL_REACH + 6, WIDTH - 4)
    pole = _box(x, x + random.randint(4, 7), random.randint(8, 24), kerb + random.randint(-4, 3))
    image[pole] = _colour(random, (205, 200, 185), 15) + _grain(random, pole, 2, 8)
    label[pole] = _POLE


def _draw_person(image: np.ndarray, label: np.ndarray, random: np.random.RandomState, kind: int) -> None:
    x, height, bottom = random.randint(4, WIDTH - 8), random.randint(13, 20), random.randint(56, 84)
    top, wide = bottom - height, height // 3
    label[_box(x - 1, x + wide + 1, top - 1, bottom + 1)] = VOID
    neck, waist = top + height // 4, top + 2 * height // 3
    for part, colour in (
        (_box(x + wide // 4, x + wide - wide // 4, top, neck), (190, 150, 125)),
        (_box(x, x + wide, neck, waist), (210, 80, 60)),
        (_box(x, x + wide, waist, bottom), (45, 45, 85)),
    ):
        image[part] = _colour(random, colour, 20) + _grain(random, part, 2, 8)
        label[part] = kind


def _draw_bonnet(image: np.ndarray, label: np.ndarray, random: np.random.RandomState) -> None:
    """The camera's own car, void as in Cityscapes."""
    top, middle = HEIGHT - random.randint(4, 8), random.randint(70, 122)
    here = _box(0, WIDTH, top, HEIGHT)
    bonnet = _ROWS[here] >= top + (_COLUMNS[here] - middle) ** 2 // 1600
    image[here] = np.where(bonnet[..., None], 60 + _grain(random, here, 8, 12), image[here])
    label[here] = np.where(bonnet, VOID, label[here])


def _draw_signal(
    image: np.ndarray, label: np.ndarray, random: np.random.RandomState, red: bool, kind: int
) -> None:
    left, top = random.randint(0, 3), random.randint(1, 5)
    housing = _box(left, left + 22, top, top + 40)
    image[housing] = 30 + _grain(random, housing, 2, 8)
    label[housing] = kind
    lamp = _box(left + 2, left + 20, top + 2, top + 38)
    image[lamp] = np.array((225, 45, 40) if red else (45, 215, 70)) + _grain(random, lamp, 4, 20)


def _light(image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Exposure, colour cast, one slanting shadow, sensor noise; to uint8."""
    gain = random.randint(150, 330) * random.randint(240, 273, 3) // 256  # 256 is unchanged
    shade = random.randint(130, 220)
    position, slant, width = random.randint(-40, WIDTH), random.randint(-2, 3), random.randint(15, 60)
    across = _COLUMNS - position + slant * _ROWS // 2
    shadow = (across >= 0) & (across < width) & (_ROWS > 30)
    image = image * np.where(shadow[..., None], gain * shade // 256, gain) // 256
    noise = np.frombuffer(random.bytes(image.size), np.uint8).reshape(image.shape)
    noise = (noise >> 4).astype(np.int32) + (noise & 15) - 15  # two uniform draws of 4 bits
    return np.clip(image + noise, 0, 255).astype(np.uint8)


DATA_SET = DataSet(LABELS, tuple(SPLITS), open_split, None, __doc__, size=(HEIGHT, WIDTH))
