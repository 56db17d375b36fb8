"""Full-duplex speech-text models of the Moshi family: run, serve and train them."""

__version__ = "0.1.0.dev0"
