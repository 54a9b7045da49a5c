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


class FramesSettings(_Section):
    """How pictures are taken in."""

    worker: str = Field("frames", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    max_payload_bytes: int = Field(8 * 1024 * 1024, ge=1_024, le=64 * 1024 * 1024)


class VisionSettings(_Section):
    """How pictures are looked at."""

    worker: str = Field("vision", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    model: Path | None = Field(None, description="an ONNX detector; default: the one shipped")
    threads: int = Field(1, ge=1, le=64)
    min_score: float = Field(0.3, gt=0, lt=1, description="boxes below are not stored")
    keep_up_s: float = Field(
        10.0, gt=0, description="a frame older than this when its turn comes is skipped"
    )


class DeliverSettings(_Section):
    """How people are told."""

    concurrency: int = Field(8, ge=1, le=256)
    timeout_s: float = Field(15, gt=0, le=120)


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
    vision: VisionSettings = VisionSettings()
    deliver: DeliverSettings = DeliverSettings()
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
        names = (self.ingest.worker, self.frames.worker, self.vision.worker)
        if len(set(names)) < len(names):
            raise ValueError("ingest.worker, frames.worker and vision.worker must differ")
        return self

    @property
    def frame_dir(self) -> Path:
        """Where the frame store lies."""
        return self.data_dir / "frames"


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
