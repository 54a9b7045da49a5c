"""`smartsite devices passwd` and `acl`: passwords, and the files a broker checks them by."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import psycopg
import typer

from ingest.credentials import (
    MOST_BYTES,
    Candidate,
    User,
    candidates,
    device_users,
    hash_password,
    make_password,
    mosquitto_acl,
    mosquitto_passwords,
    nats_users,
    put_password,
    remove_password,
    require_usable,
    require_user_name,
)
from ingest.store.migrate import require_latest
from smartsite.commands.common import ConfigOption, JsonOption, print_json, say, site_and_device
from smartsite.embedded.folders import sync_folder
from smartsite.errors import Misconfigured
from smartsite.services import EMBEDDED, database
from smartsite.settings import Settings, load_settings, resolve_secret

NEXT = "the broker knows of it after `smartsite devices acl`"


class Broker(StrEnum):
    """Whose files are written."""

    MOSQUITTO = "mosquitto"
    NATS = "nats"


RELOAD = {
    Broker.MOSQUITTO: "kill -HUP its process, or docker compose kill --signal HUP mosquitto",
    Broker.NATS: "nats-server --signal reload",
}


def passwd(
    name: Annotated[
        str | None, typer.Argument(metavar="[SITE/DEVICE]", help="Whose.", show_default=False)
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Take the password from standard input, one line.")
    ] = False,
    revoke: Annotated[
        bool, typer.Option("--revoke", help="Forget its password: it may connect no more.")
    ] = False,
    all_of: Annotated[
        str | None, typer.Option(metavar="SITE", help="Every device of a site that has none yet.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="With --all-of: a new file for the passwords.")
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="With --all-of: those that have one, too.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a device a password at the broker; it is shown once, only hashes are kept.

    What it had before holds until the broker's files are written anew (`smartsite devices acl`).
    """
    if (name is None) == (all_of is None):
        raise Misconfigured("name a device as SITE/DEVICE, or a site by --all-of")
    if (all_of is None) != (csv_file is None):
        raise Misconfigured("--all-of and --csv go together")
    if (renew and all_of is None) or (all_of is not None and (stdin or revoke)):
        raise Misconfigured("--renew goes with --all-of; --stdin and --revoke with one device")
    settings = load_settings(config)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        if all_of is not None and csv_file is not None:
            found = [one for one in candidates(connection, all_of) if renew or not one.has_password]
            _give_many(connection, found, csv_file)
            say(f"{len(found)} passwords in {csv_file}, readable by you alone; {NEXT}")
            return
        site, device = site_and_device(name or "")
        if revoke:
            had = remove_password(connection, site, device)
            say(f"{name} had {'a' if had else 'no'} password; {NEXT}")
            return
        (one,) = candidates(connection, site, device)
        if stdin:
            password = sys.stdin.readline().rstrip("\r\n")
            require_usable(password)
        else:
            password = make_password()
        credential = hash_password(password, made=not stdin)
        put_password(connection, one.id, credential, datetime.now(UTC))
        connection.commit()
    if as_json:
        print_json({"user": one.user, **({} if stdin else {"password": password})})
        return
    if not stdin:
        print(password)
    say(f"its user name is {one.user}; {NEXT}")


def _give_many(
    connection: psycopg.Connection[object], found: Sequence[Candidate], file: Path
) -> None:
    """Give passwords and write them down, both or neither."""
    made = [(one, make_password()) for one in found]
    for one, password in made:
        put_password(connection, one.id, hash_password(password, made=True), datetime.now(UTC))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("site", "device", "user", "password"))
    writer.writerows((one.site, one.device, one.user, password) for one, password in made)
    with _new_file(file) as stream:
        stream.write(text.getvalue())
        stream.flush()
        os.fsync(stream.fileno())
        connection.commit()


@contextlib.contextmanager
def _new_file(file: Path) -> Iterator[io.TextIOWrapper]:
    """Make a file that only we can read; it is gone again if what it is for fails."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as fault:
        raise Misconfigured(f"--csv {file}: {fault.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            yield stream
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def acl(
    folder: Annotated[Path, typer.Argument(help="Where to; the broker reads it there.")],
    broker: Annotated[Broker, typer.Option(help="Whose files.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the broker's password and ACL files from the registry.

    Every device with a password may publish as itself and nowhere else, and subscribe to
    nothing; who is retired or revoked is left out. The service's own user, `broker.username` with
    the password that `broker.password` refers to, may hear everything.
    """
    settings = load_settings(config)
    service = _service(settings)
    with database(settings) as url, psycopg.connect(url) as connection:
        require_latest(connection)
        users = device_users(connection)
    if broker is Broker.MOSQUITTO:
        files = {
            "passwords": mosquitto_passwords(service, users, _local(folder, "passwords.local")),
            "acl": mosquitto_acl(service.name, _local(folder, "acl.local")),
        }
    else:
        files = {"users.conf": nats_users(service, users)}
    written = [folder / name for name in files]
    for path, text in zip(written, files.values(), strict=True):
        replace_file(path, text)
    if as_json:
        print_json({"devices": len(users), "files": [str(path) for path in written]})
        return
    say(f"{len(users)} devices and {service.name!r} in {' and '.join(map(str, written))}")
    say(f"now the broker has to read it: {RELOAD[broker]}")


def _service(settings: Settings) -> User:
    terms = settings.broker
    if terms.url == EMBEDDED:
        raise Misconfigured(
            "broker.url is embedded, and that broker takes whoever is on this machine: name yours"
        )
    if terms.username is None or terms.password is None:
        raise Misconfigured(
            "broker.username and broker.password are needed: without a user the service itself"
            " would be shut out"
        )
    require_user_name(terms.username)
    password = resolve_secret(terms.password, "broker.password")
    if len(password.encode("utf-8", "replace")) > MOST_BYTES:
        raise Misconfigured(f"broker.password is longer than the {MOST_BYTES} bytes bcrypt reads")
    # Made or given: nobody can tell, and it is one user only.
    return User(terms.username, hash_password(password, made=False))


def _local(folder: Path, name: str) -> str:
    """Lines of the operator's own."""
    file = folder / name
    try:
        return file.read_text("utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as fault:
        raise Misconfigured(f"{file} cannot be read: {fault}") from None


def replace_file(path: Path, text: str) -> None:
    """Replace a file at once, durably, readable by its owner and group (mode 0640).

    Args:
        path: The file.
        text: What is to be in it.

    Raises:
        Misconfigured: The folder is not there, or not ours to write to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o640)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as fault:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise Misconfigured(f"{path} cannot be written: {fault.strerror}") from None
