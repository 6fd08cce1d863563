"""The metrics that rounding moves, by what they are measured on."""

BLOCK = ("block_error", "worst_expert_error", "worst_token_error")
PASS = ("logit_error", "worst_position_error", "router_logit_error", "worst_router_logit_error")
FREE = ("median_kl_nats",)


def of_short(metric: str) -> str:
    """The same of a sequence of a few tokens, whose first positions see little: one of them makes its error."""
    return f"{metric}, short"
