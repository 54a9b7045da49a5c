"""Tower cranes as line segments, and the distance between them.

All lengths are metres in the site's frame: x east, y north, z up from the site's datum. A crane
is four segments along the axes of its bodies:

- the mast, from its foot to its highest part;
- the jib, from the mast's axis at the jib's height outward, raised by the luffing angle;
- the counter-jib, the other way, always level;
- the rope, straight down from the trolley to the hook.

A compass bearing b (clockwise from north) points to (sin b, cos b). Heights of jib and hook are
above the mast's foot.

The bodies' widths, the counterweight below its jib, the load below the hook and swing are not
modelled.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple, TypeAlias, TypeGuard

from device_profiles.sites import CraneGeometry

Segment: TypeAlias = tuple[float, float, float, float, float, float]
"""x, y, z of one end, then of the other, metres."""

MAST: Final = 0
JIB: Final = 1
COUNTER_JIB: Final = 2
ROPE: Final = 3

BODY_NAMES: Final = (
    ("塔身", "mast"),
    ("起重臂", "jib"),
    ("平衡臂", "counter-jib"),
    ("吊绳", "hoist rope"),
)
"""What people call the bodies, in Chinese and English, by index."""

MISSING_QUANTITY: Final = "missing_quantity"
OUT_OF_RANGE: Final = "out_of_range"

_SLACK_M: Final = 2.0
"""How far a trolley may be said beyond the jib's tip, or a hook above the jib, and still be
taken to be at it: sensors are calibrated to a few per cent of a jib. Project choice."""

_PARALLEL: Final = 1e-14
"""Squared sine of the angle under which two segments count as parallel: what this neglects is
below a hundredth of a millimetre on the longest jib."""


class Bodies(NamedTuple):
    """Where a crane's bodies are, as far as it is known.

    Attributes:
        segments: Mast, jib, counter-jib, rope; None where it is not known.
        fault: Why not all are known: "missing_quantity", "out_of_range"; None if all are.
    """

    segments: tuple[Segment, Segment | None, Segment | None, Segment | None]
    fault: str | None


class Nearest(NamedTuple):
    """The two bodies that are nearest to each other.

    Attributes:
        distance_m: Their distance.
        one: Index of the first crane's body.
        other: Index of the second crane's body.
    """

    distance_m: float
    one: int
    other: int


def known(value: float | None) -> TypeGuard[float]:
    """Whether a quantity was said: NaN counts as not.

    Args:
        value: The quantity.

    Returns:
        False for None, NaN and infinities.
    """
    return value is not None and math.isfinite(value)


def bodies(
    geometry: CraneGeometry,
    slew_deg: float | None = None,
    trolley_m: float | None = None,
    hook_height_m: float | None = None,
    luff_deg: float | None = None,
) -> Bodies:
    """Place a crane's bodies.

    Args:
        geometry: Where it stands and how long it is.
        slew_deg: Slewing angle; without it only the mast is known.
        trolley_m: Radius of the trolley from the mast's axis; without it the rope is not known.
        hook_height_m: Height of the hook above the mast's foot; the same.
        luff_deg: Luffing angle of the jib above the level; 0 where it is not said.

    Returns:
        The bodies. NaN counts as not said.
    """
    x, y, foot = geometry.x_m, geometry.y_m, geometry.base_m
    z = foot + geometry.jib_height_m
    top = geometry.jib_height_m if geometry.top_height_m is None else geometry.top_height_m
    mast = (x, y, foot, x, y, foot + top)
    if not known(slew_deg):
        return Bodies((mast, None, None, None), MISSING_QUANTITY)
    bearing = math.radians(geometry.slew_zero_deg + slew_deg)
    east, north = math.sin(bearing), math.cos(bearing)
    reach, rise = geometry.jib_m, 0.0
    if known(luff_deg) and luff_deg != 0:
        luff = math.radians(luff_deg)
        reach, rise = geometry.jib_m * math.cos(luff), geometry.jib_m * math.sin(luff)
    jib = (x, y, z, x + reach * east, y + reach * north, z + rise)
    tail = geometry.counter_jib_m
    counter_jib = (x, y, z, x - tail * east, y - tail * north, z)
    if not known(trolley_m) or not known(hook_height_m):
        return Bodies((mast, jib, counter_jib, None), MISSING_QUANTITY)
    if not -_SLACK_M <= trolley_m <= max(reach, 0.0) + _SLACK_M:
        return Bodies((mast, jib, counter_jib, None), OUT_OF_RANGE)
    radius = min(max(trolley_m, 0.0), max(reach, 0.0))
    hung = z + (rise * radius / reach if reach > 0 else rise)
    hook = foot + hook_height_m
    if hook > hung + _SLACK_M:
        return Bodies((mast, jib, counter_jib, None), OUT_OF_RANGE)
    at_x, at_y = x + radius * east, y + radius * north
    rope = (at_x, at_y, hung, at_x, at_y, min(hook, hung))
    return Bodies((mast, jib, counter_jib, rope), None)


def can_meet(one: CraneGeometry, other: CraneGeometry, within_m: float) -> bool:
    """Whether any bodies of two cranes can come within a distance, however they turn.

    Args:
        one: A crane.
        other: Another.
        within_m: The distance.

    Returns:
        False only if they never can: their circles are further apart in plan.
    """
    between = math.hypot(other.x_m - one.x_m, other.y_m - one.y_m)
    reaches = max(one.jib_m, one.counter_jib_m) + max(other.jib_m, other.counter_jib_m)
    return between <= reaches + within_m


def nearest(one: Bodies, other: Bodies, within_m: float = math.inf) -> Nearest | None:
    """Find the nearest bodies of two cranes, their masts against each other left out.

    Args:
        one: A crane's bodies; unknown ones are left out.
        other: Another's.
        within_m: Look no further: most bodies are far apart, and their boxes say so cheaply.

    Returns:
        The nearest two, the first of equally near ones; None if none is nearer than `within_m`.
    """
    best, found = within_m, None
    for i, p in enumerate(one.segments):
        if p is None:
            continue
        for j, q in enumerate(other.segments):
            if q is None or (i == MAST and j == MAST) or _boxes_apart(p, q, best):
                continue
            distance = segment_distance(p, q)
            if distance < best:
                best, found = distance, Nearest(distance, i, j)
    return found


def segment_distance(p: Segment, q: Segment) -> float:
    """Return the smallest distance between two segments in space.

    It is the smallest over the four ends against the other segment and, unless the segments are
    parallel, over the foot points of the common perpendicular clamped into both. Each of these is
    the distance of two real points of the segments, so that rounding can never make the result
    too small, and parallel, touching and zero-length segments need no case of their own.

    Args:
        p: One segment.
        q: The other.

    Returns:
        The distance; 0 where they cross.
    """
    px, py, pz, p2x, p2y, p2z = p
    qx, qy, qz, q2x, q2y, q2z = q
    ux, uy, uz = p2x - px, p2y - py, p2z - pz
    vx, vy, vz = q2x - qx, q2y - qy, q2z - qz
    wx, wy, wz = px - qx, py - qy, pz - qz
    uu = ux * ux + uy * uy + uz * uz
    vv = vx * vx + vy * vy + vz * vz
    uv = ux * vx + uy * vy + uz * vz
    uw = ux * wx + uy * wy + uz * wz
    vw = vx * wx + vy * wy + vz * wz
    # Candidates: how far along p (0 to 1), how far along q.
    along = [
        (0.0, _share(vw, vv)),
        (1.0, _share(vw + uv, vv)),
        (_share(-uw, uu), 0.0),
        (_share(uv - uw, uu), 1.0),
    ]
    cross = uu * vv - uv * uv
    if cross > _PARALLEL * uu * vv:
        s = _share(uv * vw - vv * uw, cross)
        along.append((s, _share(vw + s * uv, vv)))
    least = math.inf
    for s, t in along:
        dx = wx + s * ux - t * vx
        dy = wy + s * uy - t * vy
        dz = wz + s * uz - t * vz
        least = min(least, dx * dx + dy * dy + dz * dz)
    return math.sqrt(least)


def _share(part: float, whole: float) -> float:
    if part <= 0 or whole <= 0:
        return 0.0
    return 1.0 if part >= whole else part / whole


def _boxes_apart(p: Segment, q: Segment, distance: float) -> bool:
    """Whether the segments' boxes are at least a distance apart along one axis."""
    for axis in (0, 1, 2):
        p_low, p_high, q_low, q_high = p[axis], p[axis + 3], q[axis], q[axis + 3]
        if p_low > p_high:
            p_low, p_high = p_high, p_low
        if q_low > q_high:
            q_low, q_high = q_high, q_low
        if p_low - q_high >= distance or q_low - p_high >= distance:
            return True
    return False
