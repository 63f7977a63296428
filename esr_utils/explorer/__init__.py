"""The latent explorer: pick latents and strengths, and watch the answer hold, drift or restart.

Everything is callable without a front end (``core.Explorer``); ``app`` puts controls and one view around it.
"""

import os

# oneDNN and its caller in torch each keep up to 1,024 compiled products, and an explorer meets ever new lengths.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "32")
