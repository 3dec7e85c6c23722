"""Many sounds from files to files: on the CPUs of this machine, or by Ray Data on many machines."""

from servax.bulk.files import purify_file
from servax.bulk.orders import Order, Outcome, Plan, plan_purification
from servax.bulk.processes import purify_here

__all__ = ["Order", "Outcome", "Plan", "plan_purification", "purify_file", "purify_here"]
