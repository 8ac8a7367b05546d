"""Search at window level: poolwright and its peers on plants that are not the surrogate's."""
