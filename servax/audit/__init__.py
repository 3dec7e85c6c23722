"""The audit: how safe is a model really? Subjects, threats, stages, one verdict."""
