"""Weight quantization: the weights of a trained model packed into 8 or 4 bits, one format a file."""
