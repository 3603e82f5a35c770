"""Where models run: a provider (``cpu``, ``cuda`` …) on a target (``local``, ``qemu:haswell`` …), by table."""

from mbdeploy.targets.job import Answer, Job, Ran, Session, Target
from mbdeploy.targets.providers import PROVIDERS, Provider, parse_provider
from mbdeploy.targets.table import TARGETS, find_device, open_target

__all__ = [
    "PROVIDERS",
    "TARGETS",
    "Answer",
    "Job",
    "Provider",
    "Ran",
    "Session",
    "Target",
    "find_device",
    "open_target",
    "parse_provider",
]
