"""What is measured, as the settings say: the process's metrics, what drift is compared with, and who may look."""

import logging

from detector.artifact import Artifact
from detector.drift import DriftMonitor, Reference
from detector.drift_reference import find_reference
from detector.errors import ArtifactError, InputError
from proxy.addresses import is_loopback
from proxy.errors import ConfigError
from proxy.log import InterventionLog
from proxy.metrics import Metrics
from proxy.scrape import MetricsPage
from proxy.settings import Settings
from steer.policy import Policy

logger = logging.getLogger("steer.proxy")

# A window of little traffic ends all the same: figures of last week say nothing about today.
_WINDOW_S = 86_400.0


def make_metrics(settings: Settings, policy: Policy, artifact: Artifact | None) -> Metrics:
    """The metrics of one process. Raises ConfigError for a reference that can't be used."""
    reference = None if artifact is None else _reference(settings.metrics.drift_reference, artifact)
    if reference is not None and policy.threshold < reference.stop:
        logger.warning(
            "drift is not measured: with a threshold of %g streams are halted earlier than the reference's, at %g; "
            "give metrics.drift_reference a baseline of your own",
            policy.threshold,
            reference.stop,
        )
        reference = None
    if reference is None:
        return Metrics()
    return Metrics(DriftMonitor(reference, settings.metrics.drift_window_traces, _WINDOW_S))


def make_page(settings: Settings, metrics: Metrics, log: InterventionLog) -> MetricsPage | None:
    """`/metrics`; None where it is turned off."""
    if not settings.metrics.enabled:
        return None
    token = settings.metrics.token
    if token is None and not is_loopback(settings.server.host):
        logger.warning("beyond loopback /metrics asks for an operator's key: make one, or set metrics.token")
    return MetricsPage(metrics, log, None if token is None else token.get_secret_value())


def _reference(name: str, artifact: Artifact) -> Reference | None:
    try:
        return find_reference(name, artifact)
    except (ArtifactError, InputError) as error:
        raise ConfigError(f"metrics.drift_reference: {error}; or say ordinary, or all") from error
