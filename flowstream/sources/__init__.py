"""Sources: what an app may pass to `stream()` and the others, and how each is read.

=============================================  ===========================================
what                                           how it is read
=============================================  ===========================================
async iterable or async generator              iterated in the event loop, then closed
async generator function of no arguments       called when the stream starts, then as above
producer function ``async def f(out)``         called with the stream's `Outlet`
sync iterable or generator                     iterated in worker threads, in batches
generator function of no arguments             called and iterated in worker threads
list, tuple, range                             iterated in the event loop
list of topics                                 subscribed to together, with one id for all
Trio receive channel                           received from, then closed
a topic                                        subscribed to, without a task
your own `Source`                              run
=============================================  ===========================================

Producers that many apps need are here, too. They are imported when you use them. The libraries that
they need are extras, and are imported when they are called:

=================================================  ==========================================
what                                               extra
=================================================  ==========================================
`openai_tokens`, `openai_responses`                ``openai``
`anthropic_tokens`                                 ``anthropic``
`local_tokens`: a language model in this process   ``llm-local``
`sqlite_rows`
`postgres_rows`, `postgres_notifications`          ``postgres``
`file_chunks`, `follow`, `process_output`
=================================================  ==========================================

And shapes, which go around a source: `throttle`, `batched`, `merge`, `with_timeout`, `progress`,
`checked`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowstream._lazy import lazy_names
from flowstream.sources._as_source import as_source, resumable
from flowstream.sources._resumable import Resumable
from flowstream.sources._source import Source
from flowstream.sources._source_like import SourceLike
from flowstream.sources.shapes.batched import batched
from flowstream.sources.shapes.checked import checked
from flowstream.sources.shapes.merge import merge
from flowstream.sources.shapes.progress import Progress, progress
from flowstream.sources.shapes.throttle import throttle
from flowstream.sources.shapes.with_timeout import with_timeout
from flowstream.sources.threads._pools import (
    ThreadPoolStatistics,
    ThreadStatistics,
    closing_limiter,
    cursor_limiter,
    file_limiter,
    process_limiter,
    thread_limiter,
    thread_statistics,
)

if TYPE_CHECKING:
    from flowstream.sources.files._file_chunks import file_chunks
    from flowstream.sources.files._follow import follow
    from flowstream.sources.llm.anthropic import anthropic_tokens
    from flowstream.sources.llm.llama import local_tokens
    from flowstream.sources.llm.openai import openai_tokens
    from flowstream.sources.llm.openai_responses import openai_responses
    from flowstream.sources.programs._process_output import process_output
    from flowstream.sources.rows.postgres import postgres_notifications, postgres_rows
    from flowstream.sources.rows.sqlite import sqlite_rows

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "anthropic_tokens": "flowstream.sources.llm.anthropic",
        "file_chunks": "flowstream.sources.files._file_chunks",
        "follow": "flowstream.sources.files._follow",
        "local_tokens": "flowstream.sources.llm.llama",
        "openai_responses": "flowstream.sources.llm.openai_responses",
        "openai_tokens": "flowstream.sources.llm.openai",
        "postgres_notifications": "flowstream.sources.rows.postgres",
        "postgres_rows": "flowstream.sources.rows.postgres",
        "process_output": "flowstream.sources.programs._process_output",
        "sqlite_rows": "flowstream.sources.rows.sqlite",
    },
)

__all__ = [
    # what a source is
    "Resumable",
    "Source",
    "SourceLike",
    "as_source",
    "resumable",
    # worker threads
    "ThreadPoolStatistics",
    "ThreadStatistics",
    "closing_limiter",
    "cursor_limiter",
    "file_limiter",
    "process_limiter",
    "thread_limiter",
    "thread_statistics",
    # producers
    "anthropic_tokens",
    "local_tokens",
    "openai_responses",
    "openai_tokens",
    "postgres_notifications",
    "postgres_rows",
    "sqlite_rows",
    "file_chunks",
    "follow",
    "process_output",
    # shapes
    "Progress",
    "batched",
    "checked",
    "merge",
    "progress",
    "throttle",
    "with_timeout",
]
