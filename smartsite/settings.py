"""Settings: one TOML file, overridden by the environment; secrets by reference only.

A secret is never written in the file: a field of type `SecretRef` names where it lies,
``env:NAME`` or ``file:PATH``. Every key can be overridden by an environment variable, sections
joined by two underscores: ``SMARTSITE_BROKER__URL``.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from detectors.rules import Rules
from device_profiles.sites import SecretRef, SiteFile
from device_profiles.topics import PREFIX
from ingest.addresses import Allowed
from smartsite.errors import Misconfigured

DEFAULT_FILE = Path("smartsite.toml")
ENV_PREFIX = "SMARTSITE_"


def _has_port(listen: str) -> str:
    port = int(listen.rpartition(":")[2])
    if port > 65_535:
        raise ValueError(f"{port} is not a port: at most 65535")
    return listen


def _holds_no_password(url: str) -> str:
    parts = urlsplit(url)
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("the port is not a number up to 65535") from None
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise ValueError("the password does not belong in url: name it by `password`")
    return url


Listen = Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$"), AfterValidator(_has_port)]
Url = Annotated[str, AfterValidator(_holds_no_password)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BrokerSettings(_Section):
    """Where devices publish."""

    url: Url = Field(
        "embedded",
        description='"embedded", or mqtt://HOST[:PORT] or mqtts://HOST[:PORT]',
        pattern=r"^(embedded|mqtts?://\S+)$",
    )
    port: int = Field(
        0, ge=0, le=65_535, description="port of the embedded broker; 0: a free one, kept"
    )
    prefix: str = Field("", description="topic prefix (a district) this service subscribes to")
    username: str | None = None
    password: SecretRef | None = None
    version: Literal["3.1.1", "5"] = "3.1.1"
    keep_reading: bool | None = Field(
        None,
        description="read on while the database is away: for brokers that reset who does not"
        " read (nats-server); default: only for the embedded broker",
    )
    keepalive_s: int = Field(30, ge=5, le=3_600)
    session_expiry_s: int = Field(
        7 * 86_400,
        ge=60,
        le=0xFFFF_FFFF,
        description="MQTT 5: how long the broker keeps the session and its queue while the service"
        " is away; 4294967295: for ever",
    )
    receive_maximum: int = Field(
        16_000, ge=1, le=65_535, description="MQTT 5: how many messages may be unacknowledged"
    )
    share_group: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="several services with workers of their own share the load as"
        " $share/GROUP, on brokers that have it",
    )
    drain: bool = Field(
        False,
        description="leave the share_group: unsubscribe, and take only what already waits",
    )
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @field_validator("prefix")
    @classmethod
    def _is_prefix(cls, value: str) -> str:
        if not PREFIX.fullmatch(value):
            raise ValueError(f"{value!r} is not a topic prefix: ids joined by '/'")
        return value

    @model_validator(mode="after")
    def _key_goes_with_certificate(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        return self

    @model_validator(mode="after")
    def _shares_where_that_works(self) -> Self:
        if self.drain and self.share_group is None:
            # nats-server forgets what waits when it is unsubscribed.
            raise ValueError("drain is for members of a share_group")
        if self.share_group is not None and (
            self.url == "embedded" or (self.keep_reading and self.version == "3.1.1")
        ):
            # It takes "$share" for the first level of an ordinary topic.
            raise ValueError(
                "share_group: nats-server, the embedded broker too, grants shared subscriptions"
                " and delivers nothing; name another broker, or one that speaks version 5"
            )
        return self


class DatabaseSettings(_Section):
    """Where everything is kept."""

    url: Url = Field(
        "embedded",
        description='"embedded", or postgresql://USER@HOST[:PORT]/NAME without the password',
        pattern=r"^(embedded|postgres(ql)?://\S+)$",
    )
    port: int = Field(
        0, ge=0, le=65_535, description="port of the embedded database; 0: a free one, kept"
    )
    password: SecretRef | None = None


class IngestSettings(_Section):
    """How readings are taken in."""

    worker: str = Field("ingest", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    max_payload_bytes: int = Field(
        256 * 1024,
        ge=1_024,
        le=64 * 1024 * 1024,
        description="a larger telemetry payload is skipped, its start quarantined",
    )
    flush_rows: int = Field(8_192, ge=1, le=100_000)
    flush_ms: int = Field(50, ge=1, le=10_000)
    future_s: float = Field(
        300, ge=0, description="how far ahead of its receipt a reading is believed"
    )
    past_days: float = Field(400, gt=0, le=36_500, description="how old a reading may be")
    repair_clocks: bool = Field(
        True, description="find out which devices' clocks are off, and repair their times"
    )
    clock_window_s: float = Field(
        120, ge=30, le=86_400, description="how long a clock has to be steadily off"
    )
    clock_tolerance_s: float = Field(
        60, ge=30, le=86_400, description="up to here a device's clock is right"
    )
    registration: Literal["closed", "open"] = Field(
        "closed",
        description="closed: what unknown devices say is quarantined until they are adopted; open:"
        " an unknown device of a registered site is registered when it says something readable",
    )
    max_new_devices: int = Field(
        200,
        ge=1,
        le=100_000,
        description="how many devices of a site may be registered by themselves in 24 hours",
    )


class FramesSettings(_Section):
    """How pictures are taken in."""

    worker: str = Field("frames", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    max_payload_bytes: int = Field(8 * 1024 * 1024, ge=1_024, le=64 * 1024 * 1024)
    events: bool = Field(
        False,
        description="AI boxes report with pictures on cameras' event topics: they come by the role"
        " frames and not by ingest, which then hears the three kinds of devices alone",
    )
    fetch_from: tuple[str, ...] = Field(
        (),
        description="hosts, and networks like 10.0.0.0/8, whence pictures are fetched that events"
        " point at; private addresses only by network; default: nothing is fetched",
    )

    @field_validator("fetch_from")
    @classmethod
    def _are_places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Allowed(value)
        return value


class Hj212Settings(_Section):
    """The gateway: devices that speak HJ 212 over TCP."""

    listen: Listen | None = Field(
        None, description="HOST:PORT devices connect to; default: the role gateway is not started"
    )
    worker: str = Field("gateway", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    max_connections: int = Field(2_000, ge=1, le=100_000)
    max_connections_an_address: int = Field(
        256, ge=1, le=100_000, description="mobile carriers put many devices behind one address"
    )
    frames_per_s: float = Field(
        50, gt=0, le=10_000, description="of each connection; who sends more is read more slowly"
    )
    bytes_per_s: float = Field(50_000, ge=1_000, le=100_000_000, description="likewise")
    idle_s: float = Field(
        3_600, ge=10, le=86_400, description="a connection without a frame for so long is closed"
    )
    set_clock_over_s: float = Field(
        0, ge=0, le=86_400, description="a device's clock that is off by more is set; 0: never"
    )


class VisionSettings(_Section):
    """How pictures are looked at."""

    worker: str = Field("vision", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    model: Path | None = Field(
        None,
        description="an ONNX detector, described in its metadata or in a TOML file beside it;"
        " default: the one shipped",
    )
    self_test: bool = Field(
        True, description="a model must find what the self-test picture shows, or nothing starts"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where the model runs; auto: CUDA where onnxruntime has it"
    )
    threads: int = Field(1, ge=1, le=64)
    min_score: float = Field(0.3, gt=0, lt=1, description="boxes below are not stored")
    keep_up_s: float = Field(
        10.0, gt=0, description="a frame older than this when its turn comes is skipped"
    )
    keep_events_s: float = Field(
        600.0,
        gt=0,
        description="the picture of an AI box's event is looked at however many frames came since,"
        " and skipped when it is older than this, seconds",
    )


class DeliverSettings(_Section):
    """How people are told."""

    concurrency: int = Field(8, ge=1, le=256)
    timeout_s: float = Field(15, gt=0, le=120)


Days = Annotated[int, Field(ge=0, le=36_500)]


class RetentionSettings(_Section):
    """How many days what is kept; 0: for ever. Violations and deliveries are never removed."""

    dust_days: Days = Field(400, description="readings of dust monitors")
    crane_days: Days = Field(
        90, description="readings of cranes; GB/T 28264 asks for 30 working days at least"
    )
    frames_days: Days = Field(30, description="frames that are no evidence of a violation")
    detections_days: Days = Field(400, description="what the model saw")
    statuses_days: Days = Field(400, description="what devices said of themselves")
    segments_days: Days = Field(90, description="the bytes of raw segments")
    quarantine_days: Days = Field(
        180, description="the bytes of what is in quarantine: its segments and its pictures"
    )
    rollups_1min_days: Days = Field(800, description="rollups by minute")
    rollups_1h_days: Days = Field(0, description="rollups by hour")
    rollups_1d_days: Days = Field(0, description="rollups by day")


class ColumnstoreSettings(_Section):
    """When TimescaleDB turns chunks into columns; without it nothing of this applies."""

    after_days: Days = Field(7, description="age of a chunk, days; 0: never")


class ProfilesSettings(_Section):
    """What makes of devices send."""

    folders: tuple[Path, ...] = Field(
        (), description="folders of profiles beside the shipped ones, VENDOR/MODEL.toml"
    )
    topics_of: tuple[str, ...] = Field(
        (),
        description="profiles whose own topics, outside the native contract, are subscribed to",
    )


class HealthSettings(_Section):
    """Where metrics and health are shown."""

    listen: Listen = "127.0.0.1:9464"
    fresh_s: float = Field(
        150,
        gt=0,
        description="data older than this is not fresh; a device that speaks every minute may miss"
        " one turn",
    )


class Settings(BaseSettings):
    """All settings of the service."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    data_dir: Path = Field(Path("smartsite-data"), description="frames, embedded services")
    site_files: tuple[Path, ...] = Field((), description="site files imported at every start")
    broker: BrokerSettings = BrokerSettings()
    database: DatabaseSettings = DatabaseSettings()
    ingest: IngestSettings = IngestSettings()
    frames: FramesSettings = FramesSettings()
    hj212: Hj212Settings = Hj212Settings()
    vision: VisionSettings = VisionSettings()
    deliver: DeliverSettings = DeliverSettings()
    retention: RetentionSettings = RetentionSettings()
    columnstore: ColumnstoreSettings = ColumnstoreSettings()
    profiles: ProfilesSettings = ProfilesSettings()
    health: HealthSettings = HealthSettings()
    rules: Rules = Rules()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: arguments, environment, file."""
        toml = TomlConfigSettingsSource(settings_cls, cls.model_config.get("toml_file"))
        return (init_settings, env_settings, toml)

    @model_validator(mode="after")
    def _workers_have_names_of_their_own(self) -> Self:
        names = (self.ingest.worker, self.frames.worker, self.hj212.worker, self.vision.worker)
        if len(set(names)) < len(names):
            raise ValueError(
                "ingest.worker, frames.worker, hj212.worker and vision.worker must differ"
            )
        return self

    @property
    def frame_dir(self) -> Path:
        """Where the frame store lies."""
        return self.data_dir / "frames"

    @property
    def shared_dir(self) -> Path:
        """Where copies of frames for sharing lie."""
        return self.data_dir / "shared"


def load_settings(file: Path | None = None) -> Settings:
    """Read the settings.

    Args:
        file: The TOML file; None takes ``smartsite.toml`` of this folder where there is one.

    Returns:
        The settings; relative paths of the file are taken from the file's folder.

    Raises:
        Misconfigured: With every fault on a line of its own, naming file and key.
    """
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    if file is not None:
        _parse_toml(file)
    strangers = _unknown_variables()

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        found = FromFile()
    except ValidationError as fault:
        raise Misconfigured("\n".join([_every_fault(fault, file), *strangers])) from None
    except SettingsError as fault:  # a list or a whole section in one variable
        key = next((name for name in Settings.model_fields if f'"{name}"' in str(fault)), "")
        variable = f"{ENV_PREFIX}{key.upper()}"
        raise Misconfigured(f"environment {variable}: {key}: not JSON") from None
    if strangers:
        raise Misconfigured("\n".join(strangers))
    settings = Settings.model_construct(
        **{name: getattr(found, name) for name in type(found).model_fields}
    )
    return settings if file is None else _anchored(settings, file.parent)


def _unknown_variables() -> list[str]:
    """Environment variables that look like settings and are none: a misspelling does nothing."""
    faults = []
    for name in sorted(os.environ):
        if not name.startswith(ENV_PREFIX) or "__" not in name:
            continue
        path = name.removeprefix(ENV_PREFIX).lower().split("__")
        model: type[BaseModel] | None = Settings
        for part in path:
            field = model.model_fields.get(part) if model is not None else None
            if field is None:
                faults.append(f"environment {name}: there is no setting {'.'.join(path)}")
                break
            kind: Any = field.annotation
            is_section = isinstance(kind, type) and issubclass(kind, BaseModel)
            model = kind if is_section else None
    return faults


def _anchored(settings: Settings, folder: Path) -> Settings:
    def anchored(section: BaseModel, *names: str) -> BaseModel:
        paths = {name: getattr(section, name) for name in names}
        return section.model_copy(
            update={name: path and folder / path for name, path in paths.items()}
        )

    return settings.model_copy(
        update={
            "data_dir": folder / settings.data_dir,
            "site_files": tuple(folder / path for path in settings.site_files),
            "broker": anchored(settings.broker, "ca_file", "cert_file", "key_file"),
            "vision": anchored(settings.vision, "model"),
            "profiles": settings.profiles.model_copy(
                update={"folders": tuple(folder / path for path in settings.profiles.folders)}
            ),
        }
    )


def load_site_file(file: Path) -> SiteFile:
    """Read a site file.

    Args:
        file: The TOML file.

    Returns:
        What it registers.

    Raises:
        Misconfigured: With every fault on a line of its own, naming file and key.
    """
    try:
        return SiteFile.model_validate(_parse_toml(file))
    except ValidationError as fault:
        raise Misconfigured(_every_fault(fault, file)) from None


def _parse_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as fault:
        raise Misconfigured(f"{file}: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise Misconfigured(f"{file}: not UTF-8 text") from None
    except tomllib.TOMLDecodeError as fault:
        raise Misconfigured(f"{file}: not TOML: {fault}") from None


def _every_fault(fault: ValidationError, file: Path | None) -> str:
    lines = []
    for error in fault.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in error["loc"]) or "(the whole file)"
        variable = ENV_PREFIX + "__".join(str(part) for part in error["loc"]).upper()
        where = f"environment {variable}" if variable in os.environ else str(file or "defaults")
        message = error["msg"].removeprefix("Value error, ")
        lines.append(f"{where}: {key}: {message}")
    return "\n".join(lines)


def resolve_secret(ref: str, key: str) -> str:
    """Fetch a secret from where its reference points.

    Args:
        ref: ``env:NAME`` or ``file:PATH``.
        key: The setting that names it, for the message.

    Returns:
        The secret, without surrounding white space.

    Raises:
        Misconfigured: It is not there or empty; the message never holds the secret.
    """
    scheme, _, name = ref.partition(":")
    if scheme == "env":
        value = os.environ.get(name, "")
    else:
        try:
            value = Path(name).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as fault:
            raise Misconfigured(f"{key}: the secret file {name} cannot be read: {fault}") from None
    if not value.strip():
        raise Misconfigured(f"{key}: the secret {ref} is empty or not set")
    return value.strip()
