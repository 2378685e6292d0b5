"""What clients may do to the server, how they do it, and how it is judged.

::

    a seed and a number ─► kinds ─► Conversation (a value) ─► clients ─► the server ─► judge

Each kind of conversation has a module that makes it. A conversation is printed as a value when
it fails, and `conversation(seed, number)` makes it again.
"""
