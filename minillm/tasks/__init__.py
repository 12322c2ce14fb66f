"""Tasks: what a run learns. Each joins data, batches, validation, model, objective and step."""
