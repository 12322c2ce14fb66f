"""What is learned, one object a task: data, batches, validation, model, objective and step that belong together."""
