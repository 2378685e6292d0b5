"""The chaos ledger: does a log keep its promises to topics while everything around it fails?

::

    publishers ──► the log ◄── workers (3) ──► clients (30 or 60, in the driver)
        │                                              │
        └── what was sent, and acknowledged            └── what each one got
                          └───────► the truth ◄────────┘

Publishers and workers are processes. The driver starts them, breaks them, and reads along. Clients
are tasks of the driver, on sockets, each with an account of its own. At the end the truth and the
accounts are compared: each id has one body, nobody got an id twice, order was kept, and whoever was
there got each acknowledged event, or was told of a gap at its place. Nothing here asks flowstream
what it thinks: ids are read as text, and bodies say which event they are.

Run it by hand from the repository's root::

    python -m tests.logs.chaos --events 500000 --seed 7
    python -m tests.logs.chaos --log valkey --events 500000 --freeze 10

A log in a broker may lose its end, when the broker does. Then it begins a new epoch; who read on is
told so (a gap that counts nothing), and no id is given twice. What an epoch has lost is what lies
at and behind the first number of a later one.

=================  ============================================================
module             what it is
=================  ============================================================
`plan`             what one run does: its log, its sizes, its faults, its seed
`disguise`         what a process pretends: a clock, a boot, a release, a planted fault
`streams`          the topics, and the app that streams them
`worker`           the module that ``flowstream serve`` serves
`publisher`        a process that publishes and says what became of it
`hand`             a process that does one thing to the log: trim, look
`truth`            what was sent, acknowledged and seen
`account`          what one client got
`client`           one client, on sockets
`processes`        starts, stops and kills processes
`faults`           what is done to them, and to their machine
`store`            where the log lies: on a disk, or in a broker
`disk`             a small disk, for SQLite
`broker`           a broker, and how it can be broken
`valkey_broker`    Valkey or Redis
`postgres_broker`  Postgres
`broker_faults`    what is done to a broker
`run`              all of it together, and the report
=================  ============================================================
"""
