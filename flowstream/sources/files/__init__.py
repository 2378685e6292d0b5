"""Files as sources: the bytes of one, and what others append to one."""
