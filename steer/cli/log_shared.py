"""What the commands of `steer log` share: the settings, and who may run them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli.common import fail, given

if TYPE_CHECKING:
    from proxy.access.identity import Identity
    from proxy.settings import Settings

LogUrl = Annotated[str | None, typer.Option("--log", help="URL of the intervention log; default: as in the settings")]


@contextmanager
def settings_for(command: str, config: Path | None, log_url: str | None) -> Iterator["Settings"]:
    """The settings, once it is known that one may; failures end the command with their message."""
    with admitted(command, config, log_url) as (settings, _):
        yield settings


@contextmanager
def admitted(command: str, config: Path | None, log_url: str | None) -> Iterator[tuple["Settings", "Identity"]]:
    """The same, with who runs the command."""
    from detector.errors import DetectorError
    from proxy.access.command import admit
    from proxy.access.errors import AccessError
    from proxy.errors import ConfigError
    from proxy.log.errors import KeyUnusable, LogError, LogUrlError
    from proxy.settings import load_settings

    try:
        settings = load_settings(config, {"log": given(url=log_url)})
        yield settings, admit(command, settings)
    except (ConfigError, LogUrlError, KeyUnusable) as error:
        fail(error, 2)
    except (AccessError, LogError, DetectorError, OSError, ValueError) as error:
        fail(error)
