"""How good a system is: turn-taking, codec quality, speech, and the report that shows it.

Nothing here needs a network. Each metric's own package is optional (extra `eval`); a metric whose package
is missing is left out and counted, and so is a file that can't be read.
"""
