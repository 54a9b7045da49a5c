"""Two tower cranes whose jibs overlap, and how they come too near to each other.

The higher crane, `crane-1`, carries material from a yard to a slab that lies within reach of
the lower crane, `crane-2`; there its rope hangs down past the lower crane's jib. The lower crane
works between a place of its own and one beside that slab. Once in a work cycle both are there
at a time, and the jib of the lower one comes to rest about a metre from the rope of the higher
one: a real near miss, which ends when one of them goes away. Each comes from its own side, so
they never cross, and for the rest of the cycle they are many metres apart.

Everything is a function of the seed and of the seconds since the start; nothing is stepped.
Speeds, accelerations and loads are those of a common flat-top crane (50 m jib, about 100 t·m);
work cycles are far quicker than on a real site, so that a minute shows one whole cycle.
"""

from __future__ import annotations

import itertools
import math
import random
from functools import lru_cache
from typing import NamedTuple

from device_profiles.sites import CraneGeometry
from simulators.dice import bounded, drift
from simulators.motion import Drive, Move, position

HIGH = CraneGeometry(
    x_m=0.0,
    y_m=0.0,
    base_m=0.0,
    jib_height_m=52.0,
    jib_m=50.0,
    counter_jib_m=14.0,
    top_height_m=58.0,
    slew_zero_deg=0.0,
)
LOW = CraneGeometry(
    x_m=62.0,
    y_m=0.0,
    base_m=0.0,
    jib_height_m=40.0,
    jib_m=50.0,
    counter_jib_m=13.0,
    top_height_m=46.0,
    slew_zero_deg=300.0,
)

CYCLE_S = 52.0
"""One work cycle. Under a minute, so that every minute sees a near miss begin."""

FIRST_S = 8.0
"""Where in its first cycle the site is when it starts: some 13 s before the first near miss."""

SLEWING = Drive(top_speed=4.2, acceleration=0.8)
"""0.7 revolutions a minute; degrees."""

TROLLEY = Drive(top_speed=1.0, acceleration=0.4)
HOIST = Drive(top_speed=1.2, acceleration=0.5)
TAKING = Drive(top_speed=2.5, acceleration=5.0)
"""How fast a load comes onto the hook, in tonnes."""

MAX_LOAD_T = 6.0
RATED_MOMENT_TM = 125.0

_HIGH_YARD = (20.0, 39.0)  # bearing in degrees, radius in metres
_LOW_YARD = (262.0, 30.0)
_YARD_HOOK_M = 22.0
_TRAVEL_HOOK_M = 31.0
_SLAB_HOOK_M = 25.0


class CraneState(NamedTuple):
    """Where a crane is and what hangs on it.

    Attributes:
        bearing_deg: Where the jib points, clockwise from north; not wrapped.
        trolley_m: Radius of the trolley.
        hook_height_m: Height of the hook above the mast's foot.
        load_t: Load on the hook.
    """

    bearing_deg: float
    trolley_m: float
    hook_height_m: float
    load_t: float

    @property
    def rated_load_t(self) -> float:
        """What the crane may lift at this radius."""
        return min(MAX_LOAD_T, RATED_MOMENT_TM / max(self.trolley_m, 1.0))

    @property
    def moment_pct(self) -> float:
        """The load's moment, of the rated one."""
        return 100.0 * self.load_t / self.rated_load_t


class Work(NamedTuple):
    """The moves of one crane in one cycle, a row of them for each drive."""

    slewing: tuple[Move, ...]
    trolley: tuple[Move, ...]
    hoist: tuple[Move, ...]
    load: tuple[Move, ...]

    def at(self, seconds: float) -> CraneState:
        """Where the crane is, this long after the cycle began."""
        return CraneState(
            position(self.slewing, seconds),
            position(self.trolley, seconds),
            position(self.hoist, seconds),
            position(self.load, seconds),
        )


def _tour(drive: Drive, home: float, *stops: tuple[float, float]) -> tuple[Move, ...]:
    """Moves that start at home, each to a place at a time."""
    moves = []
    for place, starts_at in stops:
        moves.append(Move(drive, home, place, starts_at))
        home = place
    return tuple(moves)


@lru_cache(maxsize=64)
def plan(seed: int, cycle: int) -> tuple[Work, Work]:
    """What both cranes do in one cycle; it ends where it began.

    Args:
        seed: What makes one run differ from another.
        cycle: Its number, from 0.

    Returns:
        The work of the higher and of the lower crane, on the clock of the cycle.
    """
    dice = random.Random(f"{seed}/cranes/{cycle}")
    slab_bearing = dice.uniform(55.5, 58.5)
    slab_radius = dice.uniform(38.5, 41.5)
    near_m = dice.uniform(0.7, 1.3)
    load_t = dice.uniform(1.2, 2.5)
    low_load_t = dice.uniform(0.8, 2.2)

    east = slab_radius * math.sin(math.radians(slab_bearing)) - LOW.x_m
    north = slab_radius * math.cos(math.radians(slab_bearing)) - LOW.y_m
    # The jib of the lower crane stops short of the rope by the angle that leaves `near_m`.
    short_deg = math.degrees(math.asin(near_m / math.hypot(east, north)))
    low_bearing = math.degrees(math.atan2(east, north)) % 360.0 - short_deg

    # Who goes first: the higher crane with its rope, or the lower one with its jib.
    leaves_high, leaves_low = dice.choice(((33.0, 30.5), (29.5, 32.5)))
    low_way = SLEWING.seconds(low_bearing - _LOW_YARD[0])
    low_arrives = dice.uniform(22.5, 24.0)

    high = Work(
        slewing=_tour(SLEWING, _HIGH_YARD[0], (slab_bearing, 6.0), (_HIGH_YARD[0], leaves_high)),
        trolley=_tour(TROLLEY, _HIGH_YARD[1], (slab_radius, 8.0), (_HIGH_YARD[1], leaves_high + 3)),
        hoist=_tour(
            HOIST,
            _YARD_HOOK_M,
            (_TRAVEL_HOOK_M, 3.0),
            (_SLAB_HOOK_M, 18.0),
            (_TRAVEL_HOOK_M, 29.0),
            (_YARD_HOOK_M, 41.0),
        ),
        load=_tour(TAKING, 0.0, (load_t, 1.5), (0.0, 26.5)),
    )
    low_radius = dice.uniform(18.0, 23.0)
    low = Work(
        slewing=_tour(
            SLEWING,
            _LOW_YARD[0],
            (low_bearing, low_arrives - low_way),
            (_LOW_YARD[0], leaves_low),
        ),
        trolley=_tour(TROLLEY, _LOW_YARD[1], (low_radius, 9.0), (_LOW_YARD[1], leaves_low + 2)),
        hoist=_tour(HOIST, 18.0, (26.0, 4.0), (14.0, 15.0), (24.0, 29.0), (18.0, 43.0)),
        load=_tour(TAKING, 0.0, (low_load_t, 27.5), (0.0, 50.0)),
    )
    return high, low


def cranes_at(seed: int, seconds: float) -> tuple[CraneState, CraneState]:
    """Where both cranes really are, free of any instrument's error.

    Args:
        seed: What makes one run differ from another.
        seconds: Since the site's start; not negative.

    Returns:
        The higher and the lower crane.
    """
    cycle, into = divmod(seconds + FIRST_S, CYCLE_S)
    high, low = plan(seed, int(cycle))
    return high.at(into), low.at(into)


Point = tuple[float, float, float]
Segment = tuple[Point, Point]


def bodies(geometry: CraneGeometry, state: CraneState) -> dict[str, Segment]:
    """A crane as straight bodies, in site metres (x east, y north, z up).

    Args:
        geometry: Where it stands and how long its arms are.
        state: Where it points.

    Returns:
        ``jib``, ``counter_jib``, ``mast`` and ``rope`` (from the trolley down to the hook).
    """
    east, north = _direction(state.bearing_deg)
    x, y = geometry.x_m, geometry.y_m
    jib_z = geometry.base_m + geometry.jib_height_m
    top_z = geometry.base_m + (geometry.top_height_m or geometry.jib_height_m)
    hook_z = geometry.base_m + state.hook_height_m

    def out(radius: float, z: float) -> Point:
        return (x + east * radius, y + north * radius, z)

    return {
        "jib": (out(0.0, jib_z), out(geometry.jib_m, jib_z)),
        "counter_jib": (out(0.0, jib_z), out(-geometry.counter_jib_m, jib_z)),
        "mast": ((x, y, geometry.base_m), (x, y, top_z)),
        "rope": (out(state.trolley_m, jib_z), out(state.trolley_m, hook_z)),
    }


def distance_m(high: dict[str, Segment], low: dict[str, Segment]) -> float:
    """The least distance between any body of one crane and any of the other.

    Args:
        high: Bodies of one crane.
        low: Bodies of the other.

    Returns:
        Metres; 0 where they touch.
    """
    return min(
        segment_distance(one, other)
        for one, other in itertools.product(high.values(), low.values())
    )


def segment_distance(one: Segment, other: Segment) -> float:
    """The least distance between two straight segments.

    The closest points are found by clamping the parameters of the two lines in turn
    (C. Ericson, Real-Time Collision Detection, section 5.1.9).

    Args:
        one: Its two ends.
        other: Its two ends.

    Returns:
        The distance, in the unit of the coordinates.
    """
    u = _minus(one[1], one[0])
    v = _minus(other[1], other[0])
    w = _minus(one[0], other[0])
    uu, uv, vv = _dot(u, u), _dot(u, v), _dot(v, v)
    uw, vw = _dot(u, w), _dot(v, w)
    if uu < 1e-12 and vv < 1e-12:
        s = t = 0.0
    elif uu < 1e-12:
        s, t = 0.0, _unit(vw / vv)
    elif vv < 1e-12:
        s, t = _unit(-uw / uu), 0.0
    else:
        denominator = uu * vv - uv * uv
        s = _unit((uv * vw - uw * vv) / denominator) if denominator > 1e-9 * uu * vv else 0.0
        t = (uv * s + vw) / vv
        if t < 0.0:
            s, t = _unit(-uw / uu), 0.0
        elif t > 1.0:
            s, t = _unit((uv - uw) / uu), 1.0
    gap = tuple(w[i] + s * u[i] - t * v[i] for i in range(3))
    return math.sqrt(sum(part * part for part in gap))


def _direction(bearing_deg: float) -> tuple[float, float]:
    angle = math.radians(bearing_deg)
    return math.sin(angle), math.cos(angle)


def _minus(one: Point, other: Point) -> Point:
    return (one[0] - other[0], one[1] - other[1], one[2] - other[2])


def _dot(one: Point, other: Point) -> float:
    return one[0] * other[0] + one[1] * other[1] + one[2] * other[2]


def _unit(parameter: float) -> float:
    return min(max(parameter, 0.0), 1.0)


class CraneInstrument:
    """What a crane's own unit makes of the truth: small errors, coarse figures.

    Args:
        seed: What makes one run differ from another.
        device: Device id; each unit errs in its own way.
        geometry: The crane's; slewing is told from `slew_zero_deg`.
        wraps: Whether the slewing angle is told within 0 to 360 degrees (a single-turn
            encoder) or goes on below and above (a multi-turn one).
    """

    def __init__(self, seed: int, device: str, geometry: CraneGeometry, *, wraps: bool) -> None:
        self._dice = random.Random(f"{seed}/{device}")
        self._geometry = geometry
        self._wraps = wraps
        self._gusts = drift(random.Random(f"{seed}/{device}/wind"), sigma=0.5, memory_s=5.0)

    def read(self, state: CraneState, wind_m_s: float) -> dict[str, object]:
        """Measure once.

        Args:
            state: The truth.
            wind_m_s: The site's wind at 10 m.

        Returns:
            The quantities of the vocabulary, and the (empty) list of alarms.
        """
        dice = self._dice
        slew = state.bearing_deg - self._geometry.slew_zero_deg + dice.gauss(0.0, 0.03)
        # Resolutions of common units: a tenth of a degree, of a metre, a hundredth of a tonne.
        slew = round(slew % 360.0, 1) % 360.0 if self._wraps else round(slew, 1)
        load = max(0.0, state.load_t + bounded(dice, 0.015))
        rated = state.rated_load_t
        # Wind grows with height by the power law; 0.2 is a common exponent over built-up land.
        aloft = wind_m_s * (self._geometry.jib_height_m / 10.0) ** 0.2
        return {
            "slew_deg": slew,
            "trolley_m": round(state.trolley_m + bounded(dice, 0.02), 1),
            "hook_height_m": round(state.hook_height_m + bounded(dice, 0.03), 1),
            "load_t": round(load, 2),
            "rated_load_t": round(rated, 2),
            "moment_pct": round(100.0 * load / rated, 1),
            "wind_speed_m_s": round(max(0.0, aloft + next(self._gusts)), 1),
            "tilt_deg": round(0.08 + 0.0015 * state.moment_pct + bounded(dice, 0.01), 2),
            "falls": 2,
            "alarms": [],
        }
