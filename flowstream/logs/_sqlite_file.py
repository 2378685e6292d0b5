"""The file of a log: its schema, and the connections to it.

One row of `log` is for all topics. A topic's row has its head and its epochs, and outlives its
events. Events of all topics have one order, `pos`, which is the order of commits: a transaction
takes the write lock before it does anything, and ``autoincrement`` numbers without a hole. An event
without a number says that something else about its topic has changed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from typing import Literal
from urllib.parse import quote

from flowstream._errors import LogUnavailableError
from flowstream.ids._event_id import new_epoch
from flowstream.logs._file_system import magic_number, warning, why_refused
from flowstream.logs._log_clock import LogClock
from flowstream.logs._sqlite_faults import fault

logger = logging.getLogger("flowstream")

Synchronous = Literal["FULL", "NORMAL"]

# The schema's version. A file of a later one is refused.
_VERSION = 1
# "fslg", in the file's header.
_APPLICATION_ID = 0x66736C67
# Pages of the WAL that are copied into the file at once. More make commits steadier.
_CHECKPOINT_PAGES = 4000
# Bytes of the WAL that are kept behind a burst.
_WAL_BYTES = 64 << 20
# Seconds that opening waits for another process that makes or recovers the file.
_OPEN_SECONDS = 5.0

_SCHEMA = """
create table log(
  one integer primary key check (one = 1),
  epoch text not null,       -- of topics that were never appended to
  life integer not null,     -- counts how often the log may have lost something
  unsynced text not null,    -- the boot in which commits were not flushed, or ''
  boot text not null,        -- the boot that anchor is for
  anchor real not null       -- the log's time less the seconds since that boot
);
create table topic(
  id integer primary key autoincrement,
  name text not null unique,
  epochs text not null,
  life integer not null,
  head integer not null,     -- number of the newest event
  floor integer not null,    -- number of the oldest that items and bytes keep
  size integer not null,     -- bytes of the events from floor on
  items integer not null, seconds real not null, bytes integer not null,
  touched real not null,     -- when it was last appended to
  deleted integer not null,
  due real not null          -- when to look what has expired
);
create index topic_due on topic(due);
create table event(
  pos integer primary key autoincrement,
  topic integer not null,
  number integer,
  at real not null,
  data blob
);
create unique index event_number on event(topic, number);
create index event_notice on event(at) where number is null;
create table token(
  topic integer not null, token text not null, number integer not null, result text not null,
  primary key(topic, token)
) without rowid;
create table key(
  topic integer not null, key text not null, until real not null,
  epoch text not null, number integer not null,
  primary key(topic, key)
) without rowid;
create index key_until on key(until);
create table latest(
  topic integer not null, key text not null,
  epoch text not null, number integer not null, at real not null, data blob not null,
  primary key(topic, key)
) without rowid;
create index latest_number on latest(topic, number);
"""

# What a later release has added. One that does not know it leaves it alone, so the version stays.
_ADDED = """
create table if not exists lease(
  topic text primary key,    -- its name, which may have no row in topic
  owner text not null,
  token integer not null,
  until real not null,       -- when it lapses
  ended integer not null,
  gone real not null         -- when it is forgotten, with the topic
) without rowid;
create index if not exists lease_gone on lease(gone);
create table if not exists fence(
  one integer primary key check (one = 1),
  token integer not null     -- the last fencing token
);
insert or ignore into fence select 1, 0 where not exists(select 1 from fence)
"""
_HAS_ADDED = "select count(*) from sqlite_master where name in ('lease', 'lease_gone', 'fence')"


class SQLiteFile:
    """A log's file. Its methods are called in threads.

    Args:
        path: where it is.
        synchronous: whether each commit is flushed to the disk.
        clock: the log's clocks.

    Attributes:
        path, synchronous, clock: as above.
    """

    def __init__(self, path: str, synchronous: Synchronous, clock: LogClock) -> None:
        self.path = path
        self.synchronous = synchronous
        self.clock = clock

    def prepare(self) -> None:
        """Check where the file is, and make what is missing.

        Raises:
            LogUnavailableError: a log can't be kept there; the message says why.
        """
        folder = os.path.dirname(os.path.abspath(self.path))
        try:
            magic = magic_number(folder)
        except OSError as error:
            raise LogUnavailableError(
                f"there is no folder {folder} that user {os.geteuid()} can use: make it"
            ) from error
        if kind := why_refused(magic):
            raise LogUnavailableError(
                f"{self.path} is on a network file system ({kind}), where SQLite's locks don't "
                "hold: put it on a disk of this machine"
            )
        # SQLite would find out now or at the first append: that depends on which files lie there.
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            raise LogUnavailableError(
                f"{self.path} can't be written: its disk is read-only. Mount it for writing; if it "
                "was, the kernel's log says why it is not any more"
            )
        if about := warning(magic):
            logger.warning("the log %s is on %s", self.path, about)
        try:
            db = self._open(_OPEN_SECONDS, "rwc")
            try:
                check_kind(self.path, db)  # before anything is changed
                self._set_up(db)
                self._make_schema(db)
                self._add_tables(db)
            finally:
                db.close()
        except sqlite3.Error as error:
            raise fault(self.path, error) from error

    def connect(self, timeout: float = 0.0) -> sqlite3.Connection:
        """Return a connection that may be used in any thread, by one at a time.

        Raises:
            sqlite3.Error: it can't be opened.
            LogUnavailableError: another file has been put in its place.
        """
        db = self._open(timeout, "rw")
        try:
            if not check_kind(self.path, db):
                raise LogUnavailableError(
                    f"{self.path} was replaced by an empty file while it is in use: put it back, "
                    "or start the app again to begin with an empty log"
                )
            self._set_up(db)
            self._add_tables(db)
        except BaseException:
            db.close()
            raise
        return db

    def _open(self, timeout: float, mode: Literal["rw", "rwc"]) -> sqlite3.Connection:
        # The mode, and no further parameters, whatever characters the path has.
        uri = f"file:{quote(os.path.abspath(self.path))}?mode={mode}"
        return sqlite3.connect(
            uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False
        )

    def _set_up(self, db: sqlite3.Connection) -> None:
        db.execute("pragma journal_mode=wal")
        db.execute(f"pragma synchronous={self.synchronous}")
        db.execute(f"pragma wal_autocheckpoint={_CHECKPOINT_PAGES}")
        db.execute(f"pragma journal_size_limit={_WAL_BYTES}")

    def identity(self) -> tuple[int, int]:
        """Return what tells the file from one that is put in its place.

        Raises:
            LogUnavailableError: it is gone.
        """
        try:
            found = os.stat(self.path)
        except OSError as error:
            raise LogUnavailableError(
                f"{self.path} was moved or deleted while it is in use: put it back"
            ) from error
        return found.st_dev, found.st_ino

    def _make_schema(self, db: sqlite3.Connection) -> None:
        db.execute("begin immediate")
        try:
            if not check_kind(self.path, db):
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"pragma application_id={_APPLICATION_ID}")
                db.execute(f"pragma user_version={_VERSION}")
                clock = self.clock
                db.execute(
                    "insert into log values(1, ?, 1, '', ?, ?)",
                    (new_epoch(), clock.boot, clock.anchor(0.0)),
                )
            db.execute("commit")
        except BaseException:
            if db.in_transaction:
                db.execute("rollback")
            raise

    def _add_tables(self, db: sqlite3.Connection) -> None:
        """Add what a file of an earlier release does not have."""
        (known,) = db.execute(_HAS_ADDED).fetchone()
        if known == 3:
            return
        db.execute("begin immediate")
        try:
            for statement in _ADDED.split(";"):
                db.execute(statement)
            db.execute("commit")
        except BaseException:
            if db.in_transaction:
                db.execute("rollback")
            raise


def check_kind(path: str, db: sqlite3.Connection) -> bool:
    """Return whether the file is a log; false if it is empty.

    Raises:
        LogUnavailableError: it is something else, or of a later release.
    """
    (version,) = db.execute("pragma user_version").fetchone()
    (tables,) = db.execute("select count(*) from sqlite_master").fetchone()
    (application,) = db.execute("pragma application_id").fetchone()
    if tables and application != _APPLICATION_ID:
        raise LogUnavailableError(
            f"{path} is another program's SQLite database: name a file of its own for the log"
        )
    if version > _VERSION:
        raise LogUnavailableError(
            f"{path} was made by a later release of flowstream (version {version} of the file, "
            f"this one reads {_VERSION}): install that release"
        )
    return bool(tables)
