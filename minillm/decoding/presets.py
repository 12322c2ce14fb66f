"""Presets: named sampling settings.

"factual" stays near the most probable tokens, "creative" samples more widely, "balanced" is between. Each is a
`SamplingConfig`; `dataclasses.replace` changes a field of it.
"""

from minillm.decoding.sampler import SamplingConfig

PRESETS = {
    "factual": SamplingConfig(temperature=0.3, top_k=20, top_p=0.85, repetition_penalty=1.1),
    "balanced": SamplingConfig(temperature=0.7, top_k=50, top_p=0.9, repetition_penalty=1.15),
    "creative": SamplingConfig(temperature=1.0, top_k=100, top_p=0.95, repetition_penalty=1.2),
}
