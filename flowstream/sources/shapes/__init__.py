"""Shapes: wrappers around a source, which slow down, group, time, count or check its items."""
