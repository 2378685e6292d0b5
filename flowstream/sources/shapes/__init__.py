"""Shapes: sources around a source, which slow it down, group, time, count or check it."""
