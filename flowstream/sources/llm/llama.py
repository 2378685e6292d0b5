"""A language model in this process: the tokens of llama.cpp, as a source.

A model computes one answer at a time, because its state holds what it has read and said so far. So
streams that share a model take turns, in the order in which they came. A stream that waits holds no
thread, and leaves the line when its client leaves. The model's thread computes the next tokens
while earlier ones are sent (see `Conveyor`), and halts when the client's buffer is full. So a
client that stops reading halts the model, and keeps its turn until ``stall_timeout`` ends the
stream.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import trio

from flowstream._errors import PublicError, missing_extra
from flowstream.buffer._outlet import Outlet
from flowstream.llm import Done, ModelEvent, Usage
from flowstream.sources._source import Source
from flowstream.sources.llm._conveyor import Conveyor
from flowstream.sources.llm.openai import ChatReader

__all__ = ["local_tokens"]

# Tokens that the model may be ahead of the client's buffer. Enough that it never waits for the
# event loop, and few that are computed for a client that has left.
_AHEAD = 8

# llama.cpp's default is 512, which a chat soon fills. The model's own context may be a hundred
# thousand, which takes gigabytes at once.
_CONTEXT = 4096

# Seconds after which a thread that waits for a model, used by another Trio run, checks whether to
# go on.
_PATIENCE = 0.05


def local_tokens(
    model: Any,
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    max_tokens: int = 512,
    **options: Any,
) -> Source:
    """Return the answer of a language model that runs in this process.

    The stream's items are those of `flowstream.llm`: a `Token` for each piece of text, a
    `ToolCall` for each piece of a call, and at the end `Usage` and `Done`. A slow client slows
    the model down. When the client leaves, the model stops after the current token, or while it
    still reads the prompt. Streams that share a model **wait** for their turn.

    Args:
        model: the path of a GGUF file. It is loaded in a thread when it is first needed, with a
            context of 4096 tokens, and stays loaded as long as the process lives. Or your own
            ``llama_cpp.Llama``, made with the settings that you want; nothing else may use it.
        prompt: a text, which the model continues; or, for a model that was trained to chat, the
            messages of a chat (``[{"role": "user", "content": "..."}]``), the last of which it
            answers.
        max_tokens: most tokens of the answer.
        options: further arguments of llama-cpp-python's ``create_completion`` or
            ``create_chat_completion``, such as ``temperature``, ``stop``, ``seed`` or ``tools``.

    Raises:
        MissingExtraError: `model` is a path, and llama-cpp-python is not installed.
        FileNotFoundError: there is no such file.
        TypeError, ValueError: another argument is not what is said above.
        PublicError: while it streams: ``context_too_long`` (status 413), the prompt
            is longer than the model can take.
    """
    if not isinstance(prompt, str):
        _check_messages(prompt)
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        raise TypeError(f"max_tokens must be an int, not a {type(max_tokens).__name__}")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    if taken := {"messages", "stream"} & options.keys():
        raise TypeError(f"{taken.pop()} is not for the caller to say: local_tokens() does")
    opened: Callable[[], Any]
    if isinstance(model, (str, os.PathLike)):
        path = os.path.realpath(model)
        if find_spec("llama_cpp") is None:
            raise missing_extra("local_tokens()", "llm-local")
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no model at {path}")
        desk = _desk_for(path, _desks_by_path)
        opened = partial(desk.load, path)
    elif callable(getattr(model, "create_chat_completion", None)):
        desk = _desk_for(model, _desks_by_model)

        def opened() -> Any:
            return model

    else:
        raise TypeError(
            "model must be the path of a GGUF file or a llama_cpp.Llama, "
            f"not a {type(model).__name__}"
        )
    return LocalTokens(desk, opened, prompt, {"max_tokens": max_tokens, **options})


def _check_messages(messages: Any) -> None:
    if isinstance(messages, (bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TypeError(
            f"prompt must be text or a list of messages, not a {type(messages).__name__}"
        )
    if not messages:
        raise ValueError("there is no message to answer")
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise TypeError(f"a message is a dict with a role and a content, not {message!r}")


class LocalTokens(Source):
    """The answer of a model to one prompt; made by `local_tokens`.

    Args:
        desk: gives streams their turn with the model.
        model: returns the loaded model; called in its thread.
        prompt: text or messages.
        options: further arguments of the model's function.
    """

    def __init__(
        self, desk: _Desk, model: Callable[[], Any], prompt: Any, options: dict[str, Any]
    ) -> None:
        self._desk = desk
        self._model = model
        self._prompt = prompt
        self._options = options

    async def run(self, out: Outlet) -> None:
        """**Wait** for the model, and put its answer into `out`."""
        turn = self._desk.turn()
        conveyor = Conveyor(_AHEAD)
        await turn.acquire_on_behalf_of(conveyor)
        # The turn ends with the thread, which may be later than the stream.
        conveyor.start(
            partial(self._answer, conveyor), then=partial(turn.release_on_behalf_of, conveyor)
        )
        try:
            await conveyor.carry(out)
        finally:
            await conveyor.stop()  # noqa: ASYNC102  # see _shielding.py

    def _answer(self, conveyor: Conveyor) -> None:
        """Compute the answer. Runs in the thread."""
        with self._desk.held(conveyor) as held:
            if not held:
                return
            model = self._model()
            begin = (
                partial(model.create_completion, self._prompt)
                if isinstance(self._prompt, str)
                else partial(model.create_chat_completion, messages=list(self._prompt))
            )
            chunks = None
            try:
                with _reading(model, conveyor) as has_read:
                    chunks = begin(stream=True, **self._options)
                    for event in _events(chunks, model):
                        has_read()
                        if not conveyor.put(event):
                            return
            except RuntimeError:
                if not conveyor.over:  # otherwise the answer is reported as cut short
                    raise
            except ValueError as error:
                if "context window" not in str(error):  # there is no class for this error
                    raise
                raise PublicError(
                    "context_too_long", "This is more text than the model can take.", status=413
                ) from error
            finally:
                _close(chunks)  # before another answer begins


class _Desk:
    """Lets streams take turns with one model."""

    __slots__ = ("__weakref__", "_lock", "_model")

    def __init__(self) -> None:
        # Keeps two threads from using one model. Streams of one Trio run wait for their turn
        # without a thread. This is for other runs in the process, and for a thread that an ended
        # run has left behind.
        self._lock = threading.Lock()
        self._model: Any = None

    def turn(self) -> trio.CapacityLimiter:
        """Return the limiter of this Trio run. To hold it is to have the model."""
        try:
            turns = _turns.get()
        except LookupError:
            turns = WeakKeyDictionary()
            _turns.set(turns)
        if self not in turns:
            turns[self] = trio.CapacityLimiter(1)
        return turns[self]

    @contextmanager
    def held(self, conveyor: Conveyor) -> Iterator[bool]:
        """Keep other threads out; yield False if nobody wants the answer any more."""
        while not self._lock.acquire(timeout=_PATIENCE):
            if conveyor.over:
                yield False
                return
        try:
            yield not conveyor.over
        finally:
            self._lock.release()

    def load(self, path: str) -> Any:
        """Return the model at `path`, which is loaded once. Call it only while it is `held`."""
        if self._model is None:
            # Only when it is needed, and not in the event loop: the import takes a while.
            llama = import_module("llama_cpp").Llama
            self._model = llama(model_path=path, n_ctx=_CONTEXT, verbose=False)
            # Otherwise it closes itself when half of Python is gone, and prints errors.
            atexit.register(self._unload)
        return self._model

    def _unload(self) -> None:
        if self._lock.acquire(timeout=_PATIENCE):  # else a thread uses it to the very end
            _close(self._model)


_turns: trio.lowlevel.RunVar[WeakKeyDictionary[_Desk, trio.CapacityLimiter]] = trio.lowlevel.RunVar(
    "flowstream models"
)
_desks_by_path: dict[str, _Desk] = {}
_desks_by_model: WeakKeyDictionary[Any, _Desk] = WeakKeyDictionary()
_desks_lock = threading.Lock()


def _desk_for(key: Any, desks: Any) -> _Desk:
    with _desks_lock:
        desk: _Desk = desks.setdefault(key, _Desk())
        return desk


@contextmanager
def _reading(model: Any, conveyor: Conveyor) -> Iterator[Callable[[], None]]:
    """Make the model stop reading its prompt when nobody wants the answer.

    A prompt may take many times as long as a token. llama.cpp calls back during its arithmetic,
    hundreds of times a token, so this is only for the prompt: call the result when the prompt has
    been read.
    """
    llama = sys.modules.get("llama_cpp")
    context, set_callback = getattr(model, "ctx", None), None
    if context is not None:
        set_callback = getattr(llama, "llama_set_abort_callback", None)
    if llama is None or set_callback is None:
        yield lambda: None
        return
    asked = llama.ggml_abort_callback(lambda _: conveyor.over)  # keep a reference, since C has it
    set_callback(context, asked, None)
    is_set = True

    def has_read() -> None:
        nonlocal is_set
        if is_set:
            is_set = False
            set_callback(context, llama.ggml_abort_callback(), None)

    try:
        yield has_read
    finally:
        has_read()


def _events(chunks: Iterable[Mapping[str, Any]], model: Any) -> Iterator[ModelEvent]:
    """Yield the events in llama.cpp's chunks, of a chat or of a text."""
    read: int | None = None  # tokens of the prompt
    reader = ChatReader()
    for chunk in chunks:
        if read is None:
            read = _position(model)
        yield from reader.read_object(chunk)
        if reader.failure is not None:
            raise reader.failure
    yield from reader.rest()
    known = _position(model)
    if read is not None and known is not None:
        # At its limit it no longer reads its own last token.
        yield Usage(read, known - read + (reader.reason == "length"))
    yield Done(reader.reason or "other")


def _position(model: Any) -> int | None:
    """Return how many tokens of this conversation the model has read; None if unknown."""
    position = getattr(model, "n_tokens", None)
    return position if isinstance(position, int) else None


def _close(what: Any) -> None:
    close = getattr(what, "close", None)
    if close is not None:
        close()
