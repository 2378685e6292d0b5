"""A log on a server of Valkey or Redis, and the client that it speaks through."""
