"""Which hosts and requests are of this machine alone."""

import ipaddress
from urllib.parse import urlsplit

from starlette.types import Scope

# What reverse proxies add: the request is somebody else's, whoever hands it over.
_FORWARDED = (
    *(b"x-forwarded-", b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip"),
    *(b"x-original-forwarded-for", b"x-envoy-external-address"),
)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(scope: Scope) -> str:
    """The name that the request calls its host by, without the port."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return (host if host.endswith("]") else host.rsplit(":", 1)[0]).strip("[]")


def address_of(scope: Scope) -> str:
    """Where the request comes from."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def is_of_this_machine(scope: Scope) -> bool:
    """Sent from here, to here by name, and on nobody else's behalf.

    A reverse proxy makes every caller a neighbour; a web page can have a browser call this machine, by its own name or
    by one that was made to lead here.
    """
    # nginx, unless told otherwise, adds no header and calls us by our own name, but speaks an old version.
    is_forwarded = scope.get("http_version") == "1.0"
    is_forwarded |= any(name.startswith(_FORWARDED) for name, _ in scope["headers"])
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    is_foreign = any(not is_loopback(_host_in(origin)) for origin in origins)
    is_called_here = is_loopback(address_of(scope)) and is_loopback(host_of(scope))
    return is_called_here and not is_forwarded and not is_foreign


def _host_in(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # no URL at all
        return ""
