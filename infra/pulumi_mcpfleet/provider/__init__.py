"""The component provider: the components for programs in any language, with a schema of every input and output."""
