"""Transactions of an app that take 5 ms, 16 at a time, with an event in each or without.

``python _log_outbox.py DSN yes|no TRANSACTIONS`` prints how many were done a second. All events are
of one topic. A transaction is one message to the server, so that the server is measured and not
this program.
"""

from __future__ import annotations

import sys
import threading
import time

from psycopg import pq

CLIENTS = 16
SECONDS = 0.005


def main(dsn: str, outbox: str, transactions: int) -> float:
    """Return transactions a second."""
    publish = "select flowstream.publish('hot', '{\"of\": \"an order\"}'::jsonb);"
    text = (
        "begin; insert into plain(data) values('x');"
        f"{publish if outbox == 'yes' else ''} select pg_sleep({SECONDS}); commit"
    ).encode()
    left = iter(range(transactions))
    faults: list[str] = []
    ready = threading.Barrier(CLIENTS + 1)

    def client() -> None:
        connection = pq.PGconn.connect(dsn.encode())
        ready.wait()
        for _ in left:
            done = connection.exec_(text)
            if done.status != pq.ExecStatus.COMMAND_OK:
                faults.append(done.error_message.decode())
                break
        connection.finish()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for one in threads:
        one.start()
    ready.wait()
    began = time.perf_counter()
    for one in threads:
        one.join()
    if faults:
        raise SystemExit(faults[0])
    return transactions / (time.perf_counter() - began)


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
