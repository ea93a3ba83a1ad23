"""Compiling the stages of a recipe for devices that are not there: what fits, what it costs, and what would fit better.

`rxt compile-check` does this in a process of its own, whose environment names the devices before JAX is imported.
"""
