"""The geometric engine: a skeleton and skinning weights from the shape alone, on the CPU.

Nothing is imported here, so that the worker can name the engine without its libraries.
"""

NAME = "geometric"
VERSION = "1.0.0"
