"""Which layers deserve INT8: what can be kept in float, what each choice costs and gains, and the best of them."""
