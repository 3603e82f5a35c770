"""Work items on many workers: ``submit`` gives results, at least once each, kept by what they were made from."""

from mbdeploy.executing.opening import open_executor
from mbdeploy.executing.store import Store
from mbdeploy.executing.submitting import submit
from mbdeploy.executing.work import Done, Executor, Work

__all__ = ["Done", "Executor", "Store", "Work", "open_executor", "submit"]
