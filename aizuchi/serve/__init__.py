"""The server: many callers, one model, in real time.

One thread owns the engine (`scheduler`), input and output live in the event loop (`app`, `protocols`), and between
them are bounded queues with a stated policy for lag (`intake`, `caller`).
"""
