"""How `aizuchi-mini`, the model inside the package, is made; README.md here explains each stage."""
