"""The ids of events: how they are written and read, alone and several joined to one."""
