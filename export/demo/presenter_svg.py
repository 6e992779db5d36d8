"""Small SVG vocabulary of the presenter's drawing, and its rasterizer."""

from __future__ import annotations

import io

import numpy as np
import resvg_py
from numpy.typing import NDArray
from PIL import Image

# Share of the radius, opacity: close to a Gaussian, so that a filled ellipse looks like a blurred spot.
SOFT_STOPS = (
    (0.0, 1.0),
    (0.15, 0.93),
    (0.3, 0.75),
    (0.45, 0.52),
    (0.6, 0.29),
    (0.75, 0.12),
    (0.88, 0.03),
    (1.0, 0.0),
)


def soft_gradient(colour: str) -> str:
    """Definition of the radial gradient that ``spot`` fills with; ``colour`` is six hexadecimal digits."""
    stops = "".join(
        f'<stop offset="{at}" stop-color="#{colour}" stop-opacity="{opacity}"/>' for at, opacity in SOFT_STOPS
    )
    return f'<radialGradient id="soft-{colour}">{stops}</radialGradient>'


def spot(x: float, y: float, rx: float, ry: float, colour: str, opacity: float, turn_deg: float = 0.0) -> str:
    """A soft-edged ellipse of a colour of ``soft_gradient``: light or shade without a blur filter."""
    turned = f' transform="rotate({turn_deg:.2f} {x:.2f} {y:.2f})"' if turn_deg else ""
    return (
        f'<ellipse cx="{x:.2f}" cy="{y:.2f}" rx="{rx:.2f}" ry="{ry:.2f}" '
        f'fill="url(#soft-{colour})" fill-opacity="{opacity:.3f}"{turned}/>'
    )


def linear(name: str, stops: tuple[tuple[float, str], ...], x2: float = 0.0, y2: float = 1.0) -> str:
    """Definition of a linear gradient over the filled shape's box, downward by default."""
    inner = "".join(f'<stop offset="{at}" stop-color="#{colour}"/>' for at, colour in stops)
    return f'<linearGradient id="{name}" x1="0" y1="0" x2="{x2}" y2="{y2}">{inner}</linearGradient>'


def area(path: str, fill: str, opacity: float = 1.0) -> str:
    """A filled path."""
    return f'<path d="{path}" fill="{fill}" fill-opacity="{opacity:.3f}"/>'


def line(path: str, colour: str, width: float, opacity: float = 1.0) -> str:
    """A stroked path with round ends."""
    return (
        f'<path d="{path}" fill="none" stroke="#{colour}" stroke-width="{width:.2f}" '
        f'stroke-linecap="round" stroke-linejoin="round" stroke-opacity="{opacity:.3f}"/>'
    )


def rasterize(body: str, view: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Draws ``body`` as seen through ``view`` (x, y, width, height): uint8 [height, width, 4], RGBA.

    The alpha is straight, not premultiplied.
    """
    x, y, width, height = view
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="{x} {y} {width} {height}">{body}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"))


def over(below: NDArray[np.uint8], drawing: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``drawing`` (RGBA) laid over ``below`` (RGB) of the same size, rounded to nearest: uint8 RGB."""
    alpha = drawing[..., 3:].astype(np.uint16)
    mixed = below * (255 - alpha) + drawing[..., :3] * alpha
    return np.asarray((mixed + 127) // 255, dtype=np.uint8)
