"""Graph -> Plan: where tensors lie, which algorithm computes each layer, and why. Runs nothing."""

from waterline.planner.build import PlanOptions, plan
from waterline.planner.measurements import Measurements, Timing
from waterline.planner.plan import Buffer, Candidate, Plan, Step
from waterline.planner.storage import Storage
from waterline.planner.target import CpuTarget, Target, target_of, views_of
from waterline.planner.tuning import TuningTask, tuning_tasks

__all__ = [
    "Buffer",
    "Candidate",
    "CpuTarget",
    "Measurements",
    "Plan",
    "PlanOptions",
    "Step",
    "Storage",
    "Target",
    "Timing",
    "TuningTask",
    "plan",
    "target_of",
    "tuning_tasks",
    "views_of",
]
