"""What can go wrong between the node and its disk, each with one sentence that tells a person what to do."""

from __future__ import annotations

from pathlib import Path


class StorageFault(Exception):
    """Any trouble with the data directory or the database in it."""


class DataDirectoryInUse(StorageFault):
    """Another process holds the lock: two writers on one channel state would lose money."""

    def __init__(self, directory: Path, process: int | None) -> None:
        self.directory, self.process = directory, process
        who = "another Salama" if process is None else f"another Salama (process {process})"
        super().__init__(f"{directory} is in use by {who}: stop it first or choose another data directory")


class DataDirectoryUnusable(StorageFault):
    """The data directory cannot be created, read or written."""

    def __init__(self, directory: Path, reason: str) -> None:
        self.directory, self.reason = directory, reason
        super().__init__(f"{directory} cannot be used as a data directory: {reason}")


class NewerDatabase(StorageFault):
    """The database was written by a later version; running on it with older code could publish a revoked state."""

    def __init__(self, path: Path, found: int, known: int) -> None:
        self.path, self.found, self.known = path, found, known
        super().__init__(
            f"{path} was written by a newer Salama (schema {found}, this one knows up to {known}): use that version"
        )


class CorruptDatabase(StorageFault):
    """The file is not a database of ours, or SQLite finds it damaged."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"{path} cannot be read as a Salama database ({reason}): do not delete it, restore from a copy"
        )


class CopyAhead(StorageFault):
    """The copy has seen transactions that the database has not: whoever runs on the database publishes what is
    revoked."""

    def __init__(self, path: Path, copied: int, count: int) -> None:
        self.path, self.copied, self.count = path, copied, count
        super().__init__(
            f"the database is older than its copy {path} ({count} transactions, there {copied}): running it could cost"
            " every channel; put the copy in its place"
        )


class CopyUnusable(StorageFault):
    """The place that should hold the database's copy cannot."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(
            f"{path} cannot be the copy of the database: {reason}; change database_copy, or mend the place"
        )


class CorruptRecord(StorageFault):
    """Bytes in the database that cannot be the record they are meant to be."""

    def __init__(self, kind: str, reason: str) -> None:
        self.kind, self.reason = kind, reason
        super().__init__(f"a stored {kind} is damaged: {reason}")


class WriteRefused(StorageFault):
    """These writes contradict what is on disk or cannot be represented: a programming fault of their maker.

    None of them was written; commits of others in the same group were not affected.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the database refused a write: {reason}")


class JournalFailed(StorageFault):
    """The disk did not take a commit. Whether it is on disk is unknown, so nothing may be said and the node must
    stop.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the database cannot be written any more: {reason}; the node has to stop")


class JournalClosed(StorageFault):
    """A commit or a read after ``close``."""

    def __init__(self) -> None:
        super().__init__("the database is closed")
