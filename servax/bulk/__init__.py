"""Many sounds from files to files: on the CPUs of this machine, or by Ray Data on many machines."""

from servax.bulk.files import Outcome, purify_file
from servax.bulk.orders import Order, orders_of
from servax.bulk.processes import purify_here

__all__ = ["Order", "Outcome", "orders_of", "purify_file", "purify_here"]
