"""Graph -> Plan: where tensors lie, which algorithm computes each layer, and why. Runs nothing."""

from waterline.planner.build import PlanOptions, plan, views_of
from waterline.planner.plan import Buffer, Candidate, Plan, Step
from waterline.planner.storage import Storage

__all__ = ["Buffer", "Candidate", "Plan", "PlanOptions", "Step", "Storage", "plan", "views_of"]
