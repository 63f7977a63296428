"""The latent explorer: pick latents and strengths, and watch the answer hold, drift or restart.

Everything is callable without a front end (``core.Explorer``); ``app`` puts controls and one view around it.
"""

import os

# oneDNN keeps up to 1024 compiled products, and an explorer meets ever new lengths: 200 MB more in three minutes.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
