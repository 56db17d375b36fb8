"""Codec quality: what a codec does to speech, at what bit rate, and how it uses its codebooks."""
