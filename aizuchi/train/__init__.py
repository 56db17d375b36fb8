"""Training: Moshi from scratch, from a checkpoint or by LoRA, and the Mimi codec."""
