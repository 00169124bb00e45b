"""Which request's work a replica does next, and in which thread; knows no models."""

__all__ = ["compute_thread", "fair_batcher", "single_flight"]
