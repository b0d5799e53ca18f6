"""The log as the settings say: spool, text rules, keys, retention. Raises ConfigError, LogError."""

import importlib
from pathlib import Path

from proxy.errors import ConfigError
from proxy.log.cipher import Cipher, read_keys
from proxy.log.connect import parse_url
from proxy.log.reader import LogReader
from proxy.log.retention import Retention
from proxy.log.spool import SpoolPlace
from proxy.log.store import InterventionLog, LogOptions
from proxy.log.texts import Redact, TextKeeper
from proxy.settings import LogSettings

_MB = 1 << 20


def open_log(settings: LogSettings) -> InterventionLog:
    """For a process that serves."""
    return InterventionLog.open(settings.url, make_options(settings))


def open_reader(settings: LogSettings) -> LogReader:
    """For a command that looks."""
    return LogReader.open(settings.url, make_texts(settings))


def make_options(settings: LogSettings) -> LogOptions:
    """How the process writes."""
    return LogOptions(texts=make_texts(settings), spool=make_spool(settings), retention=make_retention(settings))


def make_texts(settings: LogSettings) -> TextKeeper:
    """What is done with text."""
    given = None if settings.encryption_key is None else settings.encryption_key.get_secret_value()
    keys = read_keys(given, settings.encryption_key_file)
    is_wanted = given is not None or settings.encryption_key_file is not None
    return TextKeeper(
        store=settings.store_text,
        redact=None if settings.redact is None else _hook(settings.redact),
        cipher=Cipher(keys) if is_wanted else None,
    )


def make_spool(settings: LogSettings) -> SpoolPlace:
    """Where records wait while the database is down."""
    folder = settings.spool
    if folder is None:
        url = parse_url(settings.url)
        is_file = url.get_backend_name() == "sqlite"
        folder = Path(f"{url.database}-spool") if is_file else Path("steer-spool")
    return SpoolPlace(folder.absolute(), settings.spool_max_mb * _MB)


def make_retention(settings: LogSettings) -> Retention | None:
    """None where everything is kept."""
    days, text_days, size = settings.keep_days, settings.keep_text_days, settings.keep_text_mb
    if days is None and text_days is None and size is None:
        return None
    return Retention(days, text_days, None if size is None else size * _MB)


def _hook(name: str) -> Redact:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"log.redact: {name} can't be imported ({error}); write module:function") from error
    if not callable(found):
        raise ConfigError(f"log.redact: {name} is no function")
    redact: Redact = found
    return redact
