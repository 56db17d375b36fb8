"""What every test runs under. Set before torch is imported, which reads these once."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers are the parallelism
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that wants the network has to fail
os.environ.setdefault("NO_TORCH_COMPILE", "1")  # the moshi package: compiling costs more than it saves here

# No deadline: a test may not depend on how busy the machine is. Derandomized: a failure repeats.
settings.register_profile("aizuchi", deadline=None, derandomize=True, database=None)
settings.load_profile("aizuchi")
