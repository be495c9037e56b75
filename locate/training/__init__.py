"""Training a model on texts: preference data, what is trained, guards against a collapse, and the trainer itself.

The only room beside `model` that knows Hugging Face; it stands on TRL and PEFT (extra `train`).
"""
