"""Compiled insides of modules for a step of conversation on a CPU: a few positions, every weight read once.

The modules' own forward passes say what is computed; the library does the same for one kind of input, float32
activations of a few positions without gradients. It is optional (see `library`), and tests hold both ways equal.
"""
