"""Recipes: how the models that aizuchi ships were made, runnable end to end."""
