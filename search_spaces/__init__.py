"""Search spaces: blocks, architectures and the decisions that lead to them."""
