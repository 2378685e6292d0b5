"""Tasks: what starts them, wakes them, times them, tries them again and tells how they failed."""
