"""A model in the form of Hugging Face's hub: the code that `trust_remote_code` loads, and what writes the folder."""
