"""What can be wrong with a run that somebody asks for. A view that lets it pass has its status."""

from __future__ import annotations

from flowstream._errors import NotFoundError, PublicError


class NoSuchRunError(NotFoundError, KeyError):
    """There is no such run: it never was, nobody read it, or it ended long ago. 404."""

    def __init__(self) -> None:
        super().__init__("There is no such run.", code="no_such_run")

    def __str__(self) -> str:
        return Exception.__str__(self)  # that of KeyError would show a repr


class RunExistsError(PublicError):
    """A run of that key is still running; `Runs.get_or_start` attaches to it. 409."""

    def __init__(self) -> None:
        super().__init__("run_exists", "This is running already.", status=409)


class TooManyRunsError(PublicError):
    """`max_running` runs are running. 503."""

    def __init__(self) -> None:
        super().__init__("too_many_runs", "Too much is going on now.", retryable=True, status=503)
