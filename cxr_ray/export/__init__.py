"""What others can load of a trained model: files, an ONNX graph, an MLflow model and a card."""
