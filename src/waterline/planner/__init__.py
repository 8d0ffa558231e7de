"""Graph -> Plan: where tensors lie, which algorithm computes each layer, and why. Runs nothing."""

from waterline.planner.build import PlanOptions, plan, views_of
from waterline.planner.measurements import Measurements, Timing
from waterline.planner.plan import Buffer, Candidate, Plan, Step
from waterline.planner.storage import Storage
from waterline.planner.tuning import TuningTask, tuning_tasks

__all__ = [
    "Buffer",
    "Candidate",
    "Measurements",
    "Plan",
    "PlanOptions",
    "Step",
    "Storage",
    "Timing",
    "TuningTask",
    "plan",
    "tuning_tasks",
    "views_of",
]
