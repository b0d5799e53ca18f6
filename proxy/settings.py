"""Every setting of the proxy, in one place: a TOML file, then `STEER_…` environment variables, then the command line.

Nested settings are sections in TOML and double underscores in the environment (`STEER_UPSTREAM__URL`). An unknown name
is an error, so that a misspelt safety setting can't be ignored.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from proxy.errors import ConfigError
from steer.categories import Categories
from steer.policy import DEFAULT_REFUSAL, Mode, OnFailure, Scope
from steer.segmenter import DEFAULT_MAX_SEGMENT_CHARS
from steer.triggers import Trigger

StoreText = Literal["full", "interventions", "none"]

# Workers are fresh processes: they read the parent's resolved settings from this variable.
SETTINGS_VARIABLE = "STEER_RESOLVED_SETTINGS"


# What people who choose a secret themselves must at least do: 16 hex digits of a random source are 64 bits.
MIN_TOKEN_CHARS = 16
_MIN_DIFFERENT_CHARS = 8

_PASSWORD = re.compile(r"(://[^:/@]*:)[^@]*(@)")


class _Section(BaseModel):
    # A value that is refused may be a secret: messages name the setting alone.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class ServerSettings(_Section):
    """Where the proxy listens."""

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback only with allow_remote")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0 picks a free one")
    allow_remote: bool = Field(False, description="listen beyond loopback; needs a key, or access.required = never")
    workers: int = Field(1, ge=1, le=64, description="processes, each with a detector of its own")
    max_body_bytes: int = Field(8 << 20, ge=1024, description="largest request body, bytes")


class UpstreamSettings(_Section):
    """The engine behind the proxy."""

    url: str = Field("http://127.0.0.1:8000", description="base URL of the engine, without /v1")
    api_key: SecretStr | None = Field(None, description="key for the engine; unset: the client's own is passed on")
    tokenizer: str | None = Field(None, description="tokenizer.json, folder or hub name; unset: ask the engine")
    connect_timeout_s: float = Field(10.0, gt=0, description="seconds to connect")
    read_timeout_s: float = Field(300.0, gt=0, description="longest silence of the engine, seconds")
    max_connections: int = Field(1024, ge=1, description="connections to the engine per process")
    think_start: str = Field("<think>", min_length=1, description="marker that opens reasoning")
    think_end: str = Field("</think>", min_length=1, description="marker that closes reasoning")

    @model_validator(mode="after")
    def _check_url(self) -> Self:
        if "@" in self.url:
            raise ValueError("url must hold no user and no password, since messages name it: use upstream.api_key")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url must begin with http:// or https://, not {self.url!r}")
        if self.url.rstrip("/").endswith("/v1"):
            raise ValueError("url must be given without /v1: the proxy adds the paths itself")
        return self


class PolicySettings(_Section):
    """What is done about a cue."""

    mode: Mode = Field("hold", description="hold: show after the verdict; tap: show, then cut; monitor: only record")
    scope: Scope = Field("reasoning", description="what is watched; `all` adds the answer")
    threshold: float | None = Field(None, ge=0, le=1, description="cue score; unset: the artifact's own threshold")
    operating_point: str | None = Field(
        None, min_length=1, description="instead of a threshold: strict, balanced or lenient, as the artifact has them"
    )
    max_interventions: int = Field(5, ge=0, le=32, description="interventions per request, then a refusal")
    on_failure: OnFailure = Field("fail_closed", description="detector or log failure: refuse, or pass")
    max_segment_chars: int = Field(DEFAULT_MAX_SEGMENT_CHARS, ge=8, le=4096, description="longest segment")
    refusal: str = Field(DEFAULT_REFUSAL, min_length=1, max_length=2000, description="answer of a refused request")
    triggers: tuple[Trigger, ...] = Field((), description="trigger pool; empty: the built-in one")
    reveal_rejected: bool = Field(False, description="show cut text to clients that ask; for demonstrations only")

    @model_validator(mode="after")
    def _check_threshold(self) -> Self:
        if self.threshold is not None and self.operating_point is not None:
            raise ValueError("set threshold or operating_point, not both")
        return self


class DetectorSettings(_Section):
    """The cue classifier."""

    artifact: Path | None = Field(None, description="artifact folder; unset: the one that ships")
    workers: int = Field(1, ge=1, le=64, description="scoring threads per process")
    max_pending: int = Field(256, ge=1, description="segments waiting for a verdict before new ones are refused")


class LogSettings(_Section):
    """The intervention log."""

    url: str = Field("sqlite:///steer.sqlite", description="SQLAlchemy URL: sqlite:///file or postgresql+psycopg://…")
    spool: Path | None = Field(
        None,
        description="folder for records while the database is down; unset: beside a SQLite file, else ./steer-spool",
    )
    spool_max_mb: int = Field(512, ge=1, description="largest spool of a process; beyond it on_failure decides")
    store_text: StoreText = Field(
        "full", description="full; interventions: nothing of unhalted traffic; none: ids, scores and timings only"
    )
    redact: str | None = Field(
        None, pattern=r"^[\w.]+:\w+$", description="module:function from text to text, before anything is written"
    )
    encryption_key: SecretStr | None = Field(
        None, description="encrypts texts at rest; several by comma: the first encrypts, all decrypt"
    )
    encryption_key_file: Path | None = Field(None, description="the same from a file, one key a line")
    keep_days: float | None = Field(None, gt=0, description="age at which records are deleted; unset: never")
    keep_text_days: float | None = Field(None, gt=0, description="age at which their text is; unset: never")
    keep_text_mb: int | None = Field(
        None, ge=1, description="size of all texts beyond which the oldest records are deleted; unset: no bound"
    )


class AccessSettings(_Section):
    """Who may call, and how much. Keys and tenants are in the log's database: docs/access.md."""

    required: Literal["auto", "always", "never"] = Field(
        "auto",
        description="ask for keys; auto: beyond loopback, and on it once one was made; never: something in front does",
    )
    offline_s: float = Field(
        600.0, ge=0, description="known keys go on for so long while the database can't be asked, seconds"
    )
    failures_per_minute: int = Field(30, ge=1, description="wrong keys per address, then 429")
    requests_per_minute: int | None = Field(
        None, ge=1, description="of a tenant without a limit of its own, per process; unset: no limit"
    )
    tokens_per_minute: int | None = Field(None, ge=1, description="likewise, prompt and generated tokens")
    max_concurrent: int | None = Field(None, ge=1, description="likewise, requests at a time")


class MetricsSettings(_Section):
    """Figures for Prometheus, at `/metrics`."""

    enabled: bool = Field(True, description="serve /metrics on the proxy's own port")
    token: SecretStr | None = Field(
        None, description="bearer token of /metrics, 16 characters or more; an operator's key does as well"
    )
    drift_reference: str = Field(
        "ordinary",
        min_length=1,
        description="what live scores are compared with: ordinary, all, or a file of `steer detect --drift`",
    )
    drift_window_traces: int = Field(
        500, ge=50, description="traces between two statements about drift, per process; a day at most"
    )

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and is_weak(token.get_secret_value()):
            raise ValueError(
                f"too weak: {MIN_TOKEN_CHARS} random characters or more, e.g. of `openssl rand -hex 16` (or leave it "
                "out, and give the scraper an operator's key)"
            )
        return token


class AdapterSettings(_Section):
    """Adapters in service: docs/bake.md."""

    engines: tuple[str, ...] = Field(
        (),
        description="base URLs of all engines behind a balancer, which must all hold the adapters; empty: upstream.url",
    )
    refresh_s: float = Field(2.0, gt=0, le=5, description="seconds between two looks at routes and engines")
    drain_timeout_s: float = Field(
        3600.0, ge=0, description="seconds after which an adapter is unloaded even under a stream"
    )
    first_look: int = Field(
        16, ge=4, description="conversations of a candidate before it is compared with the champion"
    )
    false_alarms: float = Field(
        0.01, gt=0, lt=1, description="chance that a candidate that is no worse is rolled back, over a whole canary"
    )
    client: Literal["key", "user", "conversation"] = Field(
        "key",
        description="who is one client, none of whom decides alone: a key; a key's `user`; or nobody is told apart",
    )
    shadow_copies: int = Field(2, ge=1, le=64, description="copies for a version in shadow at a time, per process")
    shadow_queue: int = Field(16, ge=0, le=1024, description="copies that wait; beyond, they are dropped and counted")


class TriggerSettings(_Section):
    """Which triggers are drawn, learned from the log: docs/triggers.md."""

    adaptive: bool = Field(False, description="draw by recorded success for each harm category; off: policy.triggers")
    explore_floor: float = Field(
        0.02, gt=0, le=0.25, description="least share of every approved trigger in each category"
    )
    half_life_days: float = Field(14.0, ge=0.5, le=365, description="age at which evidence counts half")
    tenant_daily: float = Field(
        10.0, gt=0, description="observations of a tenant that count a day, for each category and trigger"
    )
    tenant_total: float = Field(100.0, gt=0, description="the same over all days")
    tenant_lead: float = Field(
        1.0, ge=1, description="times the next one's evidence that a tenant's may count, where several are heard"
    )
    refresh_minutes: float = Field(15.0, gt=0, description="minutes between two selection tables, of all proxies")
    refresh_s: float = Field(2.0, gt=0, le=5, description="seconds between two looks for a newer table")
    categories: dict[str, tuple[str, ...]] = Field(
        {}, description="words by harm category, compared as beginnings of words; empty: the built-in lists"
    )

    @field_validator("categories")
    @classmethod
    def _check_categories(cls, categories: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        Categories(categories)
        return categories


class ReviewSettings(_Section):
    """Reviewers' decisions, and samples of traffic that nothing halted: docs/review.md."""

    reviewers: int = Field(1, ge=1, le=5, description="reviewers who must agree before a record is marked")
    sample_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of requests kept whole, to be judged for misses; wants store_text = full",
    )
    sample_per_hour: int = Field(200, ge=1, description="samples an hour, at most, per process")
    sample_max_chars: int = Field(
        200_000, ge=1000, description="longest reasoning and answer of a sample; longer ones are left out"
    )
    sample_keep_days: float = Field(30.0, gt=0, description="age at which samples go in which nothing was found")


class LimitSettings(_Section):
    """What one request may ask for."""

    max_n: int = Field(16, ge=1, le=128, description="choices per request")
    max_tokens: int | None = Field(None, ge=1, description="cap on max_tokens; unset: the engine's own")
    extra_fields: tuple[str, ...] = Field((), description="request fields to pass on beyond the allow-list")


class Settings(BaseSettings):
    """All sections. Precedence: command line, environment, TOML file, defaults."""

    model_config = SettingsConfigDict(
        env_prefix="STEER_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        nested_model_default_partial_update=True,
    )

    server: ServerSettings = ServerSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    policy: PolicySettings = PolicySettings()
    detector: DetectorSettings = DetectorSettings()
    log: LogSettings = LogSettings()
    limits: LimitSettings = LimitSettings()
    access: AccessSettings = AccessSettings()
    metrics: MetricsSettings = MetricsSettings()
    adapters: AdapterSettings = AdapterSettings()
    review: ReviewSettings = ReviewSettings()
    triggers: TriggerSettings = TriggerSettings()
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much is logged")

    def shown(self) -> str:
        """The settings as JSON for people: keys and the database's password masked."""
        log = self.log.model_copy(update={"url": _PASSWORD.sub(r"\1***\2", self.log.url)})
        return self.model_copy(update={"log": log}).model_dump_json(indent=2)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over what the file gave, which arrives as init values."""
        return (env_settings, init_settings)


def is_weak(token: str) -> bool:
    """Whether a secret that somebody chose can be guessed: short, or of few different characters."""
    return len(token) < MIN_TOKEN_CHARS or len(set(token)) < _MIN_DIFFERENT_CHARS


def load_settings(path: Path | None, overrides: dict[str, dict[str, Any]] | None = None) -> Settings:
    """Settings from a file (if given), the environment, and the command line's `overrides` by section.

    Raises ConfigError naming the file, the setting and what is wrong with it.
    """
    _check_environment(os.environ)
    from_file: dict[str, Any] = {}
    if path is not None:
        try:
            from_file = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid TOML: {error}") from error
    try:
        settings = Settings(**from_file)
        for section, values in (overrides or {}).items():
            if values:
                current = getattr(settings, section)
                try:
                    merged = type(current).model_validate(current.model_dump() | values)
                except ValidationError as error:
                    raise _config_error("command line", error, section) from error
                settings = settings.model_copy(update={section: merged})
        return settings
    except ValidationError as error:
        raise _config_error("settings" if path is None else str(path), error) from error


def _config_error(where: str, error: ValidationError, *section: str) -> ConfigError:
    lines = [f"{'.'.join(str(part) for part in (*section, *item['loc']))}: {item['msg']}" for item in error.errors()]
    return ConfigError(f"{where}: " + "; ".join(lines))


def dump_settings(settings: Settings) -> str:
    """Everything, keys in the clear: for the environment of worker processes only."""
    values = settings.model_dump(mode="json")
    if settings.log.encryption_key is not None:
        values["log"]["encryption_key"] = settings.log.encryption_key.get_secret_value()
    if settings.upstream.api_key is not None:
        values["upstream"]["api_key"] = settings.upstream.api_key.get_secret_value()
    if settings.metrics.token is not None:
        values["metrics"]["token"] = settings.metrics.token.get_secret_value()
    return json.dumps(values)


def restore_settings(dumped: str) -> Settings:
    """The settings of `dump_settings`, as they were resolved: neither file nor environment is asked again."""
    values = json.loads(dumped)
    sections = {
        name: type(field.default).model_validate(values[name])
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, _Section)
    }
    return Settings.model_construct(**{**values, **sections})


def _check_environment(names: Iterable[str]) -> None:
    """Raises ConfigError for a variable that is spelt like a setting of a section that there is not.

    Names without a double underscore are left alone: others set such, container orchestrators for one.
    """
    known = {f"STEER_{name.upper()}" for name in Settings.model_fields}
    for name in names:
        section, separator, _ = name.upper().partition("__")
        if section.startswith("STEER_") and separator and section not in known:
            raise ConfigError(
                f"the environment variable {name} is no setting: sections are {', '.join(sorted(known))}, and a "
                "setting is named like STEER_POLICY__MODE"
            )
