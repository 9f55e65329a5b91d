"""Cost of a method: learned parameters, pictures per second, peak memory.

`measure` measures one method in this process, `measure_apart` measures several, each in its own process.
"""
