"""Which request's work a replica does next, and on which thread; knows no models."""

__all__ = ["compute_thread", "fair_batcher", "fair_executor", "single_flight"]
