"""What this node offers to speak (BOLT 9)."""

from __future__ import annotations

from salama.channel.policy import Policy
from salama.wire.features import (
    BASIC_MPP,
    GOSSIP_QUERIES,
    OPTION_ANCHORS,
    OPTION_CHANNEL_TYPE,
    OPTION_DATA_LOSS_PROTECT,
    OPTION_PROVIDE_STORAGE,
    OPTION_SCID_ALIAS,
    OPTION_SHUTDOWN_ANYSEGWIT,
    OPTION_SIMPLE_CLOSE,
    OPTION_STATIC_REMOTEKEY,
    OPTION_SUPPORT_LARGE_CHANNEL,
    OPTION_UPFRONT_SHUTDOWN_SCRIPT,
    OPTION_ZEROCONF,
    PAYMENT_SECRET,
    VAR_ONION_OPTIN,
    Features,
)

FEATURES = Features.of(
    mandatory=(
        OPTION_DATA_LOSS_PROTECT,
        VAR_ONION_OPTIN,
        OPTION_STATIC_REMOTEKEY,
        PAYMENT_SECRET,
        OPTION_CHANNEL_TYPE,
    ),
    optional=(
        OPTION_UPFRONT_SHUTDOWN_SCRIPT,
        GOSSIP_QUERIES,
        BASIC_MPP,
        OPTION_SUPPORT_LARGE_CHANNEL,
        OPTION_ANCHORS,
        OPTION_SHUTDOWN_ANYSEGWIT,
        OPTION_PROVIDE_STORAGE,
        OPTION_SCID_ALIAS,
        OPTION_SIMPLE_CLOSE,
    ),
)
"""What we speak, in every context that BOLT 9 names; each context shows its part of it."""


def features_of(policy: Policy) -> Features:
    """What we speak with these terms: channels that are used before they confirm only where somebody is trusted."""
    offered = set(FEATURES.bits())
    if policy.zero_conf_peers:
        offered.add(OPTION_ZEROCONF.odd)
    return Features.of_bits(offered)
