"""Brings a database to the schema of this code, or back to an older one. Safe when several processes start at once."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, func, select, text

from proxy.log.connect import open_engine, parse_url
from proxy.log.errors import LogUnavailable, SchemaTooNew
from proxy.log.failures import describe, translated

_MIGRATE_LOCK = 0x57EE2002  # any constant: the advisory lock that lets one process migrate at a time
_FOLDER = Path(__file__).with_name("migrations")


def upgrade(engine: Engine) -> None:
    """To the newest schema; does nothing where it is there. Raises LogError, SchemaTooNew among them."""
    config = _config()
    newest = ScriptDirectory.from_config(config).get_current_head()
    with translated(engine.url):
        with engine.connect() as connection:
            if _revision(connection) == newest:
                return
        _migrate(engine, config, "head")


def open_upgraded(url: URL) -> tuple[Engine, Engine]:
    """(reading, writing) of a log at the newest schema; nothing stays open where it can't be. Raises LogError."""
    writing = open_engine(url, writes=True)
    try:
        upgrade(writing)
    except BaseException:
        writing.dispose()
        raise
    return open_engine(url, writes=False), writing


def open_existing(url: str) -> tuple[Engine, Engine]:
    """The same of a log that must be there: a path typed wrong makes no new one. Raises LogError."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise LogUnavailable(f"{describe(parsed)} does not exist: correct the path, or start the proxy first")
    return open_upgraded(parsed)


def downgrade(engine: Engine, revision: str) -> None:
    """To an older schema: "base" empties the database of all that is ours. Raises LogError."""
    with translated(engine.url):
        _migrate(engine, _config(), revision, down=True)


def revision(engine: Engine) -> str | None:
    """The database's schema; None where there is none yet. Raises LogError."""
    with translated(engine.url), engine.connect() as connection:
        return _revision(connection)


def _migrate(engine: Engine, config: Config, target: str, *, down: bool = False) -> None:
    # One transaction around all steps: a SQLite writer engine holds the write lock from its begin on, PostgreSQL needs
    # a lock of our own. Whoever comes second finds the work done.
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL statement_timeout = 0"))  # a migration may take as long as it takes
            connection.execute(select(func.pg_advisory_xact_lock(_MIGRATE_LOCK)))
        config.attributes["connection"] = connection
        try:
            (command.downgrade if down else command.upgrade)(config, target)
        except CommandError as error:
            raise SchemaTooNew(
                f"{describe(engine.url)} has schema {_revision(connection)}, which this version of steer does not "
                "know: install the version that made it, or let that version downgrade it"
            ) from error


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    # Alembic reads % as an interpolation.
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config
