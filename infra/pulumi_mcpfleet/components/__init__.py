"""The components: one for each logical entity of a stack, each with a frozen Args and typed outputs."""
