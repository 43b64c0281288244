"""``python -m salama.chain.devnet``."""

import sys

from salama.chain.devnet.main import main

sys.exit(main())
