"""One file a protocol: each turns a caller's messages into audio and settings, and events into messages.

An adapter knows messages and events and never touches the model.
"""
