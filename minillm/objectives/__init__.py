"""What training minimizes: each objective maps a model and a batch to a sum and the count that it sums over."""
