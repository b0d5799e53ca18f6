"""The one table of who may do what: every HTTP route and every command, each with the roles it takes.

Rules
- A route that is not here can't be reached: the gate answers 404 before the application is asked.
- A command that is not here fails a test; one with roles begins with `proxy.access.command.admit`.
- No role holds another, except that `admin` may do everything. A key has one role.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from starlette.routing import compile_path


class Role(StrEnum):
    """What a key is for."""

    CLIENT = "client"  # an application: asks the model
    REVIEWER = "reviewer"  # a person who reads interventions and decides about them
    OPERATOR = "operator"  # runs the service: figures, the log's upkeep, adapters; reads no text through the API
    ADMIN = "admin"  # hands out keys, and may do all the others may


# Who is let in. None: everybody, no key is looked at.
Allowed = frozenset[Role] | None

OPEN: Allowed = None
CLIENTS: Allowed = frozenset({Role.CLIENT, Role.ADMIN})
REVIEWERS: Allowed = frozenset({Role.REVIEWER, Role.ADMIN})
OPERATORS: Allowed = frozenset({Role.OPERATOR, Role.ADMIN})
STAFF: Allowed = frozenset({Role.REVIEWER, Role.OPERATOR, Role.ADMIN})
ADMINS: Allowed = frozenset({Role.ADMIN})


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path. `path` as Starlette writes it: `/steer/v1/things/{id}`; GET answers HEAD too.

    `is_limited`: the rates and the concurrency of key and tenant apply. `has_own_token`: the page also takes a token of
    its own and decides itself about callers who show no key.
    """

    method: str
    path: str
    allowed: Allowed
    is_limited: bool = False
    has_own_token: bool = False


ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/chat/completions", CLIENTS, is_limited=True),
    Route("GET", "/v1/models", CLIENTS, is_limited=True),
    Route("GET", "/healthz", OPEN),
    Route("GET", "/readyz", OPEN),
    Route("GET", "/metrics", OPERATORS, has_own_token=True),
    Route("GET", "/steer/v1/review/queue", STAFF),
    Route("GET", "/steer/v1/review/items/{id}", REVIEWERS),
    Route("POST", "/steer/v1/review/items/{id}", STAFF),  # an operator settles disputes, and nothing else
    Route("GET", "/steer/v1/review/agreement", STAFF),
    Route("GET", "/steer/v1/review/audit", OPERATORS),
    Route("GET", "/steer/v1/review/triggers", STAFF),
    Route("POST", "/steer/v1/review/triggers/{id}", OPERATORS),
    Route("GET", "/steer/v1/review/misses", REVIEWERS),
    Route("GET", "/steer/v1/review/unjudged", REVIEWERS),
    Route("POST", "/steer/v1/review/verdicts", STAFF),
    Route("GET", "/steer/v1/triggers", STAFF),
    Route("POST", "/steer/v1/triggers", STAFF),  # proposes; nobody's word is used before an operator approved it
    Route("GET", "/steer/v1/triggers/{id}", STAFF),
    Route("POST", "/steer/v1/triggers/{id}", OPERATORS),
    Route("GET", "/steer/v1/adapters/{id}", STAFF),
    Route("POST", "/steer/v1/adapters/{id}/shadow", OPERATORS),
    Route("GET", "/steer/v1/trigger-snapshot", STAFF),
    Route("POST", "/steer/v1/trigger-snapshot", OPERATORS),
)

# By what is typed after `steer`; a group stands for its commands that have no line. OPEN: the command only touches what
# its user owns anyway (files, processes).
COMMANDS: dict[str, Allowed] = {
    "serve": OPEN,
    "demo": OPEN,
    "detect": OPEN,
    "train": OPEN,
    "csr": OPEN,
    "eval": OPEN,
    "bake": OPERATORS,
    "adapters list": STAFF,
    "adapters show": STAFF,
    "adapters": OPERATORS,
    "adapters merge": OPEN,
    "adapters gate": OPEN,
    "keys create": ADMINS,
    "keys list": ADMINS,
    "keys revoke": ADMINS,
    "keys rotate": ADMINS,
    "tenants create": ADMINS,
    "tenants list": OPERATORS,
    "tenants set": ADMINS,
    "review": REVIEWERS,
    "review list": STAFF,
    "review show": REVIEWERS,
    "review decide": STAFF,
    "review agreement": STAFF,
    "review audit": OPERATORS,
    "review triggers": STAFF,
    "review settle": OPERATORS,
    "review unjudged": STAFF,
    "review import": STAFF,
    "review misses": STAFF,
    "review judge": STAFF,
    "triggers": OPERATORS,
    "triggers list": STAFF,
    "triggers show": STAFF,
    "triggers propose": STAFF,
    "triggers snapshot": STAFF,
    "triggers judge": STAFF,
    "log stats": STAFF,
    "log export": OPERATORS,
    "log import": OPERATORS,
    "log purge": OPERATORS,
    "log verify": OPERATORS,
    "log backup": OPERATORS,
    "log rekey": OPERATORS,
    "log new-key": OPEN,
}


def allowed_to_run(command: str) -> Allowed:
    """Who may run `steer <command>`. A KeyError means that it is missing in the table: a bug."""
    return COMMANDS[command] if command in COMMANDS else COMMANDS[command.partition(" ")[0]]


class RouteTable:
    """Routes by path and method, patterns compiled once."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._by_path.setdefault(route.path, {})[route.method] = route
        self._patterns = [(compile_path(path)[0], path) for path in self._by_path if "{" in path]

    @property
    def served(self) -> str:
        """The paths, for people."""
        return ", ".join(self._by_path)

    def label(self, path: str) -> str:
        """A bounded name of the path for metrics: its row's, or "other"."""
        return next((route.path for route in self.at(path).values()), "other")

    def at(self, path: str) -> dict[str, Route]:
        """The routes of a path by method; empty: there is no such path. An exact path wins over a pattern."""
        found = path if path in self._by_path and "{" not in path else None
        found = found or next((own for pattern, own in self._patterns if pattern.match(path)), None)
        return {} if found is None else self._by_path[found]

    def find(self, method: str, path: str) -> Route | None:
        """The route that answers; None: there is none."""
        return self.at(path).get("GET" if method == "HEAD" else method)
