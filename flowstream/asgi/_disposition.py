"""Content-Disposition: the name under which a browser saves a response.

A header is Latin-1, but a name may have any characters. RFC 6266 has two forms: ``filename="..."``
for ASCII, and ``filename*=UTF-8''...`` (RFC 8187) for all others. Every browser prefers the second
if both are there. The first is for other clients, such as curl, which reads only that one.

A user may have typed the name. So nothing in it is an error: characters that would make it a path,
forge a header, or show a false file extension are replaced.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

__all__ = ["attachment"]

# RFC 8187 § 3.2.1, attr-char, without letters and digits.
_PLAIN = "!#$&+-.^_`|~"

# Path separators, and what Windows allows in no name. (A colon there begins an alternate stream.)
_REPLACED = dict.fromkeys(map(ord, '/\\:*?"<>|'), "_")

# Most file systems bound a name to 255 bytes.
_MAX_BYTES = 240

_NAMELESS = "download"


def attachment(filename: str) -> str:
    """Return the value of a Content-Disposition header that makes a browser save a response.

    An underscore replaces path separators, quotes and other characters that no name may have.
    Control characters, and those that change the direction of text, are left out. A name of more
    than 240 bytes loses the end of its stem. If nothing is left, the name is ``download``.

    Args:
        filename: the name, of any characters.

    Raises:
        TypeError: it is not a `str`.
    """
    if not isinstance(filename, str):
        raise TypeError(f"filename must be a str, not {type(filename).__name__}")
    name = _bounded(_clean(filename)) or _NAMELESS
    ascii = _ascii(name)
    value = f'attachment; filename="{ascii}"'
    if ascii == name:
        return value
    return f"{value}; filename*=UTF-8''{quote(name, safe=_PLAIN)}"


def _clean(filename: str) -> str:
    """Return `filename` without characters that a name may not have."""
    text = str.__str__(filename).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    # Cc are control characters, Zl and Zp line ends. Cf are formatting characters: after an RLO,
    # "fdp.exe" is shown as "exe.pdf".
    # Joiners are Cf, too, but are kept: emoji and some scripts need them, and they change no
    # direction.
    kept = "".join(
        character
        for character in text
        if character in "\u200c\u200d"
        or unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp")
    )
    # Windows drops blanks and dots at the end. Dots at the beginning hide a file, or name the
    # folder above.
    return kept.translate(_REPLACED).strip().lstrip(".").rstrip(". ")


def _bounded(name: str) -> str:
    """Return `name`, without the end of its stem if it is too long."""
    if len(name.encode()) <= _MAX_BYTES:
        return name
    stem, dot, ending = name.rpartition(".")
    if not stem or len(ending) > 20:
        stem, dot, ending = name, "", ""
    room = _MAX_BYTES - len(f"{dot}{ending}".encode())
    return f"{stem.encode()[:room].decode(errors='ignore')}{dot}{ending}"


def _ascii(name: str) -> str:
    """Return `name` in ASCII: letters lose their accents, other characters become underscores."""
    letters = (
        character
        for character in unicodedata.normalize("NFKD", name)
        if not unicodedata.combining(character)
    )
    # Some clients take "%41" for the letter "A".
    return "".join(
        character if character.isascii() and character.isprintable() and character not in '%"\\/'
        else "_"
        for character in letters
    )  # fmt: skip
