"""The scheduler: the only process that assigns.

`Scheduler.run_once()` is one look at what changed and at what waits; `FailoverReport` says which hosts can fail.
"""

from lq_operator.controllers.scheduler.capacity import FailoverReport
from lq_operator.controllers.scheduler.records import debug_page
from lq_operator.controllers.scheduler.rounds import MANAGER, Scheduler

__all__ = ["MANAGER", "FailoverReport", "Scheduler", "debug_page"]
