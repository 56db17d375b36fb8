"""Dialogues, words on frames, augmentation and token shards: what training reads."""
