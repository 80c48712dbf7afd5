"""What a camera would see of a synthetic board: colours, raised edges, uneven light, blur and noise."""

import cv2
import numpy as np

from nasdistill.data.boards import Layout, down

# laminate or solder mask, copper below the mask, exposed finish, silkscreen: RGB
THEMES: tuple[tuple[tuple[int, int, int], ...], ...] = (
    ((18, 78, 44), (46, 128, 70), (206, 178, 98), (232, 236, 228)),  # green, gold
    ((10, 54, 38), (32, 112, 78), (196, 198, 196), (236, 236, 230)),  # dark green, tin
    ((20, 48, 104), (48, 92, 160), (208, 184, 112), (235, 238, 240)),  # blue, gold
    ((120, 22, 26), (174, 56, 50), (204, 202, 198), (240, 236, 230)),  # red, tin
    ((28, 28, 32), (78, 78, 84), (212, 186, 108), (226, 226, 226)),  # black, gold
    ((62, 28, 92), (104, 62, 140), (214, 188, 114), (238, 234, 240)),  # purple, gold
    ((206, 208, 204), (172, 178, 172), (196, 166, 92), (46, 48, 50)),  # white, gold
    ((88, 74, 44), (190, 120, 72), (204, 136, 84), (214, 206, 188)),  # bare copper on laminate
    ((44, 46, 48), (184, 186, 186), (214, 214, 212), (112, 114, 116)),  # grey inspection camera
)


def photograph(layout: Layout, copper: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The board as a camera sees it: theme colours, raised edges, uneven light, blur and noise; RGB uint8 (s, s, 3).

    `copper` is the fine copper mask with its defects in; all random choices are independent of it.
    """
    size = layout.size
    theme = THEMES[rng.integers(len(THEMES))]
    base, trace, finish, ink = (
        np.clip(np.array(colour) * rng.uniform(0.85, 1.15) + rng.normal(0, 5, 3), 0, 255) for colour in theme
    )
    ink = ink * (weight := rng.uniform(0.6, 0.9)) + base * (1 - weight)
    amount, exposed = _share(copper), _share(cv2.bitwise_and(copper, layout.finish))
    holes, silk = _share(layout.drills), _share(layout.silk)
    solid = 1 - holes
    planes = cv2.merge([(amount - exposed) * (1 - silk) * solid, exposed * solid, silk * solid, holes])
    hole = np.full(3, rng.uniform(8, 40))
    mixture = np.stack([trace - base, finish - base, ink - base, hole - base, base], axis=1)
    image = cv2.transform(planes, mixture.astype(np.float32))
    # light from one side: edges of the copper that face it are brighter
    angle = rng.uniform(0, 2 * np.pi)
    kernel = np.array([[-1, 0, 1]], np.float32)
    slope = cv2.filter2D(amount, -1, kernel * np.cos(angle)) + cv2.filter2D(amount, -1, kernel.T * np.sin(angle))
    ramp = np.linspace(-1, 1, size, dtype=np.float32)
    tilt = rng.uniform(-0.12, 0.12, 2).astype(np.float32)
    light = 1 + tilt[0] * ramp[None] + tilt[1] * ramp[:, None]
    texture = rng.standard_normal((size // 2, size // 2), dtype=np.float32) * np.float32(rng.uniform(1.5, 5))
    grain = rng.standard_normal((size, size), dtype=np.float32) * np.float32(rng.uniform(1.5, 5))
    grain += cv2.resize(texture, (size, size), interpolation=cv2.INTER_LINEAR)
    grain += np.float32(rng.uniform(4, 14)) * slope.astype(np.float32)
    image = image * cv2.merge([light] * 3) + cv2.merge([grain] * 3)
    blur = float(rng.uniform(0.3, 0.7))
    return np.asarray(cv2.GaussianBlur(np.clip(image, 0, 255).astype(np.uint8), (3, 3), blur))


def _share(mask: np.ndarray) -> np.ndarray:
    """How much of each final pixel a fine mask covers, 0..1 float32."""
    return np.asarray(down(mask).astype(np.float32) * np.float32(1 / 255))
