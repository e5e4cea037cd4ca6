"""Addresses of the hostile web, and what its name server answers."""

HOME = "127.0.6.250"
"""The address of hosts with a name: in a network that the policy allows, and served."""
CANARY = "127.0.9.7"
"""An address of this machine that no policy names, where something listens that nothing may ask."""

NAMES: dict[str, list[list[str]]] = {
    "link-local.hostile.test": [["169.254.10.10"]],
    "loopback.hostile.test": [[CANARY]],
    "mapped.hostile.test": [[f"::ffff:{CANARY}"]],
    "metadata-v6.hostile.test": [["fd00:ec2::254"]],
    "metadata.hostile.test": [["169.254.169.254"]],
    "mixed.hostile.test": [["169.254.169.254", HOME, CANARY]],
    "private.hostile.test": [["10.0.0.1", "192.168.1.1", "fc00::1"]],
    "rebinding.hostile.test": [*[[HOME], [CANARY]] * 50],
    "unanswered.hostile.test": [[]],
}
"""The answers to the first, second, ... question for a name; the last one stays."""
