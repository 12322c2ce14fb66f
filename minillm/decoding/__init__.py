"""From logits to text: transforms of the distribution, the draw, when to stop, and the loop around them."""
