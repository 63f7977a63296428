"""How much work a notebook does: one frozen settings object for each scale, ``quick``, ``standard`` and ``paper``."""

from esr_utils.scales.ablation import ABLATION, AblationScale
from esr_utils.scales.detection import DETECTION, DetectionScale
from esr_utils.scales.discovery import DISCOVERY, DiscoveryScale
from esr_utils.scales.explorer import EXPLORER, ExplorerScale
from esr_utils.scales.fine_tuning import FINE_TUNING, FineTuningScale
from esr_utils.scales.following import FOLLOWING, FollowingScale
from esr_utils.scales.meta_prompting import META_PROMPTING, MetaPromptingScale
from esr_utils.scales.steering import STEERING, SteeringScale
from esr_utils.scales.topic_steering import TOPIC_STEERING, TopicSteeringScale

__all__ = [
    "ABLATION",
    "AblationScale",
    "DETECTION",
    "DISCOVERY",
    "EXPLORER",
    "DetectionScale",
    "DiscoveryScale",
    "ExplorerScale",
    "FINE_TUNING",
    "FOLLOWING",
    "FineTuningScale",
    "FollowingScale",
    "META_PROMPTING",
    "MetaPromptingScale",
    "STEERING",
    "SteeringScale",
    "TOPIC_STEERING",
    "TopicSteeringScale",
]
