"""What can go wrong with the intervention log. Every message says what to do; none holds a word of user text.

LogError
├── LogUrlError             the URL names no usable database
├── LogUnavailable          the database can't be opened, reached or written, now
│   ├── LogReadOnly         a folder, file or server that doesn't take writes
│   ├── LogFull             no space left
│   ├── LogLocked           another program holds the database
│   └── SpoolFailed         nor does the spool take the record while the database is down
├── LogDamaged              the file is no database, or a broken one
├── SchemaTooNew            written by a newer version of steer
├── LogOverloaded           writes arrive faster than the database takes them
├── LogClosed               used after close()
├── RecordRejected          the database refuses this one record
├── TextLocked              text is encrypted with a key that is not here
├── KeyUnusable             an encryption key, or the library for it, can't be used
├── ExportError             a format that can't be written here
├── ImportFailed            a file that holds no records; the message names the line
└── UnknownIntervention     no record has this id
"""


class LogError(Exception):
    """The intervention log failed. The message names the log and the fix."""


class LogUrlError(LogError):
    """The log's URL can't be used."""


class LogUnavailable(LogError):
    """The database can't be opened, reached or written. It may be back later; nothing was half-written."""


class LogReadOnly(LogUnavailable):
    """The database, its folder or its server takes no writes."""


class LogFull(LogUnavailable):
    """No space left for the database."""


class LogLocked(LogUnavailable):
    """Another program holds the database for longer than the log waits."""


class SpoolFailed(LogUnavailable):
    """The database is down and the spool takes no record either: it is full, or its disk is."""


class LogDamaged(LogError):
    """The file is not a database, or its content is broken."""


class SchemaTooNew(LogError):
    """The database was migrated by a newer version of steer."""


class LogOverloaded(LogError):
    """More writes are waiting than the log is willing to hold in memory."""


class LogClosed(LogError):
    """The log was used after close()."""


class RecordRejected(LogError):
    """The database refuses this record; others are not affected."""


class TextLocked(LogError):
    """The text is encrypted, and its key is not among the given ones."""


class KeyUnusable(LogError):
    """An encryption key is none, can't be read, or the library that uses it is missing."""


class ExportError(LogError):
    """The format can't be written here."""


class ImportFailed(LogError):
    """A line of the file is no record of this version."""


class UnknownIntervention(LogError):
    """No record has this id."""
