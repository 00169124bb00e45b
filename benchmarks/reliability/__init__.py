"""What a running PlainMed does under too much load, and over a long time; tables for its docs."""
