"""Train, sweep and compare multimodal pneumonia classifiers on chest X-rays and reports."""

__version__ = "0.1.0"
