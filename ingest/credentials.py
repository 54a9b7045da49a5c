"""What devices prove themselves with at the broker, and the broker's files made of it.

A device's user name is its topic without the channel: ``[prefix/]site/SITE/KIND/DEVICE``. It may
publish below that name and nowhere else, and it may subscribe to nothing. Passwords are made
here, told once, and kept nowhere; what is kept are hashes, one for each make of broker:

- Mosquitto: ``$7$ITERATIONS$SALT$HASH``, PBKDF2 with HMAC-SHA-512, salt of 12 bytes and hash of
  64 in base64, as ``mosquitto_passwd`` of Mosquitto 2 writes it.
- nats-server: bcrypt, ``$2b$…``.

A made password has 192 random bits: no number of iterations makes it harder to guess, while a
broker pays for each of them at every connect. So these are few, and a thousand devices that
come back at once do not stand in a queue for a minute.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
import psycopg

from device_profiles.vocabulary import Channel
from ingest.errors import Misconfigured
from ingest.store.queries import load_queries

SQL = load_queries(Path(__file__).parent / "store" / "sql" / "credentials.sql")

ITERATIONS_OF_MADE = 101
"""As `mosquitto_passwd` uses."""

ITERATIONS_OF_GIVEN = 20_000
"""For what a person thought of: some 10 ms of the broker at every connect."""

SALT_BYTES = 12
HASH_BYTES = 64

ROUNDS_OF_MADE = 4
"""The least that bcrypt has, a millisecond: see above."""

ROUNDS_OF_GIVEN = 10
"""For what a person thought of."""

LEAST_CHARS = 8
MOST_BYTES = 72
"""bcrypt reads no further."""


class Credential(NamedTuple):
    """What is kept of a password.

    Attributes:
        mosquitto: Its hash as Mosquitto reads it.
        nats: Its hash as nats-server reads it.
    """

    mosquitto: str
    nats: str


class User(NamedTuple):
    """A user of the broker.

    Attributes:
        name: Its user name.
        credential: What its password is checked against.
    """

    name: str
    credential: Credential


class Candidate(NamedTuple):
    """A device that may be given a password.

    Attributes:
        id: The registry's number.
        site: Site id.
        device: Device id within the site.
        user: Its user name at the broker.
        has_password: Whether it was given one before.
    """

    id: int
    site: str
    device: str
    user: str
    has_password: bool


def user_name(prefix: str, site: str, kind: str, device: str) -> str:
    """Write a device's user name: its topic without the channel.

    Args:
        prefix: The district its site publishes under, "" for none.
        site: Site id.
        kind: What it is.
        device: Device id.

    Returns:
        The name.
    """
    return "/".join((*([prefix] if prefix else ()), "site", site, kind, device))


def make_password() -> str:
    """Make a password of 32 characters, 192 random bits, of letters, digits, ``-`` and ``_``."""
    return secrets.token_urlsafe(24)


def require_usable(password: str) -> None:
    """Refuse a password that one of the brokers or a device could not take.

    Args:
        password: As given by a person.

    Raises:
        Misconfigured: It is too short, too long, or holds control characters.
    """
    if len(password) < LEAST_CHARS:
        raise Misconfigured(f"the password is shorter than {LEAST_CHARS} characters")
    if len(password.encode("utf-8", "replace")) > MOST_BYTES:
        raise Misconfigured(f"the password is longer than {MOST_BYTES} bytes")
    if not password.isprintable():
        raise Misconfigured("the password holds characters that cannot be typed")


def hash_password(password: str, *, made: bool) -> Credential:
    """Make of a password what is kept of it.

    Args:
        password: At most 72 bytes.
        made: Whether it is of `make_password`, so that guessing is no way to it.

    Returns:
        Its hashes, each with a salt of its own.
    """
    secret = password.encode("utf-8")
    rounds = ROUNDS_OF_MADE if made else ROUNDS_OF_GIVEN
    iterations = ITERATIONS_OF_MADE if made else ITERATIONS_OF_GIVEN
    return Credential(
        mosquitto_hash(secret, secrets.token_bytes(SALT_BYTES), iterations),
        bcrypt.hashpw(secret, bcrypt.gensalt(rounds)).decode("ascii"),
    )


def mosquitto_hash(secret: bytes, salt: bytes, iterations: int = ITERATIONS_OF_MADE) -> str:
    """Hash a password as ``mosquitto_passwd`` does.

    Args:
        secret: The password.
        salt: Random bytes.
        iterations: Of PBKDF2.

    Returns:
        ``$7$ITERATIONS$SALT$HASH``.
    """
    hashed = hashlib.pbkdf2_hmac("sha512", secret, salt, iterations, HASH_BYTES)
    salt_text, hash_text = (base64.b64encode(part).decode("ascii") for part in (salt, hashed))
    return f"$7${iterations}${salt_text}${hash_text}"


def candidates(
    connection: psycopg.Connection[Any], site: str, device: str | None = None
) -> list[Candidate]:
    """Find the devices in service that may be given a password.

    Args:
        connection: An open connection.
        site: Of this site.
        device: Only this one.

    Returns:
        They.

    Raises:
        Misconfigured: There is none.
    """
    rows = connection.execute(
        SQL["devices_to_credential"], {"site": site, "device": device}
    ).fetchall()
    if not rows:
        name = f"{site}/{device} is" if device else f"no device of {site!r} is"
        raise Misconfigured(f"{name} not registered, or retired: see `smartsite devices`")
    return [
        Candidate(id_, site_id, name, user_name(prefix, site_id, kind, name), has_one)
        for id_, prefix, site_id, kind, name, has_one in rows
    ]


def put_password(
    connection: psycopg.Connection[Any], device_id: int, credential: Credential, now: datetime
) -> None:
    """Keep what a device proves itself with; what it had before holds no longer.

    Args:
        connection: An open connection; the caller commits.
        device_id: The registry's number.
        credential: Hashes of its password.
        now: The present time; aware.
    """
    connection.execute(
        SQL["put_credential"], {"device_id": device_id, **credential._asdict(), "now": now}
    )


def remove_password(connection: psycopg.Connection[Any], site: str, device: str) -> bool:
    """Forget what a device proves itself with, retired or not.

    Args:
        connection: An open connection; the caller commits.
        site: Site id.
        device: Device id.

    Returns:
        Whether it had a password.
    """
    cursor = connection.execute(SQL["remove_credential"], {"site": site, "device": device})
    return cursor.rowcount > 0


def device_users(connection: psycopg.Connection[Any]) -> list[User]:
    """List the devices in service that have a password.

    Args:
        connection: An open connection.

    Returns:
        Them as users of the broker.
    """
    return [
        User(user_name(prefix, site, kind, device), Credential(mosquitto, nats))
        for prefix, site, kind, device, mosquitto, nats in connection.execute(SQL["credentials"])
    ]


def require_user_name(name: str) -> None:
    """Refuse a user name that would break a line of the broker's files.

    Args:
        name: The service's, from the settings.

    Raises:
        Misconfigured: It cannot be written.
    """
    if not name or not name.isprintable() or any(char in ":+#%" or char.isspace() for char in name):
        raise Misconfigured(
            f"broker.username {name!r} cannot be written into the broker's files: white space,"
            " ':', '+', '#' and '%' are not for names"
        )


_MADE = "# Written by `smartsite devices acl`; what is changed here is lost. Yours: {local}\n"


def mosquitto_passwords(service: User, devices: Sequence[User], local: str = "") -> str:
    """Write Mosquitto's password file.

    Args:
        service: Who hears everything.
        devices: Who may publish as themselves.
        local: Lines of the operator's own, added as they are.

    Returns:
        The file's text.
    """
    lines = [f"{user.name}:{user.credential.mosquitto}\n" for user in (service, *devices)]
    return "".join(lines) + _lines(local)


def mosquitto_acl(service: str, local: str = "") -> str:
    """Write Mosquitto's ACL. It names no device: each one's user name says where it may publish.

    Args:
        service: User name of the service.
        local: Lines of the operator's own, added as they are.

    Returns:
        The file's text.
    """
    patterns = "".join(f"pattern write %u/{one}\n" for one in _channels("+"))
    # The operator's lines first: behind them they would go on where the service's end.
    own = f"\n{_lines(local)}" if local.strip() else ""
    return f"""{_MADE.format(local="acl.local")}{own}
# Who may say what. What is not allowed here is refused: Mosquitto acknowledges the message (with
# an error code in MQTT 5), drops it and passes nothing on.

# A device's user name is its topic without the channel: site/SITE/KIND/DEVICE, or with a district
# DISTRICT/site/SITE/KIND/DEVICE. So these four lines tie every user to its own site and device,
# and a new device needs a password and nothing here.
# For example site/example-site/dust/dust-1 may publish on site/example-site/dust/dust-1/telemetry,
# and site/example-site/camera/gate on site/example-site/camera/gate/frame/1790000000000.
{patterns}
# The service hears everything and says nothing.
user {service}
topic read #
"""


def nats_users(service: User, devices: Sequence[User]) -> str:
    """Write nats-server's users and what each may do, to be included at the top of its file.

    Args:
        service: Who hears everything.
        devices: Who may publish as themselves.

    Returns:
        The file's text.
    """
    users: list[dict[str, object]] = [
        {
            "user": service.name,
            "password": service.credential.nats,
            "permissions": {"publish": {"deny": [">"]}, "subscribe": {"allow": [">"]}},
        }
    ]
    for device in devices:
        own = nats_subject(device.name)
        users.append(
            {
                "user": device.name,
                "password": device.credential.nats,
                "permissions": {
                    "publish": {"allow": [f"{own}.{one}" for one in _channels("*", ".")]},
                    "subscribe": {"deny": [">"]},
                },
                # Not by nats-server's own protocol, should its port be open to devices.
                "allowed_connection_types": ["MQTT"],
            }
        )
    # JSON is a subset of the language that nats-server reads.
    listed = ",\n".join(f"    {json.dumps(user)}" for user in users)
    made = _MADE.replace(" Yours: {local}", "")
    return f'{made}authorization {{\n  "users": [\n{listed}\n  ]\n}}\n'


def nats_subject(topic: str) -> str:
    """Write a topic of the contract as nats-server's subject.

    Levels are joined by dots there, and a dot within a level is written ``//``
    (nats-server ``server/mqtt.go``, ``mqttToNATSSubjectConversion``).

    Args:
        topic: Without wildcards, no level of it empty.

    Returns:
        The subject.
    """
    return ".".join(level.replace(".", "//") for level in topic.split("/"))


def _channels(anything: str, joint: str = "/") -> list[str]:
    """What a device says, below its name; a picture's topic ends in its time."""
    return [f"{one}{joint}{anything}" if one is Channel.FRAME else str(one) for one in Channel]


def _lines(text: str) -> str:
    return f"{text.rstrip()}\n" if text.strip() else ""
