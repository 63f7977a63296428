"""The latent explorer: pick latents and strengths, and watch the answer hold, drift or restart.

Everything is callable without a front end (``core.Explorer``); ``app`` puts controls and one view around it.
"""
