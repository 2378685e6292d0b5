"""The buffer between a producer and one client: its queues, its bounds, the producer's end."""
