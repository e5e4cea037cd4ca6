"""What holds for all tests."""

import os

# They fork processes that train, which a process that has run autograd cannot: `make test-training` runs them alone.
collect_ignore = [] if os.environ.get("DROMAIUS_TRAINING") else ["trainer/test_engine.py", "trainer/test_pretrain.py"]
