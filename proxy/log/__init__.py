"""The intervention log: two-phase records of halts, durable before a client sees what follows."""

from proxy.log.query import Filters, Page, RequestCounts, Stats, Summary
from proxy.log.reader import LogReader
from proxy.log.store import InterventionLog

__all__ = ["Filters", "InterventionLog", "LogReader", "Page", "RequestCounts", "Stats", "Summary"]
