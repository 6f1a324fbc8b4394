"""What leaves hfkit for other programs: merged weights, GGUF with a Modelfile, ONNX; never a pickled file."""
