"""Real servers to test against: Valkey, Redis, Sentinel, Postgres and PgBouncer.

Each is there already (the environment names its URL), or a test starts one of its own: with the
program on PATH or where Debian puts it, or with the one of a wheel. A server of one's own can be
broken: killed, frozen, restored from an older copy, replaced by a replica.

==============  ==========================================================================
module          what it is
==============  ==========================================================================
`programs`      finds the servers' programs
`own_process`   one process: start, kill, freeze
`key_value`     a Valkey or Redis server
`wire`          a connection to one, for tests
`sentinels`     the Sentinels that watch some
`own_postgres`  a Postgres server
`pgbouncer`     PgBouncer in front of one
`proxy`         a front for any server: cut it, hold it, point it elsewhere, TLS
`certificates`  of a server and its clients
`fixtures`      all of it for pytest
==============  ==========================================================================

All methods of these objects **block**, for up to some seconds. In a Trio task, call them by
``trio.to_thread.run_sync``.
"""
