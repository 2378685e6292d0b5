"""Runs: producers that outlive the request that started them."""
