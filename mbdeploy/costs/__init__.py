"""What a network costs, from its ONNX graph: pure functions, no torch, no runtime."""
