"""Where a run's log lies: on a small disk, or in a broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .broker import Broker
from .disk import Disk, small_disk
from .plan import Plan

Store = Disk | Broker


@contextmanager
def open_store(plan: Plan) -> Iterator[Store]:
    """Give the place of a plan's log, empty, for a block of code."""
    if plan.log == "sqlite":
        with small_disk(plan.disk) as disk:
            yield disk
    else:
        with _start(plan) as broker:
            yield broker


def _start(plan: Plan) -> Broker:
    # Each needs a client of its servers, which a run over another log does without.
    if plan.log == "postgres":
        from .postgres_broker import PostgresBroker

        return PostgresBroker(query=plan.query)
    from .valkey_broker import ValkeyBroker

    return ValkeyBroker(plan.log, plan.query)


def url_of(store: Store, plan: Plan) -> str:
    """Return the URL of the log that lies there."""
    if isinstance(store, Broker):
        return store.url
    return f"sqlite:///{store.folder}/events.db{plan.query}"
