"""Many sounds from files to files: in this process, or by Ray Data on many machines."""

from servax.bulk.files import Outcome, purify_file
from servax.bulk.orders import Order, orders_of

__all__ = ["Order", "Outcome", "orders_of", "purify_file"]
