"""What a method costs: learned numbers, pictures a second, peak memory.

`measure` measures one method in this process, `measure_apart` each of several in a process of its own.
"""
