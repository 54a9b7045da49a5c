"""Profiles: the datasheets there are, and which one a device is read by.

::

    DeviceProfilesError
    ├── Rejected          the peer's data is wrong
    └── ProfileFault      a profile file is wrong: refuse to start, naming file and key
"""

from __future__ import annotations

import importlib.util
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from device_profiles.datasheets import Datasheet, Format, Hj212
from device_profiles.decoding.build import DecodeMany, gateway_decoder, payload_decoder
from device_profiles.decoding.terms import NO_TERMS, Terms
from device_profiles.errors import DeviceProfilesError, Reason, Rejected, shown
from device_profiles.fitting import shared_devices, shared_topic, topic_pattern
from device_profiles.hj212.factors import Dialect
from device_profiles.hj212.frames import Tolerance
from device_profiles.hj212.readings import Hj212Decoder
from device_profiles.native import Decoder
from device_profiles.readings import Decoded
from device_profiles.units import printed
from device_profiles.vocabulary import Kind

SHIPPED = Path(__file__).parent / "profiles"
"""The profiles that come with the project, one folder a vendor."""

MAX_FILE_BYTES = 256 * 1024

CodeDecoder = Callable[[Datasheet, Terms], Decoder]
"""What a Python decoder beside a profile is: it is given datasheet and terms once, and gives the
function that is called for every message."""


class ProfileFault(DeviceProfilesError):  # noqa: N818 - a fault of a file, told to a person
    """One or several profile files are wrong.

    Attributes:
        faults: One line each, naming file and key.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, slots=True)
class Profile:
    """A datasheet and where it lies.

    Attributes:
        sheet: What the file says.
        file: The file.
    """

    sheet: Datasheet
    file: Path

    def decoder(self, terms: Terms = NO_TERMS) -> Decoder:
        """Build the decoder of one device.

        Args:
            terms: What is known of the device.

        Returns:
            A function from payload to `Decoded`.

        Raises:
            ProfileFault: The Python decoder beside the file is not there.
        """
        match self.sheet.format:
            case Format.PYTHON:
                return _contained(_load_code(self)(self.sheet, terms), self.sheet.decoder or "")
            case Format.HJ212:
                return self.hj212(terms)
            case _:
                return payload_decoder(self.sheet, terms)

    def gateway(self, terms_of: Callable[[str], Terms] = lambda _: NO_TERMS) -> DecodeMany:
        """Build the decoder of a gateway, whose messages hold readings of several devices.

        Args:
            terms_of: What is known of a device, by its external id.

        Returns:
            A function from payload to external ids and what was read of each.
        """
        return gateway_decoder(self.sheet, terms_of)

    def hj212(self, terms: Terms = NO_TERMS) -> Hj212Decoder:
        """Build the decoder of a device that speaks HJ 212, which also shows the frames.

        Args:
            terms: What is known of the device.

        Returns:
            The decoder.
        """
        section = self.sheet.hj212 or Hj212()
        return Hj212Decoder(
            dialects=[Dialect(name) for name in section.dialects],
            units={name: printed(unit) for name, unit in terms.units.items()},
            dust_unit=printed(section.dust_unit),
            tolerances=[Tolerance(name) for name in (*section.tolerate, *terms.tolerate)],
        )


class TopicMatch(NamedTuple):
    """A topic outside the native contract that a profile claims.

    Attributes:
        profile: Whose.
        device: The external id in the topic, "" where the payload says whose it is.
    """

    profile: Profile
    device: str


class Profiles:
    """The profiles in force.

    Attributes:
        by_id: They, by id.
    """

    def __init__(self, profiles: Iterable[Profile], topics_of: Iterable[str] = ()) -> None:
        """Check profiles against each other.

        Args:
            profiles: Checked one by one already.
            topics_of: Ids of those whose own topics, outside the native contract, are listened
                to. Others' topics are not: platforms that give every kind of device one topic
                have a profile for each kind.

        Raises:
            ProfileFault: Two of them have one id or could claim one device, two of `topics_of`
                one topic, or one of those is not there or has no topics.
        """
        self.by_id: dict[str, Profile] = {}
        faults = []
        for profile in profiles:
            sheet = profile.sheet
            other = self.by_id.get(sheet.id)
            if other is not None:
                faults.append(f"{profile.file}: id: {sheet.id!r} is that of {other.file} too")
                continue
            for other in self.by_id.values():
                faults += _overlap(profile, other, _shared_devices)
            self.by_id[sheet.id] = profile
        listened: list[Profile] = []
        for name in topics_of:
            found = self.by_id.get(name)
            if found is None or found.sheet.fits is None or not found.sheet.fits.topics:
                faults.append(f"topics_of: {name!r} is no profile with topics of its own")
                continue
            for other in listened:
                faults += _overlap(found, other, _shared_topics)
            listened.append(found)
        if faults:
            raise ProfileFault(faults)
        self._topics = [
            (topic_pattern(topic), profile)
            for profile in listened
            for topic in (profile.sheet.fits.topics if profile.sheet.fits else ())
        ]

    def __len__(self) -> int:
        return len(self.by_id)

    def find(self, kind: Kind, make: str, model: str, firmware: str) -> Profile | None:
        """Find the profile a device is read by.

        Args:
            kind: Of the device.
            make: As registered.
            model: As registered.
            firmware: As registered.

        Returns:
            The one that fits; None where the device speaks the native contract.
        """
        for profile in self.by_id.values():
            fits = profile.sheet.fits
            if (
                profile.sheet.kind is kind
                and fits is not None
                and fits.covers(make, model, firmware)
            ):
                return profile
        return None

    def match_topic(self, topic: str) -> TopicMatch | None:
        """Find the profile, of those listened to, that claims a topic.

        Args:
            topic: As the broker sent it.

        Returns:
            The profile and the device's external id, or None.
        """
        for pattern, profile in self._topics:
            found = pattern.fullmatch(topic)
            if found:
                return TopicMatch(profile, found.groupdict().get("device") or "")
        return None


def _shared_devices(one: Datasheet, other: Datasheet) -> str | None:
    if one.fits is None or other.fits is None or one.kind is not other.kind:
        return None
    return shared_devices(one.fits, other.fits)


def _shared_topics(one: Datasheet, other: Datasheet) -> str | None:
    if one.fits is None or other.fits is None:
        return None
    return shared_topic(one.fits, other.fits)


def _overlap(
    one: Profile, other: Profile, shared_by: Callable[[Datasheet, Datasheet], str | None]
) -> list[str]:
    shared = shared_by(one.sheet, other.sheet)
    if shared is None:
        return []
    return [f"{one.file}: fits: {shared} could be of {other.sheet.id!r} too ({other.file})"]


def load_profile(file: Path) -> Profile:
    """Read one profile file.

    Args:
        file: A TOML file.

    Returns:
        The profile.

    Raises:
        ProfileFault: With every fault on a line of its own, naming file and key.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ProfileFault([f"{file}: larger than {MAX_FILE_BYTES} bytes"])
        given = tomllib.loads(file.read_text("utf-8"))
    except OSError as fault:
        raise ProfileFault([f"{file}: {fault.strerror}"]) from None
    except UnicodeDecodeError:
        raise ProfileFault([f"{file}: not UTF-8 text"]) from None
    except tomllib.TOMLDecodeError as fault:
        raise ProfileFault([f"{file}: not TOML: {fault}"]) from None
    try:
        profile = Profile(Datasheet.model_validate(given), file)
    except ValidationError as fault:
        raise ProfileFault(_told(file, fault)) from None
    if profile.sheet.decoder is not None:
        _load_code(profile)
    return profile


_MEMBER = re.compile(r"[a-z]+\[.*|function-.*|str|int|float|bool|literal|SeriesAt|Datasheet")


def _told(file: Path, fault: ValidationError) -> list[str]:
    """One line a key: of a key that could have been several things, what each of them misses."""
    lines: dict[str, list[str]] = {}
    for error in fault.errors(include_url=False, include_context=False):
        steps = [str(step) for step in error["loc"]]
        while len(steps) > 1 and _MEMBER.fullmatch(steps[-1]):
            steps.pop()  # pydantic names the member of a union: that is no key of the file
        message = error["msg"].removeprefix("Value error, ")
        key = ".".join(steps)
        if not key:  # a check of the whole file says itself which key it is about
            key, _, rest = message.partition(": ")
            key, message = (key, rest) if rest else ("the whole file", message)
        said = lines.setdefault(key, [])
        if message not in said:
            said.append(message)
    return [f"{file}: {key}: {'; or '.join(said)}" for key, said in lines.items()]


def load_profiles(folders: Iterable[Path] = (), topics_of: Iterable[str] = ()) -> Profiles:
    """Read the shipped profiles and those of further folders.

    Args:
        folders: Each with ``vendor/model.toml`` files, at any depth.
        topics_of: As in `Profiles`.

    Returns:
        The profiles in force.

    Raises:
        ProfileFault: With every fault of every file.
    """
    profiles: list[Profile] = []
    faults: list[str] = []
    for folder in (SHIPPED, *folders):
        if not folder.is_dir():
            faults.append(f"{folder}: there is no such folder")
            continue
        for file in sorted(folder.rglob("*.toml")):
            try:
                profiles.append(load_profile(file))
            except ProfileFault as fault:
                faults += fault.faults
    if faults:
        raise ProfileFault(faults)
    return Profiles(profiles, topics_of)


def _load_code(profile: Profile) -> CodeDecoder:
    """Load the Python decoder a profile names, from the file beside it."""
    name, _, function = (profile.sheet.decoder or "").partition(":")
    file = profile.file.parent / name
    spec = importlib.util.spec_from_file_location(
        f"smartsite_profile_{re.sub(r'[^a-z0-9]', '_', profile.sheet.id.lower())}", file
    )
    if spec is None or spec.loader is None or not file.is_file():
        raise ProfileFault([f"{profile.file}: decoder: there is no {file}"])
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found: CodeDecoder = getattr(module, function)
    except Exception as fault:  # noqa: BLE001 - whatever is wrong with it is the file's fault
        raise ProfileFault([f"{profile.file}: decoder: {file}: {fault!r}"]) from None
    return found


def _contained(decode: Decoder, name: str) -> Decoder:
    """Let a decoder beside a profile refuse a message by failing on it, not stop the service.

    What it failed on is kept like all that was refused, and can be read again once it is mended.
    """

    def contained(payload: bytes) -> Decoded:
        try:
            return decode(payload)
        except Rejected:
            raise
        except Exception as fault:  # noqa: BLE001 - code of a stranger, on bytes of another
            raise Rejected(Reason.TYPE, f"{name} failed: {shown(fault)}") from None

    return contained
