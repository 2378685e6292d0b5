"""ToolCalls: which piece belongs to which of an answer's tool calls.

OpenAI numbers the calls, and sends id and name with the first piece of each. Servers that
imitate it send id and name with each piece, or whole calls that all have the number 0 or
none, or no id; what comes out here is as OpenAI has it.
"""

from __future__ import annotations

from flowstream.llm import ToolCall


class ToolCalls:
    """The tool calls of one answer."""

    def __init__(self) -> None:
        self._count = 0
        self._latest: int | None = None  # the upstream's number of the latest piece's call
        # By the upstream's number: ours, and the call's id if it has one of the upstream's.
        self._known: dict[int | None, tuple[int, str | None]] = {}

    def piece(self, number: int | None, id: str | None, name: str | None, text: str) -> ToolCall:
        """Return the event for a piece of a call.

        Args:
            number: the upstream's for the call; None if it has none.
            id: the call's; None or empty if it is not said.
            name: the tool's; None or empty if it is not said.
            text: of the arguments.
        """
        if number is None:
            number = self._latest
        known = self._known.get(number)
        if known is None or (id and known[1] and id != known[1]):
            index = self._count
            self._count += 1
            self._known[number] = (index, id or None)
            self._latest = number
            return ToolCall(index, text, id or f"call_{index}", name or "")
        self._latest = number
        return ToolCall(known[0], text)
